"""The sweeps in `configs/`, a sweep from the command line, and how a run that stops ends."""

import pathlib
import subprocess
import sys
import types

import ml_collections
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from sleep_jax import config as settings
from sleep_jax import lifecycle
from sleep_jax.cli import main as launch
from sleep_jax.cli.config_files import load
from sleep_jax.cli.sweep_runs import runs_of
from sleep_jax.experiment import load_experiment
from sleep_jax.forecast import aot
from sleep_jax.memory.slots import SlotsExhausted
from sleep_jax.run_schedule import run_schedule
from sleep_jax.runtime.checkpoints import PhaseCheckpoints
from sleep_jax.runtime.preemption import STATUS, Preempted
from sleep_jax.seeding.update_log import NotFinite

SWEEPS = pathlib.Path("configs/sweeps")


@pytest.mark.parametrize("path", sorted(SWEEPS.glob("[!_]*.py")))
def test_sweep_elements_have_a_valid_schedule(path):
    runs = runs_of(str(path), load(str(path)), "runs")
    assert len(runs) > 1
    for run in runs:
        assert run_schedule(settings.read(run.config).memory, [300] * run.config.data.episodes)


def test_seeding_ablation_variants_remove_their_terms():
    path = str(SWEEPS / "seeding_ablation.py")
    runs = {run.element.variant: run.config for run in runs_of(path, load(path), "runs")}
    objectives = {name: settings.read(c).seeding.objective for name, c in runs.items()}
    assert (objectives["full seeding"].alpha, objectives["full seeding"].lam) == (0.5, 0.5)
    assert objectives["no imitation"].alpha == 1
    assert settings.read(runs["no semantic reward"]).seeding.imitation.gamma == 0
    assert (objectives["off-policy only"].alpha, objectives["off-policy only"].lam) == (1, 0)
    memory = settings.read(runs["no expansion"]).memory
    assert memory.level(1).slots == 1 < runs["no expansion"].data.episodes
    assert memory.on_full == "reuse"


@pytest.mark.slow
def test_sweep_compares_finished_runs_and_resumes(tmp_path):
    file = tmp_path / "one.py"
    alpha = (SWEEPS / "alpha_tiny.py").absolute()
    file.write_text(
        f"import runpy\nget_config = runpy.run_path({str(alpha)!r})['get_config']\n"
        "def get_sweep(hyper):\n"
        "    bad = hyper.variant('bad', {'config.data.documents': 'nowhere.txt'})\n"
        "    return bad + hyper.variant('good')\n"
    )
    command = [sys.executable, "launch.py", f"--sweep={file}", f"--workdir={tmp_path / 'out'}"]
    first = subprocess.run(command, capture_output=True, text=True, check=False)
    assert first.returncode == 1 and "nowhere.txt" in first.stderr
    assert "Not finished: bad." in (tmp_path / "out/comparison.md").read_text()
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 1 and "finished before" in again.stdout
    printed = subprocess.run(
        [*command, "--sweep_print"], capture_output=True, text=True, check=True
    )
    lines = printed.stdout.splitlines()
    assert len(lines) == 2 and lines[1].endswith(f"--workdir={tmp_path / 'out/good'}")


def test_run_that_stops_prints_the_reason_and_exits_with_its_status(monkeypatch, capsys):
    run = launch.run_and_report

    def stops_with(error):
        def stop(*_, **__):
            raise error

        monkeypatch.setattr(lifecycle, "run", stop)
        with pytest.raises(SystemExit) as ended:
            run(None, "runs/x", None)
        return ended.value.code

    assert stops_with(Preempted("4 updates of learn")) == STATUS
    assert (
        "preempted after 4 updates of learn; run the same command to resume"
        in capsys.readouterr().out
    )
    assert stops_with(SlotsExhausted(2, 3)) == 2
    errors = capsys.readouterr().err
    assert "memory.slots=3 of level 2 are all in use" in errors and "saved in runs/x" in errors
    assert stops_with(NotFinite("6 updates in a row")) == 2
    assert "error: 6 updates in a row" in capsys.readouterr().err


def test_preempted_sweep_prints_where_and_compares_nothing(monkeypatch, capsys):
    def stop(*_):
        raise Preempted("seed=1")

    monkeypatch.setattr(launch, "run_all", stop)
    with pytest.raises(SystemExit) as ended:
        launch.sweep([], None)
    assert ended.value.code == STATUS
    assert "preempted in seed=1" in capsys.readouterr().out


def test_sweep_refuses_a_finished_element_of_another_config(tmp_path):
    path = str(SWEEPS / "alpha_tiny.py")
    config = load(path)
    first, *_ = runs_of(path, config, str(tmp_path))
    with PhaseCheckpoints(f"{first.workdir}/checkpoints") as saved:
        record = {"config": first.config.to_dict(), "night": {}}
        saved.save(0, "wake", state={"x": np.zeros(1)}, record=record)
    (tmp_path / first.element.name / "report.html").write_text("")
    assert first.is_finished
    flags.FLAGS.mark_as_parsed()
    launch.prepare_sweep(path, config, str(tmp_path))
    config.seeding.learning_rate = 0.5
    with pytest.raises(ValueError, match=r"another config \(seeding\.learning_rate: .* -> 0\.5"):
        launch.prepare_sweep(path, config, str(tmp_path))


def test_refused_start_leaves_no_checkpoints(tmp_path, monkeypatch):
    for name, replacement in (("join_processes", lambda *_: True), ("Watch", object)):
        monkeypatch.setattr(launch, name, replacement)
    config = load("configs/sleep_tiny.py")
    config.data.documents = str(tmp_path / "nowhere.txt")
    flags.FLAGS.mark_as_parsed()
    with pytest.raises(FileNotFoundError, match=r"nowhere\.txt"):
        launch.prepare(config, str(tmp_path / "run"))
    assert not list((tmp_path / "run").iterdir())


def test_run_ends_with_a_message_where_its_store_fails(capsys, monkeypatch):
    aiohttp = pytest.importorskip("aiohttp")

    def stop(*_, **__):
        raise aiohttp.ServerDisconnectedError

    monkeypatch.setattr(lifecycle, "run", stop)
    with pytest.raises(SystemExit) as ended:
        launch.run_and_report(None, "gs://bucket/run", None)
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("error: gs://bucket/run does not answer (Server di")
    with pytest.raises(aiohttp.ServerDisconnectedError):
        launch.run_and_report(None, "runs/x", None)


def test_sweep_commands_have_the_remote_workdir(capsys):
    path, workdir = str(SWEEPS / "alpha_tiny.py"), "gs://bucket/alpha"
    flags.FLAGS.mark_as_parsed()
    with flagsaver.flagsaver(sweep=path, sweep_print=True):
        launch.prepare(load(path), workdir)()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 1 and all(f" --workdir={workdir}/" in line for line in lines)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sweep_print": True}, "--sweep_print: of which sweep"),
        ({"sweep": "a.py", "dry_run": True}, "--dry_run: is for one run, .* --sweep_print prints"),
        ({"sweep": "a.py", "aot": "v5e:4x4"}, "--aot: is for one run"),
        ({"sweep": "a.py", "profile": "learn:0"}, "--profile: is for one run"),
        ({"sweep": "a.py", "coordinator": "h:1"}, "--coordinator: is for one run"),
        ({"sweep": "a.py", "process_id": 0}, "--process_id: is for one run"),
        ({"sweep": "a.py", "plan": 0}, "--plan: is for one run"),
        ({"plan": -1}, "--plan=-1: how long is the stream?"),
        ({"plan": 9, "dry_run": True}, "--dry_run: --plan makes no run; leave out one"),
        ({"aot": "v5e:4x4", "profile": "learn:0"}, "--profile: --aot makes no run"),
        ({"aot": ""}, "--aot=: for which slice"),
    ],
)
def test_check_flags_refuses_ignored_flags(given, message):
    flags.FLAGS.mark_as_parsed()
    with flagsaver.flagsaver(**given), pytest.raises(ValueError, match=message):
        launch.prepare(None, "runs/x")


def test_check_flags_accepts_flags_that_go_together():
    flags.FLAGS.mark_as_parsed()
    several = {"coordinator": "h:1", "num_processes": 2, "process_id": 0, "profile": "learn:0"}
    for given in ({}, several, {"aot": "v5e:4x4", "dry_run": True}, {"plan": 0}):
        with flagsaver.flagsaver(**given):
            launch.check_flags()


def test_profile_of_an_unknown_phase_is_refused_before_loading(monkeypatch, tmp_path):
    for name in ("join_processes", "use_mesh"):
        monkeypatch.setattr(launch, name, lambda *_: True)
    monkeypatch.setattr(launch, "load_experiment", None)
    flags.FLAGS.mark_as_parsed()
    with (
        flagsaver.flagsaver(profile="dream:1"),
        pytest.raises(ValueError, match=r"--profile=dream:1: .* choose from consolidate, learn$"),
    ):
        launch.prepare(load("configs/sleep_tiny.py"), str(tmp_path))


def test_dry_run_refuses_wrong_settings():
    config = load("configs/sleep_tiny.py")
    config.seeding.judge = "jury"
    flags.FLAGS.mark_as_parsed()
    with (
        flagsaver.flagsaver(dry_run=True),
        pytest.raises(ValueError, match=r"seeding\.judge='jury'; choose from"),
    ):
        launch.prepare(config, "runs/x")


def test_show_prints_all_lines_and_exits_1_where_a_program_does_not_fit(capsys):
    def report():
        yield "a table"
        yield "This run does not fit v5e:2x2."
        raise aot.DoesNotFit("v5e:2x2")

    with pytest.raises(SystemExit) as ended:
        launch.show(report())
    assert ended.value.code == 1
    assert capsys.readouterr().out == "a table\nThis run does not fit v5e:2x2.\n"
    launch.show(["fits"])


def test_resume_needs_the_same_base_and_documents(tmp_path, monkeypatch):
    base = {"model.name": {"name": "a", "weights": "1"}}
    with PhaseCheckpoints(tmp_path / "checkpoints") as saved:
        record = {"config": {"seed": 0}, "base": base, "reading": "text"}
        saved.save(0, "wake", state={"x": np.zeros(1)}, record=record)
    experiment, watch = types.SimpleNamespace(base=base, reading="text"), object()
    for name, replacement in (
        ("join_processes", lambda *_: True),
        ("read", lambda _: None),
        ("use_mesh", lambda _: None),
        ("load_experiment", lambda _: experiment),
        ("Watch", lambda: watch),
        ("show_run_plan", lambda *_: None),
    ):
        monkeypatch.setattr(launch, name, replacement)
    flags.FLAGS.mark_as_parsed()
    config = ml_collections.ConfigDict({"seed": 0})
    assert launch.prepare(config, str(tmp_path)).args == (
        *(experiment, str(tmp_path), watch),
        *(None, None),  # no profile, no time estimate
    )
    experiment.reading = "more text"
    with pytest.raises(ValueError, match=r"data\.documents: .*\(fingerprint text\).*\(more text\)"):
        launch.prepare(config, str(tmp_path))
    experiment.base = {"model.name": {"name": "b", "weights": "2"}}
    with pytest.raises(
        ValueError, match=r"model\.name='b' has the weights 2, .* was started with 1"
    ):
        launch.prepare(config, str(tmp_path))


def test_run_plan_is_shown_before_a_run(tmp_path, monkeypatch, capsys):
    config = load("configs/sleep_tiny.py")
    config.data.documents, config.data.episodes = "samples:3", 3
    experiment = load_experiment(config)
    monkeypatch.setenv("SLEEP_JAX_QUIET", "")
    with pytest.warns(UserWarning) as warned:
        time_estimate = launch.show_run_plan(experiment, str(tmp_path))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [
        *("documents", "days", "slots", "updates", "written", "memory", "host", "disk")
    ]
    assert "of the samples, all read" in lines[0] and lines[2].endswith("full after day 2")
    assert any("on day 3 none is free and the run stops there" in str(x.message) for x in warned)
    time_estimate.add_update(0, 1.0)


def test_resume_prints_changed_settings(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SLEEP_JAX_QUIET", "")
    config = load("configs/sleep_tiny.py")
    with PhaseCheckpoints(tmp_path / "checkpoints") as saved:
        record = {"config": config.to_dict()}
        saved.save(0, "wake", state={"x": np.zeros(1)}, record=record)
    config.memory.on_full = "skip"
    launch.check_workdir(config, str(tmp_path))
    assert capsys.readouterr().out == 'from here on memory.on_full: "error" -> "skip"\n'
