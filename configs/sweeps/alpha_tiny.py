"""A sweep on the small random model, in two minutes: alpha and lambda, two seeds.

python launch.py --sweep=configs/sweeps/alpha_tiny.py
"""

import pathlib
import runpy

PRESETS = pathlib.Path(__file__).parents[1]


def get_config():
    """That of sleep_tiny without dreams."""
    c = runpy.run_path(str(PRESETS / "sleep_tiny.py"))["get_config"]()
    c.dreaming.steps = 0
    return c


def get_sweep(hyper):
    """Three mixtures of both kinds of learning."""
    alpha = hyper.sweep("config.seeding.alpha", [0.5, 1.0, 1.0])
    lam = hyper.sweep("config.seeding.lam", [0.5, 0.5, 0.0])
    return hyper.product([hyper.seeds(2), hyper.zipit([alpha, lam])])
