"""Dreams about grid tasks: a model writes recipes, another one tries each, and the writer learns
those that solved their task (ReST-EM)."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from small import FORM, TEMPLATE

from sleep_jax.data.documents import Document
from sleep_jax.data.examples import make_examples
from sleep_jax.data.grid_transforms import IDENTITY
from sleep_jax.data.grids import GridTask
from sleep_jax.dreaming.recipe import Recipe, parse_recipe
from sleep_jax.dreaming.recipe_training import RecipeTrainingConfig, train_on_recipes
from sleep_jax.dreaming.reinforce import supervised_exchanges
from sleep_jax.dreaming.rejection import RejectionConfig
from sleep_jax.dreaming.trial import TrialConfig, init_adapters, train_adapters
from sleep_jax.dreaming.write import Dream, WritingConfig, write_dreams
from sleep_jax.evals.adapted import AdaptedModels
from sleep_jax.evals.grid_answers import is_solved, majority_votes
from sleep_jax.evals.items import Item
from sleep_jax.evals.scorers import make_scorer
from sleep_jax.interop.prompts import Prompts
from sleep_jax.models.decoder_config import DecoderConfig

Tried = Sequence[tuple[GridTask, Recipe]]
SPARE = 2  # times as many recipes are written as are kept, for some may be none


@dataclasses.dataclass(frozen=True)
class Learner:
    """The model that practises; every dream changes an adapter of its own, never the model.

    Attributes:
      base: the model.
      trial: how an adapter is trained.
      practice: on how much.
    """

    base: AdaptedModels
    trial: TrialConfig
    practice: RecipeTrainingConfig

    def can_read(self, task: GridTask) -> bool:
        """Whether a task is short enough to be asked; a longer one counts as not solved."""
        prompts = Prompts(self.base.tokenizer)
        asked = len(prompts.without_context(FORM.question(task)))
        reply = max(len(prompts.reply(FORM.grid(test.output))) for test in task.tests)
        return asked + reply <= self.practice.max_tokens and reply <= self.base.max_new_tokens

    def after(self, dreams: Tried) -> tuple[list[int], AdaptedModels | None]:
        """(indices of the dreams that were tried, the model that each made)."""
        readable = [i for i, (task, _) in enumerate(dreams) if self.can_read(task)]
        adapters = init_adapters(self.base.cfg, self.base.variables["params"], jax.random.key(0), 1)
        chosen = [dreams[i] for i in readable]
        order = jax.random.key(self.practice.seed)
        tried, models = train_on_recipes(
            self.base, self.trial, adapters, chosen, FORM, self.practice, order
        )
        return [readable[i] for i in tried], models


def solved(
    count: int, tried: Sequence[int], models: AdaptedModels | None, asked: Sequence[Sequence[Item]]
) -> np.ndarray:
    """Which of `count` dreams answered all that was asked, bool [count].

    Args:
      count: dreams, or tasks.
      tried: those that have a model; no other solves anything.
      models: theirs.
      asked: of every dream its questions.
    """
    out = np.zeros(count, bool)
    if tried:
        marks = make_scorer("grid")(models, [asked[i] for i in tried])
        out[tried] = [mark.mean == 1 for mark in marks]
    return out


def solved_by_vote(
    tried: Sequence[int], models: AdaptedModels | None, tasks: Sequence[GridTask], views=(IDENTITY,)
) -> np.ndarray:
    """The same by a vote over views (transforms) of each dream's task."""
    out = np.zeros(len(tasks), bool)
    if tried:
        chosen = [tasks[i] for i in tried]
        grids = majority_votes(models, chosen, FORM, views)
        out[tried] = [is_solved(own, task) for own, task in zip(grids, chosen)]
    return out


def documents_of(tasks: Sequence[GridTask]) -> list[Document]:
    """What a writer sees of each task: its examples."""
    return [Document(task.name, "", FORM.examples(task)) for task in tasks]


def write_recipes(
    cfg: DecoderConfig, variables: Any, learner: Learner, tasks: Sequence[GridTask], count: int, rng
) -> list[Dream]:
    """The first `count` recipes that a model writes about each task, as SEAL samples them; what is
    no recipe is written again.

    Args:
      cfg, variables: the writer, an adapter of its own (`lora`) included.
      learner: whose tokenizer it shares.
      tasks: about which; one that the learner cannot read has no dreams.
      count: of each.
      rng: PRNG key.
    """
    readable = [i for i, task in enumerate(tasks) if learner.can_read(task)]
    config = WritingConfig(
        (TEMPLATE,), SPARE * count, max_new_tokens=24, rejection=RejectionConfig(similarity=0)
    )
    pages = documents_of([tasks[i] for i in readable])
    written = write_dreams(cfg, config, variables, learner.base.tokenizer, pages, None, rng)
    kept = []
    for i, task in enumerate(readable):
        own = [dream for dream in written.dreams if dream.document == i][:count]
        kept += [dataclasses.replace(dream, document=task) for dream in own]
    return kept


def pairs_of(dreams: Sequence[Dream], tasks: Sequence[GridTask]) -> Tried:
    """Every dream as its task and its recipe."""
    return [(tasks[dream.document], parse_recipe(dream.text)) for dream in dreams]


def learn_to_write(
    cfg: DecoderConfig,
    trial: TrialConfig,
    learner: Learner,
    dreams: Sequence[Dream],
    tasks: Sequence[GridTask],
):
    """The writer once it has learnt some dreams by heart: the model's collections with an adapter.

    Args:
      cfg: with the writer's adapter (`lora`).
      trial: how it is trained.
      learner: whose model it starts from.
      dreams: the rewarded ones.
      tasks: what they are about.
    """
    tokenizer, variables = learner.base.tokenizer, learner.base.variables
    taught = supervised_exchanges(
        dreams, documents_of(tasks), Prompts(tokenizer), {TEMPLATE.name: TEMPLATE}
    )
    learnt = make_examples([[(x.student, x.completion) for x in taught]], is_packed=False)
    key = jax.random.key(1)
    adapters = init_adapters(cfg, variables["params"], key, 1)
    trained, _ = train_adapters(cfg, trial, variables, adapters, learnt, rng=key)
    return {**variables, "lora": trained}
