"""More days for a run: what it knows stays, what is given now is new, and how the days were given
changes no bit.

The phases here compute next to nothing; `test_whole_life.py` has the real ones.
"""

import dataclasses
import functools
import json
import shutil
import zlib

import jax
import numpy as np
import pytest
from absl.testing import flagsaver
from tiny_run import active, equal, tiny_config

from sleep_jax import experiment as experiment_module
from sleep_jax import lifecycle
from sleep_jax.cli import main as launch  # which defines the flags
from sleep_jax.cli.flags import parse
from sleep_jax.continuation import known_run, load_continued
from sleep_jax.data.documents import read_source
from sleep_jax.days import read_days, write_days
from sleep_jax.experiment import load_experiment
from sleep_jax.forecast.dry_run import plan_of
from sleep_jax.inspect.run import Run
from sleep_jax.interop.tiny import tiny_model
from sleep_jax.memory.slots import SlotsExhausted, put_slot, take_slot, unlock
from sleep_jax.phases.registry import PHASES
from sleep_jax.phases.rng_streams import STREAMS, key_of
from sleep_jax.report.html_report import write_report
from sleep_jax.report.summary import days as days_shown
from sleep_jax.report.summary import settings_changed, summarise
from sleep_jax.runtime.workdir import days_path
from sleep_jax.seeding.transaction import MemoryState, check_capacity

STEPS = "seeding.steps"


def quick(name):
    """A phase that records a draw of each of its random streams, what it could read and its
    settings; a consolidation fills a slot with noise."""

    def function(experiment, run, logger, scheduled):
        state, facts = run.current, {STEPS: experiment.config.seeding.steps}
        texts = [d.text for day in experiment.days[: scheduled.day + 1] for d in day.documents]
        facts["texts"] = zlib.crc32(json.dumps(texts).encode())
        keys = {stream: key_of(experiment, scheduled, stream) for stream in STREAMS.get(name, ())}
        facts |= {stream: int(jax.random.key_data(key)[0]) for stream, key in keys.items()}
        if name == "consolidate":
            check_capacity(experiment.cfg.memory, state.slots, 1)
            slots, index = unlock(state.slots, 1)
            rng = np.random.default_rng(facts["updates"])
            slot = jax.tree.map(lambda x: rng.normal(size=x.shape), take_slot(state.memory, 1, 0))
            state = MemoryState(put_slot(state.memory, 1, index, slot), slots)
            run, facts = run.note_day(scheduled.day, slot=index), facts | {"levels": "0 -> 1"}
            run = dataclasses.replace(run, current=state, before_dreams=state)
        if name == "wake":
            run = dataclasses.replace(run, before_sleep=state)
        if name == "evaluate":
            shares = [{"questions": 0.5}] * (scheduled.day + 1)
            run = run.note_day(scheduled.day, scores={"before sleep": {}}, recall=shares)
        return run.note(scheduled.label, **facts)

    return dataclasses.replace(PHASES[name], function=function)


@pytest.fixture(scope="module", autouse=True)
def quick_phases():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lifecycle, "PHASES", {name: quick(name) for name in PHASES})
        patch.setattr(experiment_module, "tiny_model", functools.cache(tiny_model))
        yield


def config_of(documents, days, slots=3, **changes):
    config = tiny_config()
    config.data.documents, config.data.episodes = documents, days
    config.memory.slots, config.dreaming.steps = (slots,), 0
    config.update_from_flattened_dict(changes)
    return config


def without_costs(record):
    """A record without what differs between attempts."""
    costs = ("seconds", "memory", "programs", "compiled")
    phases = {
        label: {k: x for k, x in facts.items() if k not in costs}
        for label, facts in record["phases"].items()
    }
    return json.loads(json.dumps(record | {"phases": phases}))


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A finished run of one day."""
    workdir = tmp_path_factory.mktemp("first")
    experiment = load_experiment(config_of("samples:1", 1))
    run = lifecycle.run(experiment, str(workdir), quiet=True)
    write_report(workdir, summarise(experiment, run))
    return workdir


@pytest.fixture
def one_day(first, tmp_path):
    """A copy of it."""
    return shutil.copytree(first, tmp_path / "run")


def test_days_given_one_by_one_end_in_the_bits_of_one_call(one_day, tmp_path):
    config = config_of("samples:3", 3)
    want = lifecycle.run(load_experiment(config), str(tmp_path / "at_once"), quiet=True)
    for sample in (2, 3):
        given = read_source(f"samples:{sample}-{sample}")
        run = lifecycle.run(load_continued(one_day, given), str(one_day), quiet=True)
    assert equal(run.arrays, want.arrays) and active(run.current) == [3, 3]
    assert without_costs(run.record) == without_costs(want.record)
    streams = [x.rng_stream for x in load_continued(one_day).schedule]
    assert streams == [x.rng_stream for x in load_experiment(config).schedule]


def test_stopped_run_is_finished_under_its_own_settings_first(one_day, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    stopping = lifecycle.PHASES | {"evaluate": dataclasses.replace(PHASES["study"], function=stop)}
    given = read_source("samples:2-2")
    experiment = load_continued(one_day, given, {STEPS: 7, "checkpoint.save_interval_steps": 3})
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(lifecycle, "PHASES", stopping)
        lifecycle.run(experiment, str(one_day), quiet=True)
    assert not Run(one_day).is_finished
    known = known_run(one_day)
    assert len(known.days) == 2 and known.over == 1
    config = known.config
    config.data.documents, config.seeding.steps = "samples:2-3", 9  # one of them again
    experiment = known.with_days(config)
    line, change = known.lines(config, len(experiment.days), experiment.source)
    assert line == (
        f"continues {one_day}: 2 days known, 1 new; finishes day 2 first, under its own settings"
    )
    assert change == f"from day 3 on {STEPS}: 7 -> 9"
    assert experiment.source.endswith("all read; 1 of them read before, and left out")
    run = lifecycle.run(experiment, str(one_day), quiet=True)
    steps = {label: facts[STEPS] for label, facts in run.record["phases"].items()}
    assert [steps[x] for x in ("evaluate", "evaluate-2", "wake-3", "evaluate-3")] == [4, 7, 9, 9]
    assert [day.config.seeding.steps for day in read_days(one_day)] == [4, 7, 9]
    assert Run(one_day)["evaluate-2"].record["config"]["seeding"]["steps"] == 7
    assert [settings_changed(experiment, day) for day in range(3)] == [
        [],
        [f"{STEPS}: 4 -> 7"],
        [f"{STEPS}: 7 -> 9"],
    ]
    shown = days_shown(experiment, run)
    assert [row["settings"] for row in shown] == ["", f"{STEPS}: 4 -> 7", f"{STEPS}: 7 -> 9"]
    assert [row["night"] for row in shown] == ["kept"] * 3
    assert shown[0]["documents"] == "The Velmora Lighthouse (1 of 7)"
    page = write_report(one_day, summarise(experiment, run)).read_text()
    assert f"{STEPS}: 7 -&gt; 9" in page and "(3 of 7)" in page and Run(one_day).is_finished


def test_documents_of_past_days_need_not_exist(tmp_path):
    notes, workdir = tmp_path / "notes", tmp_path / "run"
    notes.mkdir()
    (notes / "monday.txt").write_text("The kettle of Aunt Brenna whistles in D minor.")
    lifecycle.run(load_experiment(config_of(str(notes), 1)), str(workdir), quiet=True)
    (notes / "monday.txt").unlink()
    (notes / "tuesday.txt").write_text("It was made in Orlo, of copper.")
    experiment = load_continued(workdir, read_source(notes))
    assert [d.text[:6] for d in experiment.documents] == ["The ke", "It was"]
    run = lifecycle.run(experiment, str(workdir), quiet=True)
    page = write_report(workdir, summarise(experiment, run)).read_text()
    assert "monday" in page and "tuesday" in page
    days_path(workdir).write_text(days_path(workdir).read_text().replace("kettle", "trumpet"))
    with pytest.raises(ValueError, match=r"days\.json: the documents of day 1 were changed"):
        known_run(workdir)


def test_memory_grows_where_it_is_full(tmp_path):
    workdir = tmp_path / "run"
    lifecycle.run(load_experiment(config_of("samples:1", 1, slots=1)), str(workdir), quiet=True)
    given = read_source("samples:2-4")
    days = {"data.episodes": 3}
    with pytest.raises(ValueError) as full:
        load_continued(workdir, given, days)
    assert str(full.value) == (
        "level 1 has 1 of its memory.slots=1 in use, and on day 2 none is free; give "
        "'--config.memory.slots=(4,)', or --config.memory.on_full=merge with "
        "'--config.memory.slots=(3,)'"
    )
    merging = {"memory.on_full": "merge", "memory.slots": (3,)}
    assert [x.phase for x in load_continued(workdir, given, days | merging).schedule].count("merge")
    before = Run(workdir).latest.restore("current.memory")
    experiment = load_continued(workdir, given, days | {"memory.slots": (4,)})
    run = lifecycle.run(experiment, str(workdir), quiet=True)
    assert active(run.current) == [4, 4]
    old = before["layers"]["level_1"]["experts"]
    for name, leaf in run.current.memory["layers"]["level_1"]["experts"].items():
        np.testing.assert_array_equal(leaf[:, :1], old[name], err_msg=name)
    again = lifecycle.run(load_continued(workdir), str(workdir), quiet=True)
    assert equal(again.arrays, run.arrays)


def test_run_that_stopped_on_a_full_level_goes_on_with_more_slots(tmp_path):
    workdir = tmp_path / "run"
    config = config_of("samples:2", 2, slots=1)
    with pytest.raises(SlotsExhausted, match="all in use"):
        lifecycle.run(load_experiment(config), str(workdir), quiet=True)
    with pytest.raises(ValueError, match="on day 2 none is free"):
        load_continued(workdir)
    experiment = load_continued(workdir, changes={"memory.slots": (2,)})
    run = lifecycle.run(experiment, str(workdir), quiet=True)
    assert active(run.current) == [2, 2] and known_run(workdir).over == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"memory.ranks": (8,)},
            r"memory\.ranks: \[4\] -> \[8\]: this setting stays .* slots that",
        ),
        ({"model.dtype": "bfloat16"}, "the model is the same for all nights"),
        ({"seed": 3}, "seed: 0 -> 3: .* the memory of the run was drawn with it"),
        ({"memory.slots": (2,)}, "memory.slots=2 of level 1: .* has 3, which can only become more"),
        ({STEPS: 9}, "seeding.steps: 4 -> 9: there is no new day"),
    ],
)
def test_settings_that_cannot_change_are_refused(first, changes, message):
    with pytest.raises(ValueError, match=message):
        load_continued(first, changes=changes)


def test_nothing_new_is_said(first):
    known = known_run(first)
    experiment = known.with_days(known.config)
    assert [*known.lines(known.config, len(experiment.days), experiment.source)] == [
        f"continues {first}: 1 day known, none new; it is finished"
    ]
    assert launch.show_run_plan(experiment, str(first), known) is None
    config = known.config
    config.data.documents = "samples:1"
    experiment = known.with_days(config)
    [line] = known.lines(config, len(experiment.days), experiment.source)
    assert line.endswith("it is finished (1 part of the samples, all read; 1 of them read before, "
                         "and left out)")  # fmt: skip
    with pytest.raises(ValueError, match="it is finished, and no new documents are given"):
        plan_of(config, known)


def test_plan_of_a_continued_run_shows_the_new_days(first, monkeypatch, capsys):
    monkeypatch.setenv("SLEEP_JAX_QUIET", "")
    known = known_run(first)
    config = known.config
    config.data.documents, config.data.episodes = "samples:2-3", 2
    plan = plan_of(config, known)
    lines = [*plan.lines()]
    assert lines[1].startswith("days        2 days of 1 part, 2 nights (8 phases)")
    assert lines[2] == "slots       level 1: 3 of 3 in use at most, full after day 3"
    launch.show_run_plan(known.with_days(config), str(first), known)
    assert capsys.readouterr().out.splitlines()[:4] == lines[:4]


def test_known_run_is_refused_where_there_is_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"--continue={tmp_path}: no run is there; begin"):
        known_run(tmp_path)
    for name in "abcdefg":
        (tmp_path / name / "checkpoints").mkdir(parents=True)
    named = ", ".join(str(tmp_path / name) for name in "abcde")
    with pytest.raises(FileNotFoundError, match=f"no run is there; there are {named} and 2 more"):
        known_run(tmp_path)


def test_run_of_an_older_version_reads_its_documents_once_more(one_day):
    days_path(one_day).unlink()
    assert [len(day.documents) for day in known_run(one_day).days] == [1]
    experiment = load_continued(one_day, read_source("samples:2-2"))
    assert experiment.days[0].config == known_run(one_day).days[0].config


def test_run_with_more_days_is_not_run_with_fewer(one_day):
    lifecycle.run(load_continued(one_day, read_source("samples:2-2")), str(one_day), quiet=True)
    with pytest.raises(ValueError, match=r"has 2 days, and this is one of 1; go on with --contin"):
        lifecycle.run(load_experiment(config_of("samples:1", 1)), str(one_day), quiet=True)


@flagsaver.flagsaver  # other tests see none of its flags
def test_parse_takes_the_config_of_the_run(first):
    line = ["launch.py", f"--continue={first}", "--config.data.documents=x.txt"]
    config, workdir = parse([*line, "--config.seeding.steps=9", "--config.memory.slots=(5,)"])
    assert workdir == str(first) and config.seeding.steps == 9 and config.memory.slots == (5,)
    assert (config.data.documents, config.data.episodes, config.model.name) == ("x.txt", 1, "tiny")
    for more, message in (
        ("--workdir=elsewhere", "--workdir=elsewhere: --continue goes on in the directory"),
        ("--config=configs/sleep_tiny.py", "--config: --continue takes the run's own config"),
        ("--config.seeding.step=9", "no such field; nearest: --config.seeding.steps"),
    ):
        with pytest.raises(ValueError, match=message):
            parse([*line, more])


def test_days_are_read_as_they_were_written(tmp_path):
    experiment = load_experiment(config_of("samples:2", 2))
    days = [dataclasses.replace(day, config=experiment.config) for day in experiment.days]
    write_days(tmp_path, days)
    assert read_days(tmp_path) == tuple(days) and days[0].questions
    assert read_days(tmp_path / "elsewhere") == ()
