"""Settings of self-study: how much the teacher of a night writes."""

import dataclasses

from sleep_jax.sampling.sampler import MIN_TEMPERATURE
from sleep_jax.settings import Settings, setting

EARLIER_ANSWERS = ("before", "stored")


@dataclasses.dataclass(frozen=True)
class StudyConfig(Settings, section="study"):
    """Settings of self-study.

    Attributes:
      thought_tokens: tokens that a thought may take, beside those of its reply; 0: the model
        replies at once.

    Raises:
      ValueError: a field is out of range.
    """

    recitations: int = setting(1, "times that each document is recited; 0: not at all", least=0)
    completions: int = setting(2, "cues per sentence, to complete it; 0: none", least=0)
    questions: int = setting(
        4, "questions drawn per sentence; repeated ones are kept once; 0: none", least=0
    )
    rehearsals: int = setting(3, "replies per general prompt; 0: none", least=0)
    earlier_questions: int = setting(
        0, "own questions of earlier days that a night asks again; 0: none", least=0
    )
    earlier_answers: str = setting(
        "before", "their answers; before: what seeding.known_teacher says now, stored: those of "
        "their day", choices=EARLIER_ANSWERS,
    )  # fmt: skip
    temperature: float = setting(
        0.8,
        "temperature of questions and rehearsals; 0: greedy, as answers are",
        least=MIN_TEMPERATURE,
        also=(0,),
    )
    max_question_tokens: int = setting(24, "longest question, in tokens", least=1)
    max_answer_tokens: int = setting(48, "longest answer or rehearsal, in tokens", least=1)
    is_grounded: bool = setting(True, "drop answers that invent names or numbers")
    thought_tokens: int = 0

    @property
    def max_chat_tokens(self) -> int:
        """Longest answer or rehearsal in a chat, in tokens, thought included."""
        return self.max_answer_tokens + self.thought_tokens
