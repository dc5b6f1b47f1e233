"""Sweep files become runs: names and values are checked before anything runs, runs are resumed."""

import os
import pathlib
import shlex
import signal

import pytest

from sleep_jax.cli import sweep_runs
from sleep_jax.cli.config_files import load
from sleep_jax.cli.flags import parse
from sleep_jax.cli.sweep_runs import run_all, runs_of
from sleep_jax.runtime.preemption import STATUS, Preempted

FILE = '''"""Two rates, two seeds."""

import ml_collections


def get_config():
    return ml_collections.ConfigDict(
        {{"seed": 0, "note": "", "seeding": {{"rate": 0.1, "is_on": True, "slots": (5,)}}}}
    )


def get_sweep(hyper):
    return {}
'''
GRID = 'hyper.product([hyper.seeds(2), hyper.sweep("config.seeding.rate", [0.1, 0.3])])'


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    (tmp_path / "configs" / "sweeps").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)


def runs(body=GRID, *overrides):
    """The runs of a sweep file with this body, as the launch script asks for them."""
    pathlib.Path("configs/sweeps/rates.py").write_text(FILE.format(body))
    argument = "configs/sweeps/rates.py"
    return runs_of(argument, *parse(["launch.py", f"--config={argument}", *overrides]))


def test_every_run_has_a_config_a_workdir_and_a_command():
    found = runs(GRID, "--config.note=two words", "--noconfig.seeding.is_on")
    assert [run.workdir for run in found] == [
        f"runs/rates/seeding.rate={rate},seed={seed}" for seed in (0, 1) for rate in (0.1, 0.3)
    ]
    last = found[-1].config
    assert (last.seed, last.seeding.rate, last.note, last.seeding.is_on) == (1, 0.3, "two words", 0)
    for run in found:
        python, *argv = shlex.split(run.command)
        config, workdir = parse(argv)
        assert python == "python" and workdir == run.workdir
        assert config.to_dict() == run.config.to_dict()
    assert "--sweep" not in found[0].command
    assert load("configs/sweeps/rates.py").note == ""


def test_values_of_every_kind_reach_the_config():
    values = {"note": "a'b c", "seeding.is_on": False, "seeding.slots": (1, 2), "seeding.rate": 2}
    said = {f"config.{name}": value for name, value in values.items()}
    [run] = runs(f'hyper.variant("all", {said!r})')
    config = run.config
    assert (config.note, config.seeding.is_on) == ("a'b c", False)
    assert (config.seeding.slots, config.seeding.rate) == ((1, 2), 2.0)


@pytest.mark.parametrize(
    ("body", "overrides", "message"),
    [
        ('hyper.sweep("config.seeding.rte", [1])', (), "nearest: --config.seeding.rate"),
        ('hyper.sweep("config.seeding.rate", ["x"])', (), "rate=x: expected float"),
        ('hyper.sweep("config.seeding", [1])', (), "a section of the config"),
        ("hyper.seeds(2) + hyper.seeds(1)", (), "two elements are called 'seed=0'"),
        ("[]", (), "returned no element"),
        (GRID, ("--config.seed=3",), r"--config\.seed: .*rates\.py sets it itself"),
    ],
)  # fmt: skip
def test_mistakes_are_named_before_anything_runs(body, overrides, message):
    with pytest.raises(ValueError, match=message):
        runs(body, *overrides)


def test_a_config_that_is_no_sweep_says_so():
    runs()
    text = pathlib.Path("configs/sweeps/rates.py").read_text().partition("def get_sweep")[0]
    pathlib.Path("configs/plain.py").write_text(text)
    with pytest.raises(ValueError, match=r"'configs/plain\.py' defines no get_sweep\(\)"):
        runs_of("configs/plain.py", *parse(["launch.py", "--config=configs/plain.py"]))


def test_an_address_stays_one():
    found = runs(GRID, "--workdir=gs://bucket/rates")
    assert found[1].workdir == "gs://bucket/rates/seeding.rate=0.3,seed=0"
    for run in found:
        assert shlex.split(run.command)[-1] == f"--workdir={run.workdir}" == run.arguments[-1]


RUN = """
import os, pathlib, signal, sys, time
workdir = pathlib.Path(sys.argv[-1].removeprefix("--workdir="))
print(workdir.name, file=open("begun", "a"))
{}
workdir.mkdir(parents=True)
(workdir / "report.html").write_text("done")
"""


@pytest.fixture
def run_them():
    """Runs a sweep whose runs do this: (runs, body) -> (what `run_all` returns, runs begun)."""

    def run(found, body):
        pathlib.Path("run.py").write_text(RUN.format(body))
        pathlib.Path("begun").write_text("")
        try:
            ended = run_all(found, "run.py")
        except Preempted as stopped:
            ended = stopped
        return ended, pathlib.Path("begun").read_text().split()

    return run


def test_a_run_that_fails_stops_no_other_and_is_all_that_is_done_over(run_them, capsys):
    found = runs()
    names = [run.element.name for run in found]
    fails = "if workdir.name.endswith('0.3,seed=0'): sys.exit(3)"
    assert run_them(found, fails) == ([found[1]], names)
    said = " ".join(capsys.readouterr().out.split())
    assert "seeding.rate=0.3,seed=0 failed (3)" in said and "seeding.rate=0.3,seed=1 done" in said
    assert run_them(found, fails) == ([found[1]], [names[1]])
    assert "seeding.rate=0.1,seed=0 finished before" in " ".join(capsys.readouterr().out.split())


def test_a_run_that_was_asked_to_stop_stops_the_sweep_and_has_not_failed(run_them, capsys):
    found = runs()
    names = [run.element.name for run in found]
    stopped, begun = run_them(found, f"if workdir.name == {names[1]!r}: sys.exit({STATUS})")
    assert (stopped.code, stopped.where, begun) == (STATUS, names[1], names[:2])
    said = " ".join(capsys.readouterr().out.split())
    assert f"{names[1]} asked to stop" in said and "failed" not in said
    assert run_them(found, "") == ([], names[1:])


@pytest.mark.parametrize("listens", [True, False])
def test_a_sweep_that_is_asked_to_stop_leaves_no_process_behind(run_them, listens):
    def unheard(*_):
        raise AssertionError("the sweep did not listen")

    body = 'open("pid", "w").write(str(os.getpid()))\n'
    if listens:  # as a run does once it is under way
        body += f'def save(*_):\n    open("saved", "w")\n    sys.exit({STATUS})\n'
        body += "signal.signal(signal.SIGTERM, save)\n"
    body += "os.kill(os.getppid(), signal.SIGTERM)\ntime.sleep(60)"
    before = signal.signal(signal.SIGTERM, unheard)
    try:
        found = runs()
        stopped, begun = run_them(found, body)
        assert signal.getsignal(signal.SIGTERM) is unheard
    finally:
        signal.signal(signal.SIGTERM, before)
    assert stopped.code == STATUS and begun == [found[0].element.name]
    assert pathlib.Path("saved").exists() == listens
    with pytest.raises(ProcessLookupError):
        os.kill(int(pathlib.Path("pid").read_text()), 0)


def test_programs_are_shared_on_this_machine(run_them, monkeypatch, tmp_path):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("SLEEP_JAX_CACHE", str(tmp_path / "kept"))
    told = 'open("told", "w").write(os.environ["JAX_COMPILATION_CACHE_DIR"])\n'
    one = 'hyper.variant("one")'
    run_them(runs(one), told)
    assert pathlib.Path("told").read_text() == str(tmp_path / "runs" / "rates" / "programs")
    monkeypatch.setattr(sweep_runs, "report_path", lambda workdir: tmp_path / "none")
    run_them(runs(one, "--workdir=gs://bucket/rates"), told + "sys.exit()")
    assert pathlib.Path("told").read_text() == str(tmp_path / "kept" / "programs")
    assert not pathlib.Path("gs:").exists()
