"""Test-time training of grid tasks by recipes (SEAL's few-shot learning, Zweiger et al. 2025, arXiv
2506.10943; Akyürek et al. 2024, arXiv 2411.07279).

A dream about a grid task is a `Recipe`. It is tried on sequences made of the task's examples, some
of them left out as tests, and their transforms; the recipe sets the transforms, the tokens of the
loss, the learning rate and the epochs. Each dream trains its own adapter, all in one program.
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
    """Limits of a trial; the defaults are SEAL's.

    Attributes:
      max_sequences: of a task, a random choice where its transforms give more.
      max_tokens: of a sequence; longer ones are left out.
      max_updates: of a trial; a recipe that asks for more is not tried.
      seed: of the random choice.

    Raises:
      ValueError: a field is below 1.
    """

    max_sequences: int = 250
    max_tokens: int = 8192
    max_updates: int = 375
    seed: int = 0

    def __post_init__(self):
        for name in ("max_sequences", "max_tokens", "max_updates"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"RecipeTrainingConfig.{name}={value}; it must be at least 1")


def recipe_sequences(
    task: GridTask, recipe: Recipe, form: GridFormat, prompts: Prompts, config: RecipeTrainingConfig
) -> list[PromptCompletion]:
    """The training sequences of a recipe, as (prompt, completion), never from the task's tests.

    Args:
      task: the task.
      recipe: its transforms, and which tokens are scored.
      form: how tasks are written.
      prompts: of the model.
      config: limits.
    """
    out = []
    for x in augment(task, recipe.augmentations, config.seed, max_tasks=config.max_sequences):
        prompt, reply = (
            prompts.without_context(form.question(x)),
            prompts.reply(form.grid(x.tests[0].output)),
        )
        if recipe.loss_on == "all":  # except the first token, which has no prediction
            prompt, reply = prompt[:1], prompt[1:] + reply
        out.append((prompt, reply))
    return [(p, reply) for p, reply in out if len(p) + len(reply) <= config.max_tokens]


def train_on_recipes(
    base: AdaptedModels,
    trial: TrialConfig,
    adapters: Sequence,
    dreams: Sequence[tuple[GridTask, Recipe]],
    form: GridFormat,
    config: RecipeTrainingConfig,
    rng,
) -> tuple[list[int], AdaptedModels | None]:
    """Trains an adapter on each dream for each seed.

    Args:
      base: the current model.
      trial: how an adapter is trained; the learning rate is the recipe's, and so are the epochs, of
        which `trial.epochs` is the maximum.
      adapters: an initial one for each seed (`adapters.init_adapters`).
      dreams: (task, recipe) pairs.
      form: how tasks are written.
      config: limits.
      rng: PRNG key of the order of sequences.

    Returns:
      (tried, models): the indices of the dreams that were tried, and a trained model for each of
      them and each seed, the seeds of a dream next to each other. A dream is not tried if it asks
      for too many epochs or updates, or if no sequence is short enough. `models` is None if no
      dream was tried.
    """
    prompts = Prompts(base.tokenizer)
    # Many recipes of a task differ only in the learning rate, so they share their sequences.
    sequences = {
        (task, recipe.augmentations, recipe.loss_on): recipe_sequences(
            task, recipe, form, prompts, config
        )
        for task, recipe in dict.fromkeys(dreams)
    }
    per_dream = [sequences[task, recipe.augmentations, recipe.loss_on] for task, recipe in dreams]
    tried = [
        i
        for i, (rows, (_, recipe)) in enumerate(zip(per_dream, dreams))
        if rows
        and recipe.epochs <= trial.epochs
        and recipe.epochs * -(-len(rows) // (trial.batch_size or len(rows))) <= config.max_updates
    ]
    if not tried:
        return [], None
    recipes = [dreams[i][1] for i in tried]
    hyper = Hyperparameters.from_dreams(
        base.cfg.lora,
        trial,
        [{"epochs": x.epochs, "learning_rate": x.learning_rate} for x in recipes],
    )
    examples = make_examples([per_dream[i] for i in tried], is_packed=False)
    trained, _ = train_adapters(base.cfg, trial, base.variables, adapters, examples, hyper, rng)
    return tried, base.with_adapters(trained)
