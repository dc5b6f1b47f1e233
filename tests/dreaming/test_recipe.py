"""Recipes: parsing of SEAL's configuration object, and its errors."""

import json

import pytest

from sleep_jax.dreaming.recipe import Recipe, RecipeError, parse_recipe

GENERATION = {
    "use_basic_augmentations": True,
    "use_size_augmentations": False,
    "use_chain_augmentations": False,
    "use_repeat_augmentations": True,
}
TRAINING = {"strategy": "train_using_output_tokens", "learning_rate": 1e-4, "num_train_epochs": 2}


def recipe_text(generation=None, training=None, **top):
    return json.dumps(
        {
            "data_generation": GENERATION | (generation or {}),
            "training": TRAINING | (training or {}),
            **top,
        }
    )


def test_parse_recipe_by_hand():
    assert parse_recipe(f"\n {recipe_text()} ") == Recipe(("basic", "repeat"), "output", 1e-4, 2)
    of_all = parse_recipe(
        recipe_text(training={"strategy": "train_using_all_tokens", "learning_rate": 1})
    )
    assert (of_all.loss_on, of_all.learning_rate) == ("all", 1.0)


@pytest.mark.parametrize("loss_on", ["all", "output"])
def test_recipe_text_round_trips(loss_on):
    recipe = Recipe(("basic", "repeat"), loss_on, 1e-4, 2)
    assert parse_recipe(recipe.text) == recipe
    assert recipe.text == recipe_text() or loss_on == "all"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            recipe_text(generation={"use_size_augmentations": 1}),
            r"use_size_augmentations=1; choose true",
        ),
        (
            recipe_text(generation={"use_size_augmentation": True}),
            r"'use_size_augmentation'=True; nearest",
        ),
        (
            recipe_text(training={"strategy": "outputs"}),
            r"training\.strategy='outputs'; choose from",
        ),
        (recipe_text(training={"strategy": ["outputs"]}), r"training\.strategy=\['outputs'\]"),
        (
            recipe_text(training={"learning_rate": "1e-4"}),
            r"training\.learning_rate='1e-4'; it must",
        ),
        (recipe_text(training={"learning_rate": 0}), r"training\.learning_rate=0; it must"),
        (recipe_text(training={"learning_rate": True}), r"training\.learning_rate=True"),
        (recipe_text(training={"learning_rate": 1e400}), r"Infinity is no number"),
        (recipe_text().replace("0.0001", "1e999"), r"training\.learning_rate=inf"),
        (recipe_text(training={"learning_rate": float("nan")}), r"NaN is no number"),
        (
            recipe_text(training={"num_train_epochs": 2.0}),
            r"num_train_epochs=2\.0; it must be a whole",
        ),
        (recipe_text(training={"num_train_epochs": 0}), r"num_train_epochs=0"),
        (recipe_text(training={"num_train_epochs": 10**9}), r"num_train_epochs=1000000000"),
        (recipe_text(training={"num_train_epochs": False}), r"num_train_epochs=False"),
        (recipe_text(note="because"), r"unknown field 'note'='because'"),
        (json.dumps({"training": TRAINING}), r"the recipe lacks 'data_generation'"),
        (json.dumps({"data_generation": GENERATION, "training": []}), r"training is \[\], no obj"),
        (recipe_text().replace("{", '{"training": {}, ', 1), r"'training' is given twice"),
        (f"Here it is: {recipe_text()}", r"not one JSON object"),
        (f"{recipe_text()} {recipe_text()}", r"not one JSON object"),
        ("[" * 100_000, r"not one JSON object"),
        ("", r"not one JSON object"),
        ("3", r"the recipe is 3, no object"),
    ],
)
def test_parse_recipe_names_field_and_value_of_errors(text, message):
    with pytest.raises(RecipeError, match=message):
        parse_recipe(text)
