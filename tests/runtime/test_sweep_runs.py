"""Sweep files become runs: names and values are checked before anything runs, runs are resumed."""

import pathlib
import shlex
import types

import pytest

from sleep_jax.runtime import sweep_runs
from sleep_jax.runtime.flags import load, parse
from sleep_jax.runtime.sweep_runs import run_all, runs_of

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


@pytest.fixture
def started(monkeypatch):
    """Workdirs of the processes that were started; those with `0.3,seed=0` fail."""
    begun = []

    def run(command, **_):
        workdir = pathlib.Path(command[-1].removeprefix("--workdir="))
        begun.append(workdir.name)
        if status := 3 * workdir.name.endswith("0.3,seed=0"):
            return types.SimpleNamespace(returncode=status)
        workdir.mkdir(parents=True)
        (workdir / "report.html").write_text("done")
        return types.SimpleNamespace(returncode=0)

    monkeypatch.setattr(sweep_runs.subprocess, "run", run)
    return begun


def test_a_run_that_fails_stops_no_other_and_is_all_that_is_done_over(started, capsys):
    found = runs()
    names = [run.element.name for run in found]
    assert [run.element.name for run in run_all(found, "launch.py")] == [names[1]]
    assert started == names
    said = " ".join(capsys.readouterr().out.split())
    assert "seeding.rate=0.3,seed=0 failed (3)" in said and "seeding.rate=0.3,seed=1 done" in said
    started.clear()
    assert [run.element.name for run in run_all(found, "launch.py")] == [names[1]]
    assert started == [names[1]]
    assert "seeding.rate=0.1,seed=0 finished before" in " ".join(capsys.readouterr().out.split())
