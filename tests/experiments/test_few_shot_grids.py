"""Few-shot grids: its tasks, tokens, table, and its flow on an untrained decoder."""

import dataclasses
import functools
import json

import numpy as np
import pytest

from sleep_jax.data.grid_transforms import SYMMETRIES
from sleep_jax.dreaming.recipe import parse_recipe
from sleep_jax.dreaming.write import Dream

EXPERIMENT = "few_shot_grids"
MODULES = ("rules", "small", "dreams", "table", "run")


def test_draw_tasks_rules_change_every_grid(lab):
    tasks = lab.rules.draw_tasks(3, 200)
    assert {task.name.split("-")[0] for task in tasks} == {*lab.rules.FAMILIES}
    assert all(pair.input != pair.output for task in tasks for pair in task.pairs)
    assert tasks[:5] == lab.rules.draw_tasks(3, 5) != lab.rules.draw_tasks(4, 5)
    # All pairs of a task of these families are related by one symmetry.
    for task in tasks:
        if task.name.split("-")[0] in ("flip", "rotate", "transpose"):
            assert any(all(t(p.input) == p.output for p in task.pairs) for t in SYMMETRIES)


def test_task_with_recipe_has_small_and_large_tasks(lab):
    tokenizer, rng = lab.small.make_tokenizer(), np.random.default_rng(0)
    texts = [lab.small.task_with_recipe(rng) for _ in range(200)]
    lengths = sorted(len(lab.small.encode(tokenizer, text)) for text in texts)
    assert lengths[100] < 100 < 300 < lengths[-1] <= lab.small.ROOM[1]
    for text in texts:
        _, recipe = text.removesuffix(lab.small.END).split(lab.small.ASK)
        parse_recipe(recipe)
    assert len(lab.small.encode(tokenizer, lab.small.task_with_solution(rng))) <= lab.small.ROOM[0]
    grid = lab.rules.draw_task(rng, shape=(3, 5), shown=4)
    assert len(grid.examples) == 4
    assert {(len(pair.input), len(pair.input[0])) for pair in grid.pairs} == {(3, 5)}


def test_recipe_text_has_16_tokens_and_parses_back(lab):
    tokenizer, rng = lab.small.make_tokenizer(), np.random.default_rng(0)
    for _ in range(50):
        recipe = lab.small.random_recipe(rng)
        tokens = lab.small.encode(tokenizer, recipe.text + lab.small.END)
        assert len(tokens) == 16 and parse_recipe(tokenizer.decode(tokens)) == recipe


def test_reply_mask_covers_outputs_and_recipes(lab):
    tokenizer, form = lab.small.make_tokenizer(), lab.small.FORM
    [task] = lab.rules.draw_tasks(0, 1)
    made = [form.grid(pair.output) for pair in task.pairs]
    rows = {
        form.question(task) + made[-1]: form.pair_separator.join(made),
        form.examples(task) + lab.small.ASK + "12": form.pair_separator.join(made[:-1])
        + form.pair_separator
        + "12",
    }
    for text, expected in rows.items():
        tokens = np.array([lab.small.encode(tokenizer, text + lab.small.END) + [0, 0]])
        mask = lab.small.reply_mask(tokens, tokenizer)
        assert tokenizer.backend.decode(tokens[mask].tolist(), skip_special_tokens=False) == (
            expected + lab.small.END
        )


@pytest.mark.slow
def test_experiment_runs_and_a_second_call_reads_its_files(lab, tmp_path, monkeypatch):
    settings, rng = lab.run.SMOKE, np.random.default_rng(0)

    def random_recipes(cfg, variables, learner, tasks, count, _):
        """In place of the untrained decoder, which writes none."""
        readable = [i for i, task in enumerate(tasks) if learner.can_read(task)]
        texts = [(i, lab.small.random_recipe(rng).text) for i in readable for _ in range(count)]
        encode = functools.partial(lab.small.encode, learner.base.tokenizer)
        return [Dream(i, "recipe", tuple(encode(t + lab.small.END)), t, True) for i, t in texts]

    monkeypatch.setattr(lab.run, "write_recipes", random_recipes)
    monkeypatch.setattr(lab.run, "rewarded_dreams", lambda dreams, earned: dreams[:2])
    arc = lab.rules.draw_tasks(5, 2)
    long = dataclasses.replace(arc[0], name="long", examples=arc[0].examples * 20)
    out = lab.run.experiment(settings, tmp_path, [*arc, long], seed=0)
    assert len(out["dreams"]["earned"]) == settings.tasks * settings.dreams[0]
    sets = {"generated": out["generated"], "ARC": out["ARC"]}
    for (name, result), tasks in zip(sets.items(), (settings.tasks, 3)):
        assert result["baselines"]["tasks"] == result["after"]["tasks"] == tasks, name
        assert result["after"]["asked"] == tasks * settings.dreams[1]
        assert len(result["after"]["dreams"]) == 2 * settings.dreams[1]  # `long` has none
        assert all(0 <= solved <= tasks for solved in result["baselines"]["arms"].values())
    written = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    stages = {"candidates-0.json", "dreams-0.json", "ARC-after-0.json"}
    assert stages | {"settings.json", "small.npz"} <= {*written}
    assert len(written) == 10
    assert lab.run.experiment(settings, tmp_path, [*arc, long], seed=0) == out
    assert written == {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert "| in context |" in table_of(lab, sets)


def table_of(lab, *results):
    return lab.table.table(lab.table.summary(results))


def test_table_has_shares_of_dreams_and_of_tasks(lab):
    baselines = {"arms": {"in context": 1}, "tasks": 4}
    dreams = {"earned": [True, False, True], "asked": 20, "tasks": 4, "hit": 1}
    sets = {"set": {"baselines": baselines, "before": dreams}}
    sets["other"] = sets["set"] | {"before": dreams | {"earned": [], "hit": 0}}
    assert table_of(lab, sets).splitlines() == [
        "| | set | other |",
        "|---|---|---|",
        "| in context | 25 % (1 of 4) | 25 % (1 of 4) |",
        "| dreams, before | 10 % (2 of 20) | none tried (of 20) |",
        "| tasks that a dream solves, before | 25 % (1 of 4) | none tried (of 4) |",
    ]
    better = {"set": {"baselines": {"arms": {"in context": 3}, "tasks": 4}, "before": dreams}}
    assert table_of(lab, {"set": sets["set"]}, better).splitlines()[2:4] == [
        "| in context | 50 % (4 of 8; 1, 3) |",
        "| dreams, before | 10 % (4 of 40; 2, 2) |",
    ]


def test_gain_is_of_dreams_and_its_interval_over_tasks(lab):
    def result(earned):
        dreams = [{"document": task} for task in (0, 0, 1, 1)]
        return {"dreams": dreams, "earned": earned, "asked": 6, "tasks": 3}

    # Two dreams a task; about the third task none was written.
    before, after = result([True, False, False, False]), result([True, True, False, True])
    seed = {"set": {"before": before, "after": after}}
    assert lab.table.gain([seed], "set") == pytest.approx((100 / 3, 0.0, 50.0))
    nothing = {"set": {"before": before, "after": before}}
    assert lab.table.gain([seed, nothing], "set")[:2] == pytest.approx((100 / 6, 0.0))
    generated = {"generated": seed["set"] | {"baselines": {"arms": {}, "tasks": 3}}}
    generated["generated"] = {
        name: x | {"hit": 1} if name != "baselines" else x
        for name, x in generated["generated"].items()
    }
    line = "After less before, generated: +33.3 points of dreams [+0.0, +50.0], 95 % over tasks."
    assert table_of(lab, generated).endswith(line)


def test_table_of_the_readme_is_that_of_the_results(lab):
    page = lab.run.README.read_text(encoding="utf-8")
    [published] = page.split(lab.run.MARKS[0])[1].split(lab.run.MARKS[1])[:1]
    results = json.loads(lab.run.RESULTS.read_text(encoding="utf-8"))
    assert published.strip() == lab.table.table(results)
