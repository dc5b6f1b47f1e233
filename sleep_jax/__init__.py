"""A day and a night for language models, in JAX."""

import os

# Addresses such as gs:// go through gcsfs; else epath imports TensorFlow wherever it is there.
os.environ.setdefault("EPATH_USE_TF", "false")
