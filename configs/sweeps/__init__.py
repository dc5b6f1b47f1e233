"""Sweeps: a preset with one more function, `get_sweep(hyper)`, that lists the runs to compare."""
