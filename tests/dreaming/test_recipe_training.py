"""Recipe training: the sequences of a recipe, and recipes over the limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_model import model

from sleep_jax.data.grids import GridFormat, GridPair, GridTask
from sleep_jax.dreaming import recipe_training
from sleep_jax.dreaming.recipe import Recipe
from sleep_jax.dreaming.recipe_training import (
    RecipeTrainingConfig,
    recipe_sequences,
    train_on_recipes,
)
from sleep_jax.dreaming.trial import TrialConfig
from sleep_jax.evals.adapted import AdaptedModels
from sleep_jax.interop.prompts import Prompts

FORM = GridFormat()
TASK = GridTask(
    "count",
    tuple(GridPair(((i, 0),), ((i + 1, 0),)) for i in (1, 4)),
    (GridPair(((7, 0),), ((8, 0),)),),
)
PLAIN = Recipe((), "output", 1e-3, 2)


def test_recipe_sequences_never_contain_the_test(tokenizer):
    prompts, config = Prompts(tokenizer), RecipeTrainingConfig()
    # Leaving out one of two examples leaves one; leaving out both leaves none.
    got = recipe_sequences(TASK, PLAIN, FORM, prompts, config)
    assert got == [
        (prompts.without_context("4 0\n->\n5 0\n\n1 0\n->\n"), prompts.reply("2 0")),
        (prompts.without_context("1 0\n->\n2 0\n\n4 0\n->\n"), prompts.reply("5 0")),
    ]
    all_tokens = recipe_sequences(TASK, Recipe((), "all", 1e-3, 2), FORM, prompts, config)
    assert [given + scored for given, scored in all_tokens] == [a + b for a, b in got]
    assert [len(given) for given, _ in all_tokens] == [1, 1]
    size = len(got[0][0]) + len(got[0][1])
    larger = Recipe(("size",), "output", 1e-3, 2)
    shortest = RecipeTrainingConfig(max_tokens=size)
    assert len(recipe_sequences(TASK, larger, FORM, prompts, config)) == 2 * 2 * 4
    # Only the sequences with permuted colours are as short as the plain ones.
    assert len(recipe_sequences(TASK, larger, FORM, prompts, shortest)) == 4
    assert (
        recipe_sequences(TASK, larger, FORM, prompts, RecipeTrainingConfig(max_tokens=size - 1))
        == []
    )


def test_train_on_recipes_skips_recipes_over_the_limits(tokenizer, monkeypatch):
    calls = []

    def train(cfg, trial, variables, adapters, examples, hyper, rng):
        calls.append((examples, hyper))
        return {"a": jnp.zeros((1, len(examples.tokens)))}, None

    monkeypatch.setattr(recipe_training, "train_adapters", train)
    cfg, variables = model()
    base = AdaptedModels(cfg, variables, tokenizer)
    trial = TrialConfig(epochs=5, batch_size=2)
    recipes = [
        Recipe((), "output", 1e-2, 3),
        Recipe((), "output", 1e-3, 6),  # more epochs than a trial has
        Recipe(("size",), "output", 1e-3, 2),  # sixteen updates
        Recipe((), "all", 3e-3, 5),
    ]
    dreams = [(TASK, recipe) for recipe in recipes]
    tried, models = train_on_recipes(
        base, trial, [{}], dreams, FORM, RecipeTrainingConfig(max_updates=15), jax.random.key(0)
    )
    assert tried == [0, 3] and models.adapters["a"].shape == (1, 2)
    [(examples, hyper)] = calls
    np.testing.assert_allclose(hyper.learning_rate, [1e-2, 3e-3])
    assert hyper.epochs.tolist() == [3, 5]
    assert examples.mask.shape[:2] == (2, 2)
    reply = len(Prompts(tokenizer).reply("2 0"))
    whole = np.asarray(examples.segment_ids[1]).sum(-1)
    assert examples.mask.sum(-1).tolist() == [[reply] * 2, (whole - 1).tolist()]
    result = train_on_recipes(
        base, trial, [{}], dreams[1:2], FORM, RecipeTrainingConfig(), jax.random.key(0)
    )
    assert result == ([], None)
    assert len(calls) == 1


def test_invalid_limits_raise():
    with pytest.raises(ValueError, match="max_updates=0"):
        RecipeTrainingConfig(max_updates=0)
