import importlib.util
import os
import socket
import subprocess
import sys

import jax
import pytest

from sleep_jax.runtime.distributed import explicit_address, join_processes

NOTHING = {"coordinator": None, "num_processes": None, "process_id": None}
ENVIRONMENT = {
    "JAX_COORDINATOR_ADDRESS": "host:1234", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "2",
}  # fmt: skip


@pytest.fixture
def started(monkeypatch):
    """What `jax.distributed.initialize` is called with, in an environment that says nothing."""
    calls = []
    for name in (*ENVIRONMENT, "SLURM_JOB_ID", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(jax.distributed, "initialize", lambda *address: calls.append(address))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    return calls


def test_explicit_address_is_of_flags_else_of_the_environment():
    assert explicit_address(NOTHING, {}) is None
    assert explicit_address(NOTHING, ENVIRONMENT) == ("host:1234", 4, 2)
    given = {"coordinator": "other:1", "num_processes": 2, "process_id": 0}
    assert explicit_address(given, {}) == explicit_address(given, ENVIRONMENT) == ("other:1", 2, 0)
    mixed = NOTHING | {"process_id": 0}  # 0 is an index, not a gap
    assert explicit_address(mixed, ENVIRONMENT) == ("host:1234", 4, 0)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"coordinator": "host:1"}, "--num_processes: missing; .* JAX_NUM_PROCESSES"),
        ({"num_processes": 2, "process_id": 0}, "--coordinator: missing"),
        ({"coordinator": "h:1", "num_processes": 2, "process_id": 2}, "--process_id=2: .* 0 to 1"),
        ({"coordinator": "h", "num_processes": 2, "process_id": 1}, "--coordinator=h: give HOST"),
        (
            {"coordinator": "h:abc", "num_processes": 2, "process_id": 1},
            "--coordinator=h:abc: give HOST:PORT",
        ),
    ],
)
def test_explicit_address_refuses_an_incomplete_address(given, words):
    with pytest.raises(ValueError, match=words):
        explicit_address(NOTHING | given, {})


@pytest.mark.parametrize("variable", ["JAX_NUM_PROCESSES", "JAX_PROCESS_ID"])
def test_explicit_address_names_a_variable_that_is_no_number(variable):
    flag = variable.removeprefix("JAX_").lower()
    with pytest.raises(ValueError, match=f"{variable}='x': expected a whole number; .* --{flag}"):
        explicit_address(NOTHING, ENVIRONMENT | {variable: "x"})


def test_join_processes_starts_nothing_on_a_single_machine(started, monkeypatch):
    assert not join_processes()
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    assert not join_processes() and not started


def test_join_processes_prefers_an_explicit_address(started, monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "8")
    assert join_processes("host:1", 2, 1)
    assert started == [("host:1", 2, 1)]


def test_join_processes_leaves_slurm_and_tpus_to_jax(started, monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "8")
    assert join_processes()
    monkeypatch.delenv("SLURM_STEP_NUM_TASKS")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "libtpu")
    assert join_processes() and started == [(), ()]


def test_join_processes_with_libtpu_and_no_tpu_starts_nothing(started, monkeypatch):
    def no_cluster():
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "libtpu")
    monkeypatch.setattr(jax.distributed, "initialize", no_cluster)
    assert not join_processes()


def in_two_processes(program: str) -> list[str]:
    """What two processes print that have found each other; `i` is 0 in one and 1 in the other."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    joins = (
        "import jax, sys\n"
        "from sleep_jax.runtime.distributed import check_shared, join_processes\n"
        "i = int(sys.argv[1])\n"
        f"join_processes('127.0.0.1:{port}', 2, i)\n"
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-c", joins + program, str(i)],
            env=os.environ,
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    return [process.communicate(timeout=120)[0] for process in both]


@pytest.mark.slow
def test_two_processes_join():
    outputs = in_two_processes(
        "from jax.experimental.multihost_utils import process_allgather\n"
        "print('sum', process_allgather(jax.numpy.asarray([i + 1])).sum())\n"
    )
    assert all("sum 3" in output for output in outputs)


@pytest.mark.slow
def test_check_shared_refuses_separate_workdirs(tmp_path):
    for name in ("both", "0", "1"):
        (tmp_path / name).mkdir()
    outputs = in_two_processes(
        f"check_shared('{tmp_path}/both')\n"
        "try:\n"
        f"    check_shared(f'{tmp_path}/{{i}}')\n"
        "except ValueError as error:\n"
        "    print(error)\n"
    )
    for i, output in enumerate(outputs):
        assert f"workdir='{tmp_path}/{i}' is not shared: 1 of 2 processes" in output
    assert not any(path.is_file() for path in tmp_path.rglob("*"))
