"""The kernel of a TPU, interpreted, against attention with a mask."""

import os
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from sleep_jax.models.attend import forward_rows
from sleep_jax.models.attend_in_blocks import Segments
from sleep_jax.models.flash import flash_forward
from sleep_jax.models.mixer import SHARED_PREFIX

BATCH, KV, GROUP, H = 2, 2, 2, 8
KEYS = np.array([[SHARED_PREFIX] * 3 + [1] * 4 + [2] * 13, [0] + [1] * 6 + [0] * 3 + [2] * 10])


def differences(start, time, batch=BATCH):
    """Largest differences of (what is attended to, largest score, normaliser), of one row or both;
    blocks of 8, so that neither queries nor keys fill them."""
    rng, keys = np.random.default_rng(0), KEYS.shape[1]
    shapes = ((GROUP * time, H), (H, keys), (keys, H))
    q, key, value = (
        jnp.asarray(rng.normal(size=(batch, KV, *shape)), jnp.float32) for shape in shapes
    )
    queries = KEYS[:batch, start : start + time]
    segments = Segments.of_call(jnp.asarray(queries), jnp.asarray(KEYS[:batch]), start)
    want = forward_rows(q, key, value, segments.mask())
    got = flash_forward(q, key, value, segments, jnp.int32(start), block=8, interpret=True)
    is_token = np.tile(queries != 0, GROUP)[:, None, :, None]
    return [float(np.abs(np.where(is_token, a - b, 0)).max()) for a, b in zip(want, got)]


@pytest.mark.parametrize("start, time", [(0, 20), (9, 11)])
def test_flash_forward_equals_attention_with_a_mask(start, time):
    assert max(differences(start, time)) < 1e-5


@pytest.mark.slow
def test_flash_forward_on_8_devices_equals_attention_with_a_mask():
    script = (
        "import jax, test_flash\n"
        "from jax.sharding import AxisType\n"
        "mesh = jax.make_mesh((2, 1, 2), ('data', 'fsdp', 'tensor'), (AxisType.Auto,) * 3,"
        " devices=jax.devices()[:4])\n"
        "with jax.set_mesh(mesh):\n"
        "    both = test_flash.differences(9, 11), test_flash.differences(9, 11, batch=1)\n"
        "print(max(map(max, both)))\n"
    )
    devices = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    path = {"PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path])}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=os.environ | devices | path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1e-5
