"""Sweep files as runs: names and values are checked first, finished runs are not run again."""

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
    """The runs of a sweep file with this body, as the launch script makes them."""
    pathlib.Path("configs/sweeps/rates.py").write_text(FILE.format(body))
    argument = "configs/sweeps/rates.py"
    return runs_of(argument, *parse(["launch.py", f"--config={argument}", *overrides]))


def test_runs_of_gives_config_workdir_and_command():
    run_list = runs(GRID, "--config.note=two words", "--noconfig.seeding.is_on")
    assert [run.workdir for run in run_list] == [
        f"runs/rates/seeding.rate={rate},seed={seed}" for seed in (0, 1) for rate in (0.1, 0.3)
    ]
    last = run_list[-1].config
    assert (last.seed, last.seeding.rate, last.note, last.seeding.is_on) == (1, 0.3, "two words", 0)
    for run in run_list:
        python, *argv = shlex.split(run.command)
        config, workdir = parse(argv)
        assert python == "python" and workdir == run.workdir
        assert config.to_dict() == run.config.to_dict()
    assert "--sweep" not in run_list[0].command
    assert load("configs/sweeps/rates.py").note == ""


def test_runs_of_sets_values_of_every_type():
    values = {"note": "a'b c", "seeding.is_on": False, "seeding.slots": (1, 2), "seeding.rate": 2}
    settings = {f"config.{name}": value for name, value in values.items()}
    [run] = runs(f'hyper.variant("all", {settings!r})')
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
def test_runs_of_refuses_wrong_fields_values_and_names(body, overrides, message):
    with pytest.raises(ValueError, match=message):
        runs(body, *overrides)


def test_runs_of_refuses_a_file_without_get_sweep():
    runs()
    text = pathlib.Path("configs/sweeps/rates.py").read_text().partition("def get_sweep")[0]
    pathlib.Path("configs/plain.py").write_text(text)
    with pytest.raises(ValueError, match=r"'configs/plain\.py' defines no get_sweep\(\)"):
        runs_of("configs/plain.py", *parse(["launch.py", "--config=configs/plain.py"]))


def test_workdir_at_an_address_stays_an_address():
    run_list = runs(GRID, "--workdir=gs://bucket/rates")
    assert run_list[1].workdir == "gs://bucket/rates/seeding.rate=0.3,seed=0"
    for run in run_list:
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
def run_sweep():
    """(runs, body of each run) -> (what `run_all` returns or raises, names of the runs begun)."""

    def run(run_list, body):
        pathlib.Path("run.py").write_text(RUN.format(body))
        pathlib.Path("begun").write_text("")
        try:
            ended = run_all(run_list, "run.py")
        except Preempted as stopped:
            ended = stopped
        return ended, pathlib.Path("begun").read_text().split()

    return run


def test_run_all_goes_on_after_a_failure_and_repeats_it_alone(run_sweep, capsys):
    run_list = runs()
    names = [run.element.name for run in run_list]
    fails = "if workdir.name.endswith('0.3,seed=0'): sys.exit(3)"
    assert run_sweep(run_list, fails) == ([run_list[1]], names)
    printed = " ".join(capsys.readouterr().out.split())
    assert (
        "seeding.rate=0.3,seed=0 failed (3)" in printed
        and "seeding.rate=0.3,seed=1 done" in printed
    )
    assert run_sweep(run_list, fails) == ([run_list[1]], [names[1]])
    assert "seeding.rate=0.1,seed=0 finished before" in " ".join(capsys.readouterr().out.split())


def test_run_all_ends_when_its_run_is_preempted(run_sweep, capsys):
    run_list = runs()
    names = [run.element.name for run in run_list]
    stopped, begun = run_sweep(run_list, f"if workdir.name == {names[1]!r}: sys.exit({STATUS})")
    assert (stopped.code, stopped.where, begun) == (STATUS, names[1], names[:2])
    printed = " ".join(capsys.readouterr().out.split())
    assert f"{names[1]} preempted" in printed and "failed" not in printed
    assert run_sweep(run_list, "") == ([], names[1:])


@pytest.mark.parametrize("handles_sigterm", [True, False])
def test_run_all_passes_sigterm_on_and_leaves_no_process(run_sweep, handles_sigterm):
    def unexpected(*_):
        raise AssertionError("the sweep did not handle SIGTERM")

    body = 'open("pid", "w").write(str(os.getpid()))\n'
    if handles_sigterm:  # as a run does once it is under way
        body += f'def save(*_):\n    open("saved", "w")\n    sys.exit({STATUS})\n'
        body += "signal.signal(signal.SIGTERM, save)\n"
    body += "os.kill(os.getppid(), signal.SIGTERM)\ntime.sleep(60)"
    before = signal.signal(signal.SIGTERM, unexpected)
    try:
        run_list = runs()
        stopped, begun = run_sweep(run_list, body)
        assert signal.getsignal(signal.SIGTERM) is unexpected
    finally:
        signal.signal(signal.SIGTERM, before)
    assert stopped.code == STATUS and begun == [run_list[0].element.name]
    assert pathlib.Path("saved").exists() == handles_sigterm
    with pytest.raises(ProcessLookupError):
        os.kill(int(pathlib.Path("pid").read_text()), 0)


def test_runs_share_compiled_programs_beside_them(run_sweep, monkeypatch, tmp_path):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    write = 'open("cache", "w").write(os.environ["JAX_COMPILATION_CACHE_DIR"])\n'
    one = 'hyper.variant("one")'
    run_sweep(runs(one), write)
    assert pathlib.Path("cache").read_text() == str(tmp_path / "runs" / "rates" / "programs")
    monkeypatch.setattr(sweep_runs, "report_path", lambda workdir: tmp_path / "none")
    run_sweep(runs(one, "--workdir=gs://bucket/rates"), write + "sys.exit()")
    assert pathlib.Path("cache").read_text() == "gs://bucket/rates/programs"
    assert not pathlib.Path("gs:").exists()
