"""What a run says that it will do, against what it then does."""

import functools
import math
import re
import runpy
from types import SimpleNamespace

import pytest

from sleep_jax.config import read
from sleep_jax.data.documents import Document
from sleep_jax.days import Day
from sleep_jax.experiment import load_experiment
from sleep_jax.forecast import dry_run as dry_runs
from sleep_jax.forecast import run_plan, timing
from sleep_jax.forecast.dry_run import dry_run, plan_of
from sleep_jax.forecast.run_plan import RunPlan, about_tokens
from sleep_jax.memory.memory_config import LevelConfig, MemoryConfig
from sleep_jax.run_schedule import run_schedule
from sleep_jax.seeding.sequences import pack_exchanges


def preset(name="sleep_tiny", **changes):
    config = runpy.run_path(f"configs/{name}.py")["get_config"]()
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return config


def plan_over(memory, days, **changes):
    """Of so many days of one document each."""
    config = preset(**changes)
    reading = tuple(Day.of([Document(f"d{i}", "T", "One. Two.")]) for i in range(days))
    steps = run_schedule(memory, [9] * days, dreams=False)
    cfg = plan_of(preset()).cfg.replace(memory=memory)
    return RunPlan.of(config, cfg, f"{days} parts", reading, str.split, steps)


def lines_of(plan, start):
    return [line.removeprefix(start).strip() for line in plan.lines() if line.startswith(start)]


def test_plans_of_a_note_a_folder_and_a_book(tmp_path):
    note, folder, book = (tmp_path / name for name in ("note.txt", "folder", "book.txt"))
    note.write_text("A kettle whistles.")
    folder.mkdir()
    for i in range(30):
        (folder / f"{i}.md").write_text(f"Note number {i}.")
    book.write_text("\n\n".join(f"Paragraph {i}. " + "word " * 30 for i in range(100)))
    plans = {path: plan_of(preset(data__documents=str(path))) for path in (note, folder, book)}
    assert lines_of(plans[note], "documents") == ["1 part of 1 file, all read; 18 tokens"]
    [line] = lines_of(plans[folder], "documents")
    assert line.startswith("30 parts of 30 files, all read; ")
    assert [len(p.sizes.contexts) for p in plans.values()] == [1, 30, 100]
    assert lines_of(plans[book], "days") == ["1 day of 100 parts, 1 night (8 phases)"]
    assert len({lines_of(plan, "written")[0] for plan in plans.values()}) == 3
    with pytest.raises(FileNotFoundError, match=r"does not exist; give a \.txt"):
        plan_of(preset(data__documents=str(tmp_path / "none.txt")))
    with pytest.raises(ValueError, match=r"data\.episodes=3, but there are 1"):
        plan_of(preset(data__documents=str(note), data__episodes=3))


def test_plan_of_nights_by_epochs_counts_updates_day_by_day():
    short, long = (Document(f"d{i}", "T", "One fox ran. " * i) for i in (1, 12))
    days = tuple(map(Day.of, ([short], [long], [short, long])))
    config = preset(seeding__epochs=2.0, dreaming__steps=0)
    cfg = plan_of(preset()).cfg
    schedule = run_schedule(cfg.memory, [9] * 3, dreams=False)
    plan = RunPlan.of(config, cfg, "3 parts", days, str.split, schedule)
    first, second, third = plan._updates_by_day
    assert first < second < third
    # As a night of these sizes would count them: ceil(2 * rows / batch_size).
    exchanges = plan._sizes(1, 1).exchanges
    shape = read(config).seeding.shape
    assert first == math.ceil(2 * len(pack_exchanges(exchanges, shape)) / shape.batch_size)
    [line] = lines_of(plan, "updates")
    assert line.startswith(f"{first} to {third} updates a consolidation, {first + second + third}")
    [line] = lines_of(plan_over(cfg.memory, 3, dreaming__steps=0), "updates")
    assert line.startswith("4 updates a consolidation, 12 in all; at most")


def test_plan_warns_of_too_few_updates_with_the_remedy(tmp_path):
    book = tmp_path / "book.txt"
    book.write_text("\n\n".join(f"Paragraph {i}. " + "word " * 30 for i in range(100)))
    config = preset(
        data__documents=str(book), seeding__batch_size=2, seeding__max_target_length=288
    )
    plan = plan_of(config)
    [warned] = plan.warnings()
    capacity, tokens = 4 * 2 * 288, sum(map(sum, plan.tokens))
    assert f"they hold {capacity:,} learnt tokens" in warned
    takes = (1 + 1) * tokens  # a recitation, and one completion of each sentence
    assert f"once takes {takes:,}, so a part is learnt {capacity / takes:.2f} times" in warned
    assert lines_of(plan, "updates")[0].startswith(
        "4 updates a consolidation, 4 in all; at most 23 learnt"
    )
    steps = -(-takes * 4 // capacity)
    assert f"seeding.steps={steps:,}" in warned
    config.seeding.steps = steps
    assert not [*plan_of(config).warnings()]


@pytest.mark.parametrize(
    ("on_full", "what"),
    [
        ("error", "the run stops there"),
        ("skip", "nights from then on are skipped"),
        ("reuse", "later nights overwrite the last slot"),
    ],
)
def test_plan_warns_of_too_few_slots_with_the_remedy(on_full, what):
    memory = MemoryConfig((LevelConfig(slots=3, rank=4),), unit="episodes", on_full=on_full)
    plan = plan_over(memory, days=5)
    assert lines_of(plan, "slots") == ["level 1: 3 of 3 in use at most, full after day 3"]
    warned = [x for x in plan.warnings() if "slots" in x and "level" in x]
    assert (
        len(warned) == 1
        and f"level 1 has 3 slots for 5 nights: on day 4 none is free and {what}" in warned[0]
    )
    assert "memory.slots of 5" in warned[0] and "in the same workdir later" in warned[0]


def test_plan_counts_merges():
    memory = MemoryConfig((LevelConfig(slots=3, rank=4),), unit="episodes", on_full="merge")
    plan = plan_over(memory, days=5)
    assert lines_of(plan, "slots") == [
        "level 1: 2 of 3 in use at most, 3 merges, the first on day 3"
    ]
    assert not [x for x in plan.warnings() if "slots" in x and "level" in x]
    assert plan.nights == plan.consolidations == 5 and plan.merges == 3
    updates = f"4 updates a consolidation or merge, {(5 + 3) * 4} in all"
    assert lines_of(plan, "updates")[0].startswith(updates)
    rehearsed, rolled_out = 40 * 3 * 8, 1 * 4 * 2 * 8
    [written] = lines_of(plan, "written")
    assert f"{3 * rehearsed:,} in replays" in written
    assert written.endswith(f"{(5 + 3) * rolled_out:,} in rollouts")


def test_plan_counts_replies_to_earlier_questions():
    levels = (LevelConfig(period=2, slots=2, rank=4), LevelConfig(slots=4, rank=4))
    memory = MemoryConfig(levels, unit="episodes")

    def written(**study):
        [line] = lines_of(plan_over(memory, days=4, **study), "written")
        numbers = [int(x.replace(",", "")) for x in re.findall(r"[\d,]*\d", line)]
        return dict(zip(("all", "study", "replays"), numbers))

    none, some = written(), written(study__earlier_questions=5)
    # Each night but the first, and of the two replays the second, which hands over day 2 to 4.
    assert some["study"] - none["study"] == 3 * 5 * 8
    assert some["replays"] - none["replays"] == 5 * 8
    stored = written(study__earlier_questions=5, study__earlier_answers="stored")
    assert stored == none


def test_plan_empties_a_level_that_hands_over():
    levels = (LevelConfig(period=2, slots=2, rank=4), LevelConfig(slots=4, rank=4))
    plan = plan_over(MemoryConfig(levels, unit="episodes"), days=6)
    assert lines_of(plan, "slots") == [
        "level 1: 2 of 2 in use at most, full after day 3",  # it is emptied before it is filled
        "level 2: 3 of 4 in use at most",
    ]
    assert not [x for x in plan.warnings() if "none is free" in x]
    assert (plan.nights, plan.consolidations) == (6, 6 + 3)
    assert lines_of(plan, "days") == ["6 days of 1 part, 6 nights, 9 consolidations (27 phases)"]
    assert lines_of(plan, "updates")[0].startswith("4 updates a consolidation, 36 in all")
    assert plan.seedings == 9 / 6


def test_plan_counts_written_tokens():
    plan = plan_of(preset())
    assert lines_of(plan, "days") == ["1 day of 2 parts, 1 night (8 phases)"]
    asked = sum(len(run_plan.sentences(d.text)) for day in plan.days for d in day.documents)
    study, dreams, rollouts = asked * (8 + 8) + 40 * 3 * 8, 2 * 2 * 16, 1 * 4 * 2 * 8
    assert lines_of(plan, "written") == [
        f"at most {study + dreams + rollouts:,} tokens beside the answers that are graded: "
        f"{study:,} in study, {dreams:,} in dreams, {rollouts:,} in rollouts"
    ]
    two = plan_of(preset(data__episodes=2))  # on day 2 a weak document of day 1, too
    assert f"{dreams * 3 // 2:,} in dreams" in lines_of(two, "written")[0]
    config = preset(model__thinking=True, model__thought_tokens=24)
    thinking = RunPlan.of(config, plan.cfg, "", plan.days, str.split, plan.schedule)
    assert f"{dreams * (16 + 24) // 16:,} in dreams" in lines_of(thinking, "written")[0]


def test_plan_says_the_automatic_rate_and_warns_of_one_far_below_it(tmp_path):
    """Width 4096 and rank 64: 1.9e-3."""
    note = tmp_path / "note.txt"
    note.write_text("A kettle whistles.")
    plan = plan_of(preset("seeding_8b", data__documents=str(note)))
    assert "; learning rate 0.0019; at least" in lines_of(plan, "updates")[0]
    assert not [x for x in plan.warnings(is_here=False) if "learning_rate" in x]
    low = {"data__documents": str(note), "seeding__learning_rate": 5e-6}
    [line] = plan_of(preset("seeding_8b", **low)).warnings(is_here=False)
    assert line.startswith("seeding.learning_rate=5e-06 is 1/375 of the rate 0.0019 that 'auto' ")
    assert line.endswith("set seeding.learning_rate='auto', or gate.divergence=inf")
    ungated = plan_of(preset("seeding_8b", **low, gate__divergence=float("inf")))
    assert not list(ungated.warnings(is_here=False))


def test_plan_counts_the_tokens_of_variants():
    changes = {"study__multiple": 2, "study__max_variant_tokens": 40}
    plan, without = plan_of(preset(**changes)), plan_of(preset())
    turns = -(
        -2 * 2 * max(*plan.tokens[0]) // (4 * 40)
    )  # of four kinds, twice the multiple at most
    topics = sum(len(run_plan.sentences(d.text)) for d in plan.days[0].documents)
    variants = 2 * turns * 4 * 40 + topics * 8  # and a suggestion for each sentence
    counted = [
        int(lines_of(x, "written")[0].split(" in study")[0].split()[-1].replace(",", ""))
        for x in (plan, without)
    ]
    assert counted[0] - counted[1] == variants
    much = plan_of(preset(**changes | {"study__multiple": 100}))
    [warned] = [line for line in much.warnings() if "night" in line]
    assert "and its variants, takes" in warned


def test_plan_counts_updates_on_dreams():
    assert lines_of(plan_of(preset()), "updates")[0].endswith("; at least 2 updates on dreams")
    config = preset(dreaming__restart="base")  # what the night learnt is learnt again
    assert lines_of(plan_of(config), "updates")[0].endswith("; at least 6 updates on dreams")


def test_plan_warns_of_a_small_disk(tmp_path, monkeypatch):
    usage = functools.partial(lambda free, _: type("usage", (), {"free": free}))
    monkeypatch.setattr(run_plan.shutil, "disk_usage", functools.partial(usage, 2**20))
    plan = plan_of(preset())
    monkeypatch.setattr(RunPlan, "_bytes", lambda self: 3 * 2**30)
    [warned] = plan.warnings(str(tmp_path))
    assert (
        "has 1.0 MiB of disk left, the run writes about 3.0 GiB; set checkpoint.max_to_keep"
        in warned
    )
    [warned] = plan.warnings(str(tmp_path / "not" / "made"))
    assert warned.endswith("another --workdir")
    assert not [*plan.warnings("gs://bucket/run")]
    monkeypatch.setattr(timing, "_seconds", lambda program: 1e-3)
    lines = dry_run(plan.config, "", plan, str(tmp_path / "run"))
    assert any("of disk left" in line for line in lines)


def test_plan_estimates_tokens_without_a_tokenizer(tmp_path, monkeypatch):
    assert len(about_tokens("é" * 4)) == 2 and len(about_tokens("abc")) == 1
    note = tmp_path / "note.txt"
    note.write_text("x" * 400)
    plan = plan_of(preset("seeding_8b", data__documents=str(note)))
    assert not plan.is_exact
    assert lines_of(plan, "documents") == ["1 part of 1 file, all read; about 100 tokens"]


def test_plan_refuses_what_the_run_would(monkeypatch):
    with pytest.raises(ValueError, match="the chat template of the tiny model has no <think>"):
        plan_of(preset(model__thinking=True, model__thought_tokens=24))
    short = plan_of(preset()).cfg.replace(max_position=100)
    monkeypatch.setattr(dry_runs, "decoder_of", lambda _: short)
    with pytest.raises(ValueError, match="was trained on sequences of up to 100 tokens"):
        plan_of(preset())


def test_plan_has_the_schedule_of_the_run():
    config = preset(
        memory__unit="tokens",
        memory__stride=32,
        memory__periods=(64, 0),
        memory__slots=(2, 40),
        memory__ranks=(4, 4),
        memory__learning_rates=(0.5, 0.0),
        memory__from_context=False,
        dreaming__steps=0,
    )
    assert plan_of(config).schedule == load_experiment(config).schedule


def test_plan_disk_is_the_size_of_its_checkpoints():
    plan = plan_of(preset())
    collections = run_plan.collections_of(plan.config, plan.cfg)
    memory, slots, learner = (
        run_plan._size(collections[n]) for n in ("memory", "slots", "learner")
    )
    # One level of two slots: the whole bank, and a slot as it was in the evening and before dreams.
    assert preset().memory.slots == (2,)
    each = memory + 2 * memory / 2 + 3 * slots
    assert plan._bytes() == len(plan.schedule) * each + 2 * learner
    few = preset(checkpoint__max_to_keep=2)
    assert (
        RunPlan.of(few, plan.cfg, "", plan.days, str.split, plan.schedule)._bytes() < plan._bytes()
    )


def test_plan_warns_of_a_day_that_would_fill_the_memory(monkeypatch):
    plan = plan_of(preset())
    monkeypatch.setattr(run_plan, "memory_at_hand", lambda: 2**17)
    [warned] = plan.warnings()
    needed = max(plan._context(), plan._trials())  # a trial has no context
    assert f"2 parts asks for {run_plan._gib(needed)} beside the model, and there" in warned
    assert "data.episodes" in warned and "dreaming.curriculum.recent" in warned
    assert not [*plan.warnings(is_here=False)]
    few = preset(dreaming__curriculum__recent=1)
    fewer = RunPlan.of(few, plan.cfg, "", plan.days, str.split, plan.schedule)
    assert fewer._trials() == plan._trials() / 2


def test_plan_compares_its_memory_with_what_the_model_leaves(monkeypatch):
    plan = plan_of(preset())
    collections = run_plan.collections_of(plan.config, plan.cfg)
    model = sum(run_plan._size(collections[name]) for name in ("params", "memory", "slots"))
    needed = max(plan._context(), plan._trials())
    monkeypatch.setattr(run_plan, "memory_at_hand", lambda: needed + model - 1)
    assert not [*plan.warnings()]
    [warned] = plan.warnings(is_loaded=False)
    assert "beside the model" in warned


def test_plan_counts_an_adapter_a_page_for_passages():
    plan = plan_of(preset())
    config = preset(dreaming__baseline="passage", dreaming__trial__seeds=3)
    against = RunPlan.of(config, plan.cfg, "", plan.days, str.split, plan.schedule)
    each = config.dreaming.keep_top + config.dreaming.keep_random
    assert against._trials() == plan._trials() * 3 * (each + 1) / each


def test_plan_says_that_it_leaves_out_tasks():
    memory = MemoryConfig((LevelConfig(slots=2, rank=4),))
    assert not lines_of(plan_over(memory, 1), "tasks")
    plan = plan_over(memory, 1, evaluation__tasks=("instructions", "anchors"))
    words = (
        "instructions, anchors: before and after every night; what they take is not in this plan"
    )
    assert lines_of(plan, "tasks") == [words]


def test_plan_bounds_the_hidden_states_of_a_night(monkeypatch):
    few, many = (plan_of(preset(seeding__teacher_memory=x)) for x in (1e-6, 16.0))
    exchanges = [*many.sizes.exchanges, *many.sizes.probe]
    exchanges += run_plan.known_probe(many.sizes.exchanges)
    total = 4 * 64 * sum(len(e.completion) for e in exchanges)  # float32, 64 wide, no trunk
    assert many._hidden_states() == (total, 0)
    assert few._hidden_states() == (1e-6 * 2**30, total - 1e-6 * 2**30)
    [line] = [line for line in few.lines() if line.startswith("host")]
    assert "(seeding.teacher_memory), and up to" in line and "TMPDIR" in line
    assert not [*few.warnings()]
    monkeypatch.setattr(run_plan.tempfile, "gettempdir", lambda: "/")
    monkeypatch.setattr(run_plan.shutil, "disk_usage", lambda _: SimpleNamespace(free=99))
    [warned] = few.warnings()
    assert "of disk left" in warned and "raise seeding.teacher_memory" in warned
    assert not [*many.warnings()]
