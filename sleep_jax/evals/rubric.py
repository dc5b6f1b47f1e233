"""A local judge of answers: the frozen initial model with the rubric that SEAL gives GPT-4.1
(Zweiger et al. 2025, arXiv 2506.10943, B.2).

An answer is right if it conveys all of the gold answer and contradicts none of it; it may say more.
The verdict is the likelier of yes and no as the first word of the judge's reply.
"""

from collections.abc import Sequence

import numpy as np

from sleep_jax.evals.items import Item
from sleep_jax.interop.tokenizer import Tokenizer
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.rewards.yes_no import YesNoModel

RUBRIC = (
    "You grade the answer of a student. Go by the gold answer alone, not by what you know. The "
    "student's answer is right if it conveys all of the gold answer and does not contradict it; "
    "it may say more, and style does not matter.\n\n"
    "Question: {question}\n"
    "Gold answer: {gold}\n"
    "Student's answer: {reply}\n\n"
    "Is the student's answer right? Answer Yes or No."
)


class Rubric:
    """Grades replies by the verdict of a model."""

    def __init__(self, cfg: DecoderConfig, params, tokenizer: Tokenizer):
        """Binds the model; arguments and errors as of `YesNoModel`."""
        self._judge = YesNoModel(cfg, params, tokenizer)

    def __call__(self, replies: Sequence[str], items: Sequence[Item]) -> np.ndarray:
        """The grades of replies: float32 [n], 1 for a right one, else 0.

        A blank reply is wrong, and is not shown to the judge. One accepted answer must be conveyed.

        Args:
          replies: texts [n].
          items: the question of each [n].
        """
        pairs = [
            (i, RUBRIC.format(question=item.question, gold=gold, reply=reply.strip()))
            for i, (reply, item) in enumerate(zip(replies, items, strict=True))
            for gold in item.answers
            if reply.strip()
        ]
        grades = np.zeros(len(items), np.float32)
        gaps = self._judge.logit_gap([text for _, text in pairs])
        for (i, _), gap in zip(pairs, gaps):
            grades[i] = max(grades[i], float(gap > 0))
        return grades
