import json
import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from configs import sleep_tiny
from sleep_jax.models.sharding import AXES
from sleep_jax.runtime.mesh import make_mesh, mesh_shape

STEPS = "tests/runtime/sharded_steps.py"


@pytest.fixture
def config():
    return sleep_tiny.get_config()


def on(config, data, fsdp, tensor, rows=8):
    config.mesh.data, config.mesh.fsdp, config.mesh.tensor = data, fsdp, tensor
    config.seeding.batch_size = rows
    return config


def test_an_open_axis_takes_what_the_others_leave(config):
    assert mesh_shape(on(config, 1, -1, 1), 8) == (1, 8, 1)
    assert mesh_shape(on(config, 2, -1, 2), 8) == (2, 2, 2)
    assert mesh_shape(on(config, -1, 2, 4), 8) == (1, 2, 4)
    assert mesh_shape(on(config, 8, 1, 1), 8) == (8, 1, 1)


@pytest.mark.parametrize(
    "sizes, words",
    [
        ((1, 1, 1), r"make 1, but there are 8 devices"),
        ((3, -1, 1), r"mesh\.data=3, .* make 3, but there are 8"),
        ((-1, -1, 1), "-1 at most once"),
        ((0, -1, 1), "sizes of 1 or more"),
    ],
)
def test_sizes_that_make_no_mesh_are_refused(config, sizes, words):
    with pytest.raises(ValueError, match=words):
        mesh_shape(on(config, *sizes), 8)


def test_rows_that_do_not_spread_are_refused(config):
    with pytest.raises(ValueError, match=r"seeding\.batch_size=4 .* multiple of 8"):
        mesh_shape(on(config, 1, -1, 1, rows=4), 8)
    config.seeding.accumulate = 2
    with pytest.raises(ValueError, match="multiple of 16"):
        mesh_shape(on(config, 1, -1, 1, rows=8), 8)
    assert mesh_shape(on(config, 1, 1, -1, rows=2), 8) == (1, 1, 8)


def test_a_single_device_is_a_mesh_too(config):
    mesh = make_mesh(on(config, 1, -1, 1), jax.devices()[:1])
    assert dict(mesh.shape) == dict.fromkeys(AXES, 1)


def ran(which, mesh, **environment):
    """A process that runs the steps on a mesh."""
    command = [sys.executable, STEPS, which, mesh]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    path = {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(command, env=os.environ | path | environment, **pipes)


def found_by(process, mesh):
    out, err = process.communicate()
    assert process.returncode == 0, err[-4000:]
    return json.loads(out.splitlines()[-1])[mesh]


def compare(spread, alone):
    """What two runs found is the same, to rounding; each compiled its update once."""
    assert spread.pop("programs") == alone.pop("programs") == 1
    assert spread["losses"][0] != spread["losses"][-1]
    for name in {"greedy", "drawn", "replies"} & set(alone):
        assert spread.pop(name) == alone.pop(name)
    for name, expected in alone.items():
        np.testing.assert_allclose(spread[name], expected, rtol=2e-4, atol=2e-5, err_msg=name)


def test_an_update_is_the_same_on_a_mesh_and_compiled_once():
    both = [ran("update", mesh) for mesh in ("none", "2,2,2")]
    alone, spread = (found_by(p, mesh) for p, mesh in zip(both, ("none", "2,2,2")))
    compare(spread, alone)


@pytest.fixture(scope="module")
def alone():
    found = found_by(ran("all", "none"), "none")
    assert len({tuple(own) for own in found["replies"]}) > 1  # the adapters are heard
    return found


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["2,2,2", "8,1,1", "1,8,1", "1,1,8"])
def test_every_step_is_the_same_on_a_mesh(mesh, alone):
    compare(found_by(ran("all", mesh), mesh), dict(alone))


@pytest.mark.slow
def test_every_step_is_the_same_in_two_processes(alone):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    both = [ran("all", "2,2,2", PROCESS=f"{address},{i}") for i in range(2)]
    for process in both:
        compare(found_by(process, "2,2,2"), dict(alone))
