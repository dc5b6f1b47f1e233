import collections

from sleep_jax.forecast.counts import Counts
from sleep_jax.forecast.roofline import estimate
from sleep_jax.runtime.hardware import Chip

CHIP = Chip(flops=100.0, hbm=1.0, bandwidth=10.0, link=5.0)


def counts(flops=0.0, size=0.0, **sent):
    return Counts(flops, size, collections.Counter(sent))


def test_estimate_takes_the_time_of_the_slowest_part():
    e = estimate(counts(200.0, 10.0, gather=3.0, reduce=2.0), CHIP, 320.0, 2)
    assert (e.products, e.memory, e.links) == (2.0, 1.0, 1.0)
    assert (e.seconds, e.bound) == (2.0, "products")
    assert e.mfu == 320 / (2 * 100 * 2.0)
    assert estimate(counts(200.0, 50.0), CHIP, 320.0, 2).bound == "memory"
    assert estimate(counts(200.0, 50.0, gather=30.0), CHIP, 320.0, 2).seconds == 6.0
