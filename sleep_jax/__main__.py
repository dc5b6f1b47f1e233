"""The command `python -m sleep_jax VERB RUN ...`."""

import sys

from sleep_jax.verbs.main import main

sys.exit(main())
