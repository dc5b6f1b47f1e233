"""The command line: flags, help, config files, sweeps, interrupts."""
