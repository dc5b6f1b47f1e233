"""What a run needs around it: devices, checkpoints, figures, the command line."""

import os

# Addresses such as gs:// go through gcsfs; else epath imports TensorFlow wherever it is there.
os.environ.setdefault("EPATH_USE_TF", "false")
