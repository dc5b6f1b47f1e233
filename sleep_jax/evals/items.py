"""Questions that score a model, kept apart from those that test it."""

import dataclasses
from collections.abc import Collection, Sequence

from sleep_jax.data.answers import canonical


@dataclasses.dataclass(frozen=True)
class Item:
    """A question with what counts as right.

    Attributes:
      document: index of the document that it asks about.
      question: its words.
      answers: those accepted; the first is the one whose likelihood counts.
      options: of multiple choice, some of them among the answers.
    """

    document: int
    question: str
    answers: tuple[str, ...]
    options: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class RewardItems:
    """Items that may reward a dream: none of them is a test question (`apart_from`)."""

    items: tuple[Item, ...]

    @classmethod
    def apart_from(cls, tests: Collection[str], items: Sequence[Item]) -> "RewardItems":
        """The items, once it is clear that no question of `tests` is among them.

        Raises:
          AssertionError: one is, but for case, articles and punctuation: a dream that it rewards
            would have seen the test.
        """
        tested = {canonical(text) for text in tests}
        for item in items:
            if canonical(item.question) in tested:
                raise AssertionError(
                    f"a question that rewards dreams is a test question: {item.question!r}; leave "
                    "it out of one of the two sets"
                )
        return cls(tuple(items))

    @property
    def documents(self) -> set[int]:
        """The documents that are asked about."""
        return {item.document for item in self.items}

    def about(self, document: int) -> list[Item]:
        """The questions about one document."""
        return [item for item in self.items if item.document == document]
