"""Questions that score a model, and a guard that they are not test questions."""

import dataclasses
from collections.abc import Collection, Sequence

from sleep_jax.data.answers import canonical


@dataclasses.dataclass(frozen=True)
class Item:
    """A question with its accepted answers.

    Attributes:
      document: index of the document that it asks about.
      question: its text.
      answers: accepted answers; likelihood scorers use the first.
      options: of a multiple-choice question, at least one of them an accepted answer.
    """

    document: int
    question: str
    answers: tuple[str, ...]
    options: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class RewardItems:
    """Items that may reward a dream: none is a test question (`checked_against`)."""

    items: tuple[Item, ...]

    @classmethod
    def checked_against(cls, tests: Collection[str], items: Sequence[Item]) -> "RewardItems":
        """The items, after a check that none asks a question of `tests`.

        Args:
          tests: the test questions.
          items: that may reward dreams.

        Raises:
          AssertionError: one does, up to `data.answers.canonical`: its reward would leak the test.
        """
        test_questions = {canonical(text) for text in tests}
        for item in items:
            if canonical(item.question) in test_questions:
                raise AssertionError(
                    f"a question that rewards dreams is a test question: {item.question!r}; remove "
                    "it from one of the two sets"
                )
        return cls(tuple(items))

    @property
    def documents(self) -> set[int]:
        """The documents with at least one item."""
        return {item.document for item in self.items}

    def about(self, document: int) -> list[Item]:
        """The items of one document."""
        return [item for item in self.items if item.document == document]
