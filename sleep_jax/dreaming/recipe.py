"""Recipes: dreams about few-shot grids are not texts but configurations of test-time training
(SEAL's few-shot learning, Zweiger et al. 2025, arXiv 2506.10943).

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
    """A text is not a recipe; names the field, its value and what is allowed."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to train on the examples of a task.

    Attributes:
      augmentations: kinds of transforms, in the order of AUGMENTATIONS.
      loss_on: `all` tokens of a sequence, or those of the `output` grid.
      learning_rate: of the trial adapter.
      epochs: over the sequences.
    """

    augmentations: tuple[str, ...]
    loss_on: str
    learning_rate: float
    epochs: int

    @property
    def text(self) -> str:
        """The JSON object that parses to this recipe."""
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
    """Parses a recipe: one JSON object with every field, of its type, and nothing else.

    Raises:
      RecipeError: the text is not that.
    """
    try:
        fields = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_reject_constant)
    except RecipeError:
        raise
    except (ValueError, RecursionError) as error:  # ValueError: also a number of 4,300 digits
        raise RecipeError(
            f"not one JSON object and nothing else ({error}): {text[:40]!r}"
        ) from None
    _check_keys(fields, "the recipe", ("data_generation", "training"))
    flags = {f"use_{name}_augmentations": name for name in AUGMENTATIONS}
    generation, training = fields["data_generation"], fields["training"]
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


def _check_keys(fields: Any, where: str, expected: tuple[str, ...]) -> None:
    if not isinstance(fields, dict):
        raise RecipeError(f"{where} is {fields!r}, no object with {', '.join(expected)}")
    if unknown := [key for key in fields if key not in expected]:
        near = difflib.get_close_matches(unknown[0], expected, n=1)
        hint = f"nearest: {near[0]!r}" if near else f"choose from {', '.join(expected)}"
        raise RecipeError(
            f"{where} has an unknown field {unknown[0]!r}={fields[unknown[0]]!r}; {hint}"
        )
    if missing := [key for key in expected if key not in fields]:
        raise RecipeError(f"{where} lacks {missing[0]!r}; give all of {', '.join(expected)}")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A dict of (key, value) pairs; Python would silently keep the last of two equal keys."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise RecipeError(f"{repeated!r} is given twice; give it once")
    return fields


def _reject_constant(constant: str) -> float:
    raise RecipeError(f"{constant} is no number of JSON; give a finite one")
