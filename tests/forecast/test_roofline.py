import collections

import pytest

from sleep_jax.forecast.counts import Counts
from sleep_jax.forecast.roofline import (
    ACCELERATORS,
    Chip,
    chip_of,
    estimate,
    model_flops,
    peak_flops,
    slice_of,
)
from sleep_jax.interop.known_models import describe_model
from sleep_jax.models.decoder_config import DecoderConfig

CHIP = Chip(flops=100.0, hbm=1.0, bandwidth=10.0, link=5.0)


def counts(flops=0.0, size=0.0, **sent):
    return Counts(flops, size, collections.Counter(sent))


def test_the_slowest_part_sets_the_time():
    e = estimate(counts(200.0, 10.0, gather=3.0, reduce=2.0), CHIP, 320.0, 2)
    assert (e.products, e.memory, e.links) == (2.0, 1.0, 1.0)
    assert (e.seconds, e.bound) == (2.0, "products")
    assert e.mfu == 320 / (2 * 100 * 2.0)
    assert estimate(counts(200.0, 50.0), CHIP, 320.0, 2).bound == "memory"
    assert estimate(counts(200.0, 50.0, gather=30.0), CHIP, 320.0, 2).seconds == 6.0


def test_model_flops_by_hand():
    cfg = DecoderConfig(vocab=10, width=4, hidden=6, layers=3, heads=2, kv_heads=1, head_dim=2)
    # A layer and token: q and o 4x4 each, k and v 4x2 each, FFN 3 of 4x6, and 5 keys of 4, twice.
    layer = 2 * (4 * 4 * 2 + 4 * 2 * 2 + 3 * 4 * 6 + 2 * 5 * 4)
    assert model_flops(cfg, tokens=7, keys=5, scored=2) == 7 * 3 * layer + 2 * 2 * 4 * 10
    twice = model_flops(cfg, tokens=7, keys=5, scored=2, passes=2)
    assert twice == 2 * 7 * 3 * layer + 2 * 2 * 4 * 10
    one = model_flops(cfg, tokens=7, keys=5, scored=2, layers=1)
    assert one == 7 * layer + 2 * 2 * 4 * 10


def test_a_forward_pass_is_two_flops_a_parameter_and_token():
    cfg = describe_model("Qwen/Qwen3-8B", dtype="bfloat16")
    embedding, norms = 151936 * 4096, 36 * (2 * 4096 + 2 * 128) + 4096
    in_products = 8_190_735_360 - embedding - norms
    assert model_flops(cfg, tokens=1, keys=0, scored=1) == 2 * in_products


def test_slices():
    assert chip_of("v5e:4x4")[1] == 16 and chip_of("v5p:2x2x4")[1] == 16
    assert chip_of("v6e:2x4")[0].flops == 918e12
    for wrong in ("v5e", "v5e:", "v9:2x2", "v5e:4xx", "v5e:0x4"):
        with pytest.raises(ValueError, match="no TPU slice"):
            chip_of(wrong)


def test_peaks_of_devices_are_known_or_not_made_up():
    assert peak_flops("TPU v5 lite") == 197e12 and peak_flops("TPU v6 lite") == 918e12
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_flops("cpu") is None and peak_flops("TPU v99") is None


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("v5litepod-16", "v5e:4x4"), ("v5litepod-8", "v5e:2x4"), ("v5litepod-256", "v5e:16x16"),
        ("v6e-1", "v6e:1x1"), ("v4-32", "v4:2x2x4"), ("v5p-8", "v5p:2x2x1"),
        ("v5p-128", "v5p:4x4x4"), ("v5e:2x2", "v5e:2x2"), ("v5litepod-12", "v5litepod-12"),
        ("v9-8", "v9-8"), ("", ""),
    ],
)  # fmt: skip
def test_slice_of_takes_the_name_that_google_cloud_has(name, found):
    assert slice_of(name) == found
    if ":" in found:
        chip, cores = ACCELERATORS[found.partition(":")[0]]
        count = cores * chip_of(found)[1]
        assert name == found or name == f"{chip}-{count}"
