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
from sleep_jax.runtime.mesh import make_mesh, mesh_line, mesh_shape

STEPS = "tests/runtime/sharded_steps.py"


@pytest.fixture
def config():
    return sleep_tiny.get_config()


def on(config, data, fsdp, tensor, rows=8):
    config.mesh.data, config.mesh.fsdp, config.mesh.tensor = data, fsdp, tensor
    config.seeding.batch_size = rows
    return config


def test_mesh_shape_gives_an_open_axis_the_remaining_devices(config):
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
def test_mesh_shape_refuses_sizes_that_do_not_match_the_devices(config, sizes, words):
    with pytest.raises(ValueError, match=words):
        mesh_shape(on(config, *sizes), 8)


def test_mesh_shape_gives_tensor_what_rows_do_not_fill(config):
    assert mesh_shape(on(config, 1, -1, 1, rows=4), 8) == (1, 4, 2)
    assert mesh_shape(on(config, 1, -1, 1, rows=16), 64) == (1, 16, 4)
    assert mesh_shape(on(config, -1, 2, 1, rows=6), 12) == (3, 2, 2)  # not 2, 2, 3
    config.seeding.accumulate = 2
    assert mesh_shape(on(config, 1, -1, 2, rows=8), 16) == (1, 4, 4)
    assert mesh_line(config, 16) == (
        "mesh data 1 x fsdp 4 x tensor 4; seeding.batch_size=8 in seeding.accumulate=2 parts fills "
        "4 of 16 devices with rows, mesh.tensor has the others"
    )
    assert mesh_line(on(config, 1, -1, 1), 4) == "mesh data 1 x fsdp 4 x tensor 1"


def test_mesh_shape_refuses_rows_that_cannot_be_split(config):
    with pytest.raises(ValueError, match=r"seeding\.batch_size=4 .* multiple of 8"):
        mesh_shape(on(config, 1, 8, -1, rows=4), 8)
    config.seeding.accumulate = 2
    with pytest.raises(ValueError, match="multiple of 16"):
        mesh_shape(on(config, 8, 1, -1, rows=8), 8)
    with pytest.raises(ValueError, match=r"seeding\.batch_size=7 in seeding\.accumulate=2"):
        mesh_shape(on(config, 1, -1, 1, rows=7), 8)
    config.seeding.accumulate = 2
    assert mesh_shape(on(config, 1, 1, -1, rows=2), 8) == (1, 1, 8)


def test_make_mesh_of_a_single_device(config):
    mesh = make_mesh(on(config, 1, -1, 1), jax.devices()[:1])
    assert dict(mesh.shape) == dict.fromkeys(AXES, 1)


def ran(which, mesh, **environment):
    """A process that runs the steps on a mesh."""
    command = [sys.executable, STEPS, which, mesh]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    path = {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(command, env=os.environ | path | environment, **pipes)


def results_of(process, mesh):
    out, err = process.communicate()
    assert process.returncode == 0, err[-4000:]
    return json.loads(out.splitlines()[-1])[mesh]


def compare(spread, alone):
    """The results of two runs are the same, to rounding; each compiled its update once."""
    assert spread.pop("programs") == alone.pop("programs") == 1
    assert spread["losses"][0] != spread["losses"][-1]
    for name in {"greedy", "drawn", "replies"} & set(alone):
        assert spread.pop(name) == alone.pop(name)
    for name, expected in alone.items():
        np.testing.assert_allclose(spread[name], expected, rtol=2e-4, atol=2e-5, err_msg=name)


@pytest.mark.slow
def test_update_on_a_mesh_is_the_same_and_compiled_once():
    both = [ran("update", mesh) for mesh in ("none", "2,2,2")]
    alone, spread = (results_of(p, mesh) for p, mesh in zip(both, ("none", "2,2,2")))
    compare(spread, alone)


@pytest.fixture(scope="module")
def alone():
    results = results_of(ran("all", "none"), "none")
    assert len({tuple(of_model) for of_model in results["replies"]}) > 1  # the adapters are heard
    return results


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["2,2,2", "8,1,1", "1,8,1", "1,1,8"])
def test_every_step_on_a_mesh_is_the_same(mesh, alone):
    compare(results_of(ran("all", mesh), mesh), dict(alone))


@pytest.mark.slow
def test_every_step_in_two_processes_is_the_same(alone):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    both = [ran("all", "2,2,2", PROCESS=f"{address},{i}") for i in range(2)]
    for process in both:
        compare(results_of(process, "2,2,2"), dict(alone))
