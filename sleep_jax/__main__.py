"""The command `sleep-jax VERB RUN ...`, also `python -m sleep_jax VERB RUN ...`."""

import sys


def main() -> int:
    """Does what the command line asks for, and returns the exit status (`verbs.main`)."""
    # From here on Ctrl-C is quiet, also while the rest is loaded.
    from sleep_jax.cli.interrupts import loads_quietly

    loads_quietly()

    from sleep_jax.verbs.main import main as run_verb

    return run_verb()


if __name__ == "__main__":
    sys.exit(main())
