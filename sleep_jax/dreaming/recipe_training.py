"""Practice: what a recipe makes of a grid task, as sequences that a trial learns from (SEAL's
few-shot learning, Zweiger et al. 2025, arXiv 2506.10943; test-time training, arXiv 2411.07279).

A dream about grids is a `Recipe`. The task's own examples, some left out and asked for, and their
transforms are the sequences; the recipe says which transforms, what the loss is of, how fast and
how long. Each dream trains an adapter of its own, all in one program.
"""

import dataclasses
from collections.abc import Sequence

from sleep_jax.data.examples import PromptCompletion, make_examples
from sleep_jax.data.grid_transforms import augment
from sleep_jax.data.grids import GridFormat, GridTask
from sleep_jax.dreaming.recipe import Recipe
from sleep_jax.dreaming.trial import Hyperparameters, TrialConfig, train_adapters
from sleep_jax.evals.adapted import AdaptedModels
from sleep_jax.interop.prompts import Prompts


@dataclasses.dataclass(frozen=True)
class RecipeTrainingConfig:
    """What practice may cost; the values are SEAL's.

    Attributes:
      most: sequences of a task, a random choice of what its transforms give.
      max_tokens: of a sequence; longer ones are left out.
      max_updates: of a trial; a recipe that asks for more is not tried.
      seed: of what is drawn.

    Raises:
      ValueError: a field is below 1.
    """

    most: int = 250
    max_tokens: int = 8192
    max_updates: int = 375
    seed: int = 0

    def __post_init__(self):
        for name in ("most", "max_tokens", "max_updates"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"practice.{name}={value}; it must be at least 1")


def recipe_sequences(
    task: GridTask, recipe: Recipe, form: GridFormat, prompts: Prompts, config: RecipeTrainingConfig
) -> list[PromptCompletion]:
    """What there is to learn, as (given, scored); no test of the task has a part in it."""
    out = []
    for x in augment(task, recipe.augmentations, config.seed, most=config.most):
        given, reply = (
            prompts.without_context(form.question(x)),
            prompts.reply(form.grid(x.tests[0].output)),
        )
        if recipe.loss_on == "all":  # but for the first token, which nothing predicts
            given, reply = given[:1], given[1:] + reply
        out.append((given, reply))
    return [(given, reply) for given, reply in out if len(given) + len(reply) <= config.max_tokens]


def train_on_recipes(
    base: AdaptedModels,
    trial: TrialConfig,
    adapters: Sequence,
    dreams: Sequence[tuple[GridTask, Recipe]],
    form: GridFormat,
    config: RecipeTrainingConfig,
    rng,
) -> tuple[list[int], AdaptedModels | None]:
    """The model after each dream's practice.

    Args:
      base: the model as it is.
      trial: how an adapter is trained; its rate is each recipe's own, its epochs the most that one
        may ask for.
      adapters: one at birth for each seed (`trial.init_adapters`).
      dreams: tasks and recipes for them.
      form: how tasks are written.
      config: what practice may cost.
      rng: PRNG key of the order of sequences.

    Returns:
      (tried, models): the indices of the dreams that were tried, and the model that each of them
      and each seed made, the seeds of a dream next to each other. A dream is not tried if it asks
      for too many epochs or updates, or if no sequence is short enough; None if none was.
    """
    prompts = Prompts(base.tokenizer)
    # Recipes differ in their rate more often than in their sequences.
    laid = {
        (task, recipe.augmentations, recipe.loss_on): recipe_sequences(
            task, recipe, form, prompts, config
        )
        for task, recipe in dict.fromkeys(dreams)
    }
    each = [laid[task, recipe.augmentations, recipe.loss_on] for task, recipe in dreams]
    tried = [
        i
        for i, (own, (_, recipe)) in enumerate(zip(each, dreams))
        if own
        and recipe.epochs <= trial.epochs
        and recipe.epochs * -(-len(own) // (trial.batch_size or len(own))) <= config.max_updates
    ]
    if not tried:
        return [], None
    recipes = [dreams[i][1] for i in tried]
    hyper = Hyperparameters.from_dreams(
        base.cfg.lora,
        trial,
        [{"epochs": x.epochs, "learning_rate": x.learning_rate} for x in recipes],
    )
    learnt = make_examples([each[i] for i in tried], is_packed=False)
    trained, _ = train_adapters(base.cfg, trial, base.variables, adapters, learnt, hyper, rng)
    return tried, base.with_adapters(trained)
