"""The sweeps in `configs/`, a sweep from the command line, and how a run that stops ends."""

import pathlib
import runpy
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


@pytest.mark.parametrize("path", sorted(SWEEPS.glob("*.py")))
def test_every_element_of_a_sweep_is_a_run_that_could_begin(path):
    runs = runs_of(str(path), load(str(path)), "runs")
    assert len(runs) > 1
    for run in runs:
        assert run_schedule(settings.read(run.config).memory, [300] * run.config.data.episodes)


def test_the_ablation_leaves_out_what_it_says():
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
def test_a_sweep_runs_is_compared_and_goes_on(tmp_path):
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


@pytest.fixture(scope="module")
def launch():
    """What launch.py defines."""
    return runpy.run_path("launch.py")


def test_a_run_that_stops_says_why_and_ends_with_its_status(launch, monkeypatch, capsys):
    live = launch["live"]

    def stops_with(error):
        def stop(*_, **__):
            raise error

        monkeypatch.setattr(lifecycle, "run", stop)
        with pytest.raises(SystemExit) as ended:
            live(None, "runs/x", None)
        return ended.value.code

    assert stops_with(Preempted("4 updates of learn")) == STATUS
    assert "asked to stop, after 4 updates of learn" in capsys.readouterr().out
    assert stops_with(SlotsExhausted(2, 3)) == 2
    said = capsys.readouterr().err
    assert "memory.levels[2].slots=3 are all in use" in said and "saved in runs/x" in said
    assert stops_with(NotFinite("6 updates in a row")) == 2
    assert "error: 6 updates in a row" in capsys.readouterr().err


def test_a_sweep_that_stops_says_where_and_is_not_compared(launch, monkeypatch, capsys):
    def stop(*_):
        raise Preempted("seed=1")

    monkeypatch.setitem(launch["sweep"].__globals__, "run_all", stop)
    with pytest.raises(SystemExit) as ended:
        launch["sweep"]([], None)
    assert ended.value.code == STATUS
    assert "asked to stop, in seed=1" in capsys.readouterr().out


def test_a_finished_element_of_another_config_is_not_taken_for_one_of_this(launch, tmp_path):
    path = str(SWEEPS / "alpha_tiny.py")
    config = load(path)
    first, *_ = runs_of(path, config, str(tmp_path))
    with PhaseCheckpoints(f"{first.workdir}/checkpoints") as saved:
        record = {"config": first.config.to_dict(), "night": {}}
        saved.save(0, "wake", state={"x": np.zeros(1)}, record=record)
    (tmp_path / first.element.name / "report.html").write_text("")
    assert first.is_finished
    flags.FLAGS.mark_as_parsed()
    launch["prepare_sweep"](path, config, str(tmp_path))
    config.seeding.learning_rate = 0.5
    with pytest.raises(ValueError, match=r"another config \(seeding\.learning_rate: .* -> 0\.5"):
        launch["prepare_sweep"](path, config, str(tmp_path))


def test_a_start_that_is_refused_leaves_no_checkpoints(launch, tmp_path, monkeypatch):
    for name, of in (("join_processes", lambda *_: True), ("Watch", object)):
        monkeypatch.setitem(launch["prepare"].__globals__, name, of)
    config = load("configs/sleep_tiny.py")
    config.data.documents = str(tmp_path / "nowhere.txt")
    flags.FLAGS.mark_as_parsed()
    with pytest.raises(FileNotFoundError, match=r"nowhere\.txt"):
        launch["prepare"](config, str(tmp_path / "run"))
    assert not list((tmp_path / "run").iterdir())


def test_a_store_that_stops_answering_ends_a_run_in_words(launch, capsys, monkeypatch):
    aiohttp = pytest.importorskip("aiohttp")

    def stop(*_, **__):
        raise aiohttp.ServerDisconnectedError

    monkeypatch.setattr(lifecycle, "run", stop)
    with pytest.raises(SystemExit) as ended:
        launch["live"](None, "gs://bucket/run", None)
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("error: gs://bucket/run does not answer (Server di")
    with pytest.raises(aiohttp.ServerDisconnectedError):
        launch["live"](None, "runs/x", None)


def test_an_address_reaches_every_command_of_a_sweep(launch, capsys):
    path, workdir = str(SWEEPS / "alpha_tiny.py"), "gs://bucket/alpha"
    flags.FLAGS.mark_as_parsed()
    with flagsaver.flagsaver(sweep=path, sweep_print=True):
        launch["prepare"](load(path), workdir)()
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
def test_flags_that_would_be_passed_over_are_refused(launch, given, message):
    flags.FLAGS.mark_as_parsed()
    with flagsaver.flagsaver(**given), pytest.raises(ValueError, match=message):
        launch["prepare"](None, "runs/x")


def test_flags_that_go_together_are_not_refused(launch):
    flags.FLAGS.mark_as_parsed()
    several = {"coordinator": "h:1", "num_processes": 2, "process_id": 0, "profile": "learn:0"}
    for given in ({}, several, {"aot": "v5e:4x4", "dry_run": True}, {"plan": 0}):
        with flagsaver.flagsaver(**given):
            launch["check_flags"]()


def test_unknown_phase_of_a_profile_is_refused_before_anything_is_loaded(
    launch, monkeypatch, tmp_path
):
    for name in ("join_processes", "use_mesh"):
        monkeypatch.setitem(launch["prepare"].__globals__, name, lambda *_: True)
    monkeypatch.setitem(launch["prepare"].__globals__, "load_experiment", None)
    flags.FLAGS.mark_as_parsed()
    with (
        flagsaver.flagsaver(profile="dream:1"),
        pytest.raises(ValueError, match=r"--profile=dream:1: .* there is consolidate, learn$"),
    ):
        launch["prepare"](load("configs/sleep_tiny.py"), str(tmp_path))


def test_nothing_is_forecast_of_wrong_settings(launch):
    config = load("configs/sleep_tiny.py")
    config.seeding.judge = "jury"
    flags.FLAGS.mark_as_parsed()
    with (
        flagsaver.flagsaver(dry_run=True),
        pytest.raises(ValueError, match=r"seeding\.judge='jury'; choose from"),
    ):
        launch["prepare"](config, "runs/x")


def test_a_report_is_printed_whole_and_its_verdict_is_the_status(launch, capsys):
    def report():
        yield "a table"
        yield "This run does not fit v5e:2x2."
        raise aot.DoesNotFit("v5e:2x2")

    with pytest.raises(SystemExit) as ended:
        launch["show"](report())
    assert ended.value.code == 1
    assert capsys.readouterr().out == "a table\nThis run does not fit v5e:2x2.\n"
    launch["show"](["fits"])


def test_a_run_goes_on_on_its_base_and_documents_alone(launch, tmp_path, monkeypatch):
    base = {"model.name": {"name": "a", "weights": "1"}}
    with PhaseCheckpoints(tmp_path / "checkpoints") as saved:
        record = {"config": {"seed": 0}, "base": base, "reading": "text"}
        saved.save(0, "wake", state={"x": np.zeros(1)}, record=record)
    experiment, watch = types.SimpleNamespace(base=base, reading="text"), object()
    for name, of in (
        ("join_processes", lambda *_: True),
        ("read", lambda _: None),
        ("use_mesh", lambda _: None),
        ("load_experiment", lambda _: experiment),
        ("Watch", lambda: watch),
        ("tell_plan", lambda *_: None),
    ):
        monkeypatch.setitem(launch["prepare"].__globals__, name, of)
    flags.FLAGS.mark_as_parsed()
    config = ml_collections.ConfigDict({"seed": 0})
    assert launch["prepare"](config, str(tmp_path)).args == (
        *(experiment, str(tmp_path), watch),
        *(None, None),  # no profile, no time estimate
    )
    experiment.reading = "more text"
    with pytest.raises(ValueError, match=r"data\.documents: .*\(fingerprint text\).*\(more text\)"):
        launch["prepare"](config, str(tmp_path))
    experiment.base = {"model.name": {"name": "b", "weights": "2"}}
    with pytest.raises(ValueError, match=r"model\.name='b' has the weights 2, .* stands on 1"):
        launch["prepare"](config, str(tmp_path))


def test_a_run_says_what_it_will_do_before_it_begins(launch, tmp_path, monkeypatch, capsys):
    config = load("configs/sleep_tiny.py")
    config.data.documents, config.data.episodes = "samples:3", 3
    experiment = load_experiment(config)
    monkeypatch.setenv("SLEEP_JAX_QUIET", "")
    with pytest.warns(UserWarning) as told:
        time_estimate = launch["tell_plan"](experiment, str(tmp_path))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [
        *("documents", "days", "slots", "updates", "written", "memory", "disk")
    ]
    assert "of the samples, all read" in lines[0] and lines[2].endswith("full after day 2")
    assert any("on day 3 none is free and the run stops there" in str(x.message) for x in told)
    time_estimate.add_update(0, 1.0)


def test_what_has_changed_of_a_run_is_said(launch, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SLEEP_JAX_QUIET", "")
    config = load("configs/sleep_tiny.py")
    with PhaseCheckpoints(tmp_path / "checkpoints") as saved:
        record = {"config": config.to_dict()}
        saved.save(0, "wake", state={"x": np.zeros(1)}, record=record)
    config.memory.on_full = "skip"
    launch["check_workdir"](config, str(tmp_path))
    assert capsys.readouterr().out == 'from here on memory.on_full: "error" -> "skip"\n'
