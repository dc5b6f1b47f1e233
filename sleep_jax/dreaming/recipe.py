"""Recipes: for few-shot grids a dream is no text but a choice of how to train on the examples,
SEAL's configuration object (Zweiger et al. 2025, arXiv 2506.10943, few-shot learning).

    {"data_generation": {"use_basic_augmentations": true, "use_size_augmentations": false,
                         "use_chain_augmentations": false, "use_repeat_augmentations": true},
     "training": {"strategy": "train_using_output_tokens",
                  "learning_rate": 1e-4, "num_train_epochs": 2}}
"""

import dataclasses
import difflib
import json
from typing import Any

AUGMENTATIONS = ("basic", "size", "chain", "repeat")
STRATEGIES = {"train_using_all_tokens": "all", "train_using_output_tokens": "output"}
MAX_LEARNING_RATE = 1.0
MAX_EPOCHS = 1000


class RecipeError(ValueError):
    """A dream is no recipe; says which field, what it holds and what it may hold."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to train on the examples of a task.

    Attributes:
      augmentations: the kinds of copies that are added, in the order of AUGMENTATIONS.
      loss_on: `all` tokens of an example, or those of its `output` grid.
      learning_rate: of the trial adapter.
      epochs: over the examples and their copies.
    """

    augmentations: tuple[str, ...]
    loss_on: str
    learning_rate: float
    epochs: int

    @property
    def text(self) -> str:
        """The object that is read as this recipe."""
        strategies = {scope: name for name, scope in STRATEGIES.items()}
        return json.dumps(
            {
                "data_generation": {
                    f"use_{name}_augmentations": name in self.augmentations
                    for name in AUGMENTATIONS
                },
                "training": {
                    "strategy": strategies[self.loss_on],
                    "learning_rate": self.learning_rate,
                    "num_train_epochs": self.epochs,
                },
            }
        )


def parse_recipe(text: str) -> Recipe:
    """Reads a recipe: one JSON object with every field, of its type, and nothing else.

    Raises:
      RecipeError: it is not.
    """
    try:
        held = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse)
    except RecipeError:
        raise
    except (ValueError, RecursionError) as error:  # ValueError: also a number of 4,300 digits
        raise RecipeError(
            f"not one JSON object and nothing else ({error}): {text[:40]!r}"
        ) from None
    _check_keys(held, "the recipe", ("data_generation", "training"))
    flags = {f"use_{name}_augmentations": name for name in AUGMENTATIONS}
    generation, training = held["data_generation"], held["training"]
    _check_keys(generation, "data_generation", tuple(flags))
    _check_keys(training, "training", ("strategy", "learning_rate", "num_train_epochs"))
    for field, value in generation.items():
        if not isinstance(value, bool):
            raise RecipeError(f"data_generation.{field}={value!r}; choose true or false")
    strategy = training["strategy"]
    if not isinstance(strategy, str) or strategy not in STRATEGIES:
        raise RecipeError(f"training.strategy={strategy!r}; choose from {', '.join(STRATEGIES)}")
    rate, epochs = training["learning_rate"], training["num_train_epochs"]
    is_number = isinstance(rate, int | float) and not isinstance(rate, bool)
    if not is_number or not 0 < rate <= MAX_LEARNING_RATE:
        raise RecipeError(
            f"training.learning_rate={rate!r}; it must be a number above 0, at most "
            f"{MAX_LEARNING_RATE:g}"
        )
    is_whole = isinstance(epochs, int) and not isinstance(epochs, bool)
    if not is_whole or not 1 <= epochs <= MAX_EPOCHS:
        raise RecipeError(
            f"training.num_train_epochs={epochs!r}; it must be a whole number from 1 to "
            f"{MAX_EPOCHS}"
        )
    return Recipe(
        augmentations=tuple(name for flag, name in flags.items() if generation[flag]),
        loss_on=STRATEGIES[strategy],
        learning_rate=float(rate),
        epochs=epochs,
    )


def _check_keys(held: Any, where: str, wanted: tuple[str, ...]) -> None:
    if not isinstance(held, dict):
        raise RecipeError(f"{where} is {held!r}, no object with {', '.join(wanted)}")
    if unknown := [key for key in held if key not in wanted]:
        near = difflib.get_close_matches(unknown[0], wanted, n=1)
        hint = f"nearest: {near[0]!r}" if near else f"choose from {', '.join(wanted)}"
        raise RecipeError(
            f"{where} has an unknown field {unknown[0]!r}={held[unknown[0]]!r}; {hint}"
        )
    if missing := [key for key in wanted if key not in held]:
        raise RecipeError(f"{where} lacks {missing[0]!r}; give all of {', '.join(wanted)}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys come once: the last of two would win without a word."""
    held = dict(pairs)
    if len(held) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise RecipeError(f"{twice!r} is given twice; give it once")
    return held


def _refuse(constant: str) -> float:
    raise RecipeError(f"{constant} is no number of JSON; give a finite one")
