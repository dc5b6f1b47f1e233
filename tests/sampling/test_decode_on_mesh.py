"""Tokens are decoded on a mesh as on one device, and weights do not move for it."""

import json
import os
import subprocess
import sys

import decode_on_mesh
import pytest

MESHES = ("1,8,1", "2,2,2", "1,2,4", "8,1,1")
DEVICES = {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    "PYTHONPATH": os.pathsep.join(sys.path),
}


@pytest.mark.slow
def test_completions_on_a_mesh_are_those_of_one_device():
    done = subprocess.run(
        [sys.executable, decode_on_mesh.__file__, *MESHES],
        env=os.environ | DEVICES,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = dict(zip(MESHES, map(json.loads, done.stdout.splitlines()), strict=True))
    for mesh, line in lines.items():
        assert line["is_equal"] and line["difference"] < 1e-5, mesh
        # For a token: less than a device's own share of the weights, were they gathered from it.
        assert line["sent"] < line["weights"] / 8, mesh
