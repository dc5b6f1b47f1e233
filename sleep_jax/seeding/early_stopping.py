"""When a night ends that asks itself what it has learnt: early, once its own held-out questions are
answered as well closed book as with the book open; or later than planned, while more and more are.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from sleep_jax.seeding.seeding_config import SeedingConfig

FEWEST_QUESTIONS = 4  # of fewer, one reply would decide too much


@dataclasses.dataclass(frozen=True)
class OwnAnswers:
    """How a student answers the own questions that its teacher answers right.

    Attributes:
      right: takes the collections of the student and returns how many it answers right.
      total: how many there are.
    """

    right: Callable[[Any], int]
    total: int

    @property
    def too_few(self) -> str | None:
        """Why neither the gate nor the end of the night goes by them, in words; None: both may."""
        if self.total >= FEWEST_QUESTIONS:
            return None
        return (
            f"not judged: the teacher answers {self.total} own questions right, fewer than "
            f"{FEWEST_QUESTIONS}"
        )


@dataclasses.dataclass
class EarlyStopping:
    """Asks every `eval_steps` updates and after the last planned one, and says when to end.

    Attributes:
      right, total: as of `OwnAnswers`; total 0: the night is as long as planned, and nothing is
        asked.
      steps: updates that are planned.
      max_steps: the most; at least `steps`.
      eval_steps: updates between two evaluations.
      patience: evaluations without a new best after which a night ends that is as long as planned.
      history: (updates done, questions right) of each evaluation.
    """

    right: Callable[[Any], int]
    total: int
    steps: int
    max_steps: int
    eval_steps: int
    patience: int
    history: list[tuple[int, int]] = dataclasses.field(default_factory=list)

    @classmethod
    def of(cls, seeding: SeedingConfig, answers: OwnAnswers | None) -> "EarlyStopping":
        """Of a night; without `eval_steps`, or with too few questions, it is as long as planned."""
        asks = seeding.eval_steps > 0 and answers is not None and not answers.too_few
        return cls(
            right=answers.right if asks else lambda student: 0,
            total=answers.total if asks else 0,
            steps=seeding.steps,
            max_steps=max(seeding.max_steps, seeding.steps),
            eval_steps=max(seeding.eval_steps, 1),
            patience=seeding.early_stopping_patience,
        )

    def is_due(self, done: int) -> bool:
        """Whether to evaluate after `done` updates."""
        return self.total > 0 and (done % self.eval_steps == 0 or done == self.steps)

    def evaluate(self, done: int, student) -> int:
        """Asks the student as it is after `done` updates; returns how many it answers right."""
        self.history.append((done, self.right(student)))
        return self.history[-1][1]

    def is_over(self, done: int) -> bool:
        """Whether the night ends after `done` updates."""
        counts = [right for _, right in self.history]
        if self.total and counts and counts[-1] >= self.total:
            return True
        if done < self.steps or done >= self.max_steps or not self.total:
            return done >= self.steps
        # The first of the best; before the first update none was right.
        best = max([0, *counts])
        since_best = len(counts) - ([0, *counts].index(best))
        return since_best >= self.patience
