"""Earlier questions, asked again: a night keeps what earlier ones have learnt by questions that the
model asked itself then. Their documents are not looked up: the teacher of what was known before the
day has none in view.
"""

from collections.abc import Sequence

from sleep_jax.data.orders import numpy_generator
from sleep_jax.interop.prompts import Prompts
from sleep_jax.interop.tokenizer import Tokenizer
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.sampling.generate import Draw, generate
from sleep_jax.sampling.sampler import SamplingConfig
from sleep_jax.seeding.sequences import Exchange
from sleep_jax.study.questions import SelfQuestion
from sleep_jax.study.self_study import Study
from sleep_jax.study.study_config import StudyConfig


def draw_questions(
    studies: Sequence[Study], count: int, rng, *, is_answered: bool = False
) -> list[SelfQuestion]:
    """At most `count` of the questions that were learnt on earlier days, without replacement, each
    as likely as any other.

    Args:
      studies: of these days.
      count: how many to draw.
      rng: PRNG key.
      is_answered: only those with a recorded answer; others were learnt with the sentence that they
        are about as the reply.
    """
    learnt = [q for study in studies for q in study.learnt if q.answer or not is_answered]
    order = numpy_generator(rng).permutation(len(learnt))
    return [learnt[i] for i in order[:count]]


def ask_again(
    cfg: DecoderConfig,
    variables,
    tokenizer: Tokenizer,
    questions: Sequence[SelfQuestion],
    study: StudyConfig,
    rng,
    draw: Draw | None = None,
) -> list[Exchange]:
    """Questions as exchanges of kind `earlier`, closed book.

    Args:
      cfg, variables, tokenizer: the teacher of what was known, whose greedy replies are learnt
        with `study.earlier_answers='before'`.
      questions: with `'stored'` those whose recorded answers are learnt.
      study: the settings.
      rng: PRNG key.
      draw: as for `questions.write_questions`.
    """
    prompts = Prompts(tokenizer)
    asked = [prompts.without_context(q.question) for q in questions]
    if study.earlier_answers == "stored":
        replies = [prompts.reply(q.answer) for q in questions]
    else:
        sampling = SamplingConfig(study.max_chat_tokens, tokenizer.eos_ids, temperature=0.0)
        groups = (draw or generate)(cfg, sampling, variables, asked, rng)
        replies = [completion.tokens for [completion] in groups]
    return [Exchange(None, p, p, reply, "earlier") for p, reply in zip(asked, replies) if reply]
