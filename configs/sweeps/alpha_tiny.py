"""A sweep over alpha and lambda with two seeds on the small random model.

    python launch.py --sweep=configs/sweeps/alpha_tiny.py

score   not meaningful: the weights are random
time    not measured; six runs, each shorter than one of sleep_tiny
memory  as sleep_tiny: 1.2 GiB
device  2 CPU cores; nothing is downloaded
"""

from configs import sleep_tiny


def get_config():
    """The settings of sleep_tiny without dreams."""
    c = sleep_tiny.get_config()
    c.dreaming.steps = 0
    return c


def get_sweep(hyper):
    """Imitation and distillation; distillation alone; distillation off-policy alone."""
    alpha = hyper.sweep("config.seeding.alpha", [0.5, 1.0, 1.0])
    lam = hyper.sweep("config.seeding.lam", [0.5, 0.5, 0.0])
    return hyper.product([hyper.seeds(2), hyper.zipit([alpha, lam])])
