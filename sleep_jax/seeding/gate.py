"""The gate of a consolidation: a slot is accepted if its student came close to the teacher and the
perplexity of an anchor set held, if it answers what the model asked itself, and if no task fell."""

import dataclasses
import math
from collections.abc import Mapping

from sleep_jax.memory.memory_config import MemoryConfig
from sleep_jax.settings import Settings, setting


@dataclasses.dataclass(frozen=True)
class Gate(Settings, section="gate"):
    """When a seeded slot is accepted; otherwise the night is rolled back."""

    divergence: float = setting(
        0.8, "largest KL to the teacher after a night, as a share of that before; inf: any",
        above=0, most=math.inf,
    )  # fmt: skip
    anchors: float = setting(
        0.1, "largest rise of the anchor perplexity, as a share; inf: any", above=0, most=math.inf
    )
    answers: float = setting(
        0.0, "least share right closed book of own questions that are right with the book open; 0: "
        "any", least=0, most=1,
    )  # fmt: skip
    tasks: float = setting(
        math.inf, "largest fall of a task in a night, as a share where less is better; inf: any",
        above=0, most=math.inf,
    )  # fmt: skip

    def rejection_reason(
        self, kl_before: float, kl_after: float, anchors_before: float, anchors_after: float
    ) -> str | None:
        """Why the night is to be rolled back, in words; None: the slot is accepted.

        Args:
          kl_before, kl_after: mean divergence from the teacher, in nats a token.
          anchors_before, anchors_after: perplexity of the anchor set.
        """
        # Written so that NaN is rejected.
        if not kl_after <= self.divergence * kl_before:
            return (
                f"the divergence from the teacher went from {kl_before:.3g} to {kl_after:.3g}, "
                f"above gate.divergence={self.divergence} of it"
            )
        if kl_after == kl_before:
            return f"the divergence from the teacher stayed {kl_before:.3g}: nothing was learnt"
        return self.anchors_rejection_reason(anchors_before, anchors_after)

    def anchors_rejection_reason(self, before: float, after: float) -> str | None:
        """Like `rejection_reason`, by the anchor perplexity alone."""
        if not after <= (1 + self.anchors) * before:
            return (
                f"the anchor perplexity rose from {before:.4g} to {after:.4g}, by more than "
                f"gate.anchors={self.anchors} of it"
            )
        return None

    def answers_rejection_reason(self, right: int, total: int) -> str | None:
        """Like `rejection_reason`, by the answers to own questions alone.

        Args:
          right: how many the student answers right closed book.
          total: how many there are, all of which the night's teacher answers right.
        """
        if right >= self.answers * total - 1e-9:  # 0.1 * 30 is a little more than 3
            return None
        return (
            f"{right} of {total} own questions that the night's teacher answers right are answered "
            f"right closed book, fewer than gate.answers={self.answers} of them"
        )

    def tasks_rejection_reason(self, falls: Mapping[str, float]) -> str | None:
        """Like `rejection_reason`, by tasks alone.

        Args:
          falls: of the score of each task (`task_scores.falls`).
        """
        for task, fall in falls.items():
            if not fall <= self.tasks:
                return (
                    f"the score of the task {task} fell by {fall:.3g}, more than "
                    f"gate.tasks={self.tasks}"
                )
        return None


def top_k_hint(memory: MemoryConfig, slots: int) -> str:
    """What to add to the reason of a roll-back where the router may have kept the slot inactive.

    Args:
      memory: the config.
      slots: in use in the level, the seeded one included.
    """
    if not 0 < memory.top_k < slots:
        return ""
    return (
        f"; the router selects memory.top_k={memory.top_k} of {slots} slots for a token, and a "
        "slot that is not selected learns nothing: raise memory.top_k, or set memory.router='none'"
    )
