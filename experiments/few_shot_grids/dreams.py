"""Dreams about grid tasks: a model writes recipes, another one tries each, and the writer learns
those that solved their task (ReST-EM).
"""

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
from sleep_jax.dreaming.adapters import init_adapters
from sleep_jax.dreaming.recipe import Recipe, parse_recipe
from sleep_jax.dreaming.recipe_training import RecipeTrainingConfig, train_on_recipes
from sleep_jax.dreaming.reinforce import supervised_exchanges
from sleep_jax.dreaming.rejection import RejectionConfig
from sleep_jax.dreaming.trial import TrialConfig, train_adapters
from sleep_jax.dreaming.write import Dream, WritingConfig, write_dreams
from sleep_jax.evals.adapted import AdaptedModels
from sleep_jax.evals.grid_answers import is_solved, majority_votes
from sleep_jax.evals.items import Item
from sleep_jax.evals.scorers import make_scorer
from sleep_jax.interop.prompts import Prompts
from sleep_jax.models.decoder_config import DecoderConfig

Tried = Sequence[tuple[GridTask, Recipe]]
SPARE = 2  # texts written for each recipe that is kept, since some are no recipe


@dataclasses.dataclass(frozen=True)
class Learner:
    """The model that is trained by recipes: every dream trains an adapter of its own, the model
    stays as it is.

    Attributes:
      base: the model.
      trial: how an adapter is trained.
      practice: how many sequences of which length it is trained on.
    """

    base: AdaptedModels
    trial: TrialConfig
    practice: RecipeTrainingConfig

    def can_read(self, task: GridTask) -> bool:
        """Whether a task is short enough for the model; a longer one counts as not solved."""
        prompts = Prompts(self.base.tokenizer)
        question = len(prompts.without_context(FORM.question(task)))
        reply = max(len(prompts.reply(FORM.grid(test.output))) for test in task.tests)
        return question + reply <= self.practice.max_tokens and reply <= self.base.max_new_tokens

    def trained_by(self, dreams: Tried) -> tuple[list[int], AdaptedModels | None]:
        """(indices of the dreams that were tried, the model that each trained)."""
        readable = [i for i, (task, _) in enumerate(dreams) if self.can_read(task)]
        adapters = init_adapters(self.base.cfg, self.base.variables["params"], jax.random.key(0), 1)
        chosen = [dreams[i] for i in readable]
        order = jax.random.key(self.practice.seed)
        tried, models = train_on_recipes(
            self.base, self.trial, adapters, chosen, FORM, self.practice, order
        )
        return [readable[i] for i in tried], models


def solved(
    count: int, tried: Sequence[int], models: AdaptedModels | None, items: Sequence[Sequence[Item]]
) -> np.ndarray:
    """Which of `count` dreams trained a model that answers all of its items, bool [count].

    Args:
      count: dreams, or tasks.
      tried: indices of those that have a model; the others count as not solved.
      models: of the tried ones.
      items: the questions to each dream's model.
    """
    out = np.zeros(count, bool)
    if tried:
        scores = make_scorer("grid")(models, [items[i] for i in tried])
        out[tried] = [score.mean == 1 for score in scores]
    return out


def solved_by_vote(
    tried: Sequence[int], models: AdaptedModels | None, tasks: Sequence[GridTask], views=(IDENTITY,)
) -> np.ndarray:
    """`solved` by a vote over views (transforms) of each dream's task."""
    out = np.zeros(len(tasks), bool)
    if tried:
        chosen = [tasks[i] for i in tried]
        grids = majority_votes(models, chosen, FORM, views)
        out[tried] = [is_solved(grid, task) for grid, task in zip(grids, chosen)]
    return out


def documents_of(tasks: Sequence[GridTask]) -> list[Document]:
    """What a writer is shown of each task: its examples."""
    return [Document(task.name, "", FORM.examples(task)) for task in tasks]


def write_recipes(
    cfg: DecoderConfig, variables: Any, learner: Learner, tasks: Sequence[GridTask], count: int, rng
) -> list[Dream]:
    """The first `count` recipes that a model writes about each task, as SEAL samples them; texts
    that are no recipe are drawn again.

    Args:
      cfg, variables: the writer with its adapter (`lora`), if it has one.
      learner: whose tokenizer it shares.
      tasks: what to write about; one that is too long for the learner gets no dreams.
      count: recipes a task.
      rng: PRNG key.
    """
    readable = [i for i, task in enumerate(tasks) if learner.can_read(task)]
    config = WritingConfig(
        (TEMPLATE,), SPARE * count, max_new_tokens=24, rejection=RejectionConfig(similarity=0)
    )
    documents = documents_of([tasks[i] for i in readable])
    written = write_dreams(cfg, config, variables, learner.base.tokenizer, documents, None, rng)
    kept = []
    for i, task in enumerate(readable):
        about_task = [dream for dream in written.dreams if dream.document == i][:count]
        kept += [dataclasses.replace(dream, document=task) for dream in about_task]
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
    """The writer after supervised fine-tuning on dreams: the model's collections with an adapter.

    It is trained by `train_adapters`, as when the published numbers were made; `baselines.sft` does
    the same up to rounding.

    Args:
      cfg: with the writer's adapter (`lora`).
      trial: how it is trained.
      learner: whose model it starts from.
      dreams: the rewarded ones.
      tasks: that they are about.
    """
    tokenizer, variables = learner.base.tokenizer, learner.base.variables
    exchanges = supervised_exchanges(
        dreams, documents_of(tasks), Prompts(tokenizer), {TEMPLATE.name: TEMPLATE}
    )
    rows = make_examples([[(x.student, x.completion) for x in exchanges]], is_packed=False)
    key = jax.random.key(1)
    adapters = init_adapters(cfg, variables["params"], key, 1)
    trained, _ = train_adapters(cfg, trial, variables, adapters, rows, rng=key)
    return {**variables, "lora": trained}
