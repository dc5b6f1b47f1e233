"""The one entry point: `python launch.py --config=configs/sleep_smollm2.py`."""

if __name__ == "__main__":  # from here on Ctrl-C is quiet, also while the rest is loaded
    from sleep_jax.cli.interrupts import loads_quietly

    loads_quietly()

    from sleep_jax.cli.main import main

    main()
