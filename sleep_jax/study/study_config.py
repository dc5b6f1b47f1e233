"""Settings of self-study: how much the teacher of a night writes."""

import dataclasses
import math

from sleep_jax.sampling.sampler import MIN_TEMPERATURE
from sleep_jax.settings import Settings, setting

EARLIER_ANSWERS = ("before", "stored")
VARIANTS = ("paraphrase", "implication", "summary", "strategy")


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
    free_texts: int = setting(
        0, "texts that the model begins with a random word and rehearses as well; 0: none", least=0
    )
    readings: int = setting(
        0, "questions asked of each such reply with it in view, as of a document; 0: none", least=0
    )
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
    max_answer_tokens: int = setting(48, "longest answer, in tokens", least=1)
    max_rehearsal_tokens: int = setting(
        0,
        "longest reply to a general prompt, or free text, in tokens; 0: max_answer_tokens",
        least=0,
    )
    is_grounded: bool = setting(
        True, "drop answers, and sentences of variants, that invent names or numbers"
    )
    answer_in_sentence: bool = setting(
        False, "drop answers that have no content word of their sentence that the question lacks"
    )
    is_screened: bool = setting(
        False,
        "leave out sentences that tell their reader how to reply, by the model without memory",
    )
    answer_in_view: bool = setting(
        False, "the teacher of an answer sees the stored answer beside the text"
    )
    multiple: float = setting(
        0.0, "tokens of variants that are kept of a document, in multiples of its own; 0: none",
        least=0, most=1000,
    )  # fmt: skip
    variants: tuple[str, ...] = setting(
        VARIANTS, "what is written with study.multiple above 0", choices=VARIANTS
    )
    variant_temperature: float = setting(
        0.4, "temperature of variants; 0: greedy", least=MIN_TEMPERATURE, also=(0,)
    )
    max_variant_tokens: int = setting(192, "longest variant, in tokens", least=1)
    thought_tokens: int = 0

    @property
    def max_chat_tokens(self) -> int:
        """Longest answer in a chat, in tokens, thought included."""
        return self.max_answer_tokens + self.thought_tokens

    @property
    def rehearsal_tokens(self) -> int:
        """Longest reply to a general prompt, in tokens, without a thought."""
        return self.max_rehearsal_tokens or self.max_answer_tokens

    def rehearsal_lengths(self, topics: int) -> list[int]:
        """Tokens that a reply to each general prompt may take: every other one is a plain text that
        is continued, without a thought."""
        return [self.rehearsal_tokens + self.thought_tokens * (i % 2 == 0) for i in range(topics)]

    def variant_turns(self, tokens: int) -> int:
        """How often each kind of variant is asked for, at most: variants of full length would be
        twice `multiple`.

        Args:
          tokens: of the longest document.
        """
        each = len(self.variants) * self.max_variant_tokens
        return math.ceil(2 * self.multiple * tokens / each)
