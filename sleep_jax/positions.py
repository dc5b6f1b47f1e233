"""What a run reads and writes at a stretch, against the positions that its base was trained on."""

import warnings
from collections.abc import Sequence

from sleep_jax import config as settings
from sleep_jax.data.documents import Document
from sleep_jax.dreaming.reinforce import writer_prompt
from sleep_jax.models.config import DecoderConfig
from sleep_jax.seeding import prompts as requests
from sleep_jax.seeding.prompts import Prompts


def longest_sequence(config, prompts: Prompts, document: Document) -> int:
    """Tokens of a document with the longest request about it and the reply to that."""
    study = settings.study_config(config)
    asked = [
        len(prompts.beside(requests.answer(text))) + settings.reply_tokens(config)
        for question in document.questions
        for text in (question.question, question.paraphrase)
        if text
    ]
    self_asked = len(prompts.beside(requests.answer(""))) + study.max_question_tokens
    recited = len(prompts.beside(requests.RECITE)) + len(prompts.reply(document.text))
    context = len(prompts.context(document))
    lengths = [context + max(*asked, self_asked + study.max_answer_tokens, recited)]
    if config.dreaming.steps:
        writing = settings.writing_config(config)
        lengths += [
            len(writer_prompt(document, prompts, template)) + writing.max_new_tokens
            for template in writing.templates
        ]
    return max(lengths)


def check_positions(
    config, cfg: DecoderConfig, prompts: Prompts, documents: Sequence[Document]
) -> None:
    """Makes sure that no sequence is longer than those of the base; where its positions are scaled
    (RoPE), warns.

    Raises:
      ValueError: one is; names it and what to lower.
    """
    needs = [
        (
            longest_sequence(config, prompts, document),
            f"for document {document.title!r} and what is asked about it; lower data.chunk_tokens",
        )
        for document in documents
    ]
    if any(config.memory.learning_rates):
        needs.append((config.wake.context, "for what a stream sees of itself; lower wake.context"))
    longest, what = max(needs)
    if longest <= cfg.max_position:
        return
    message = (
        f"model.name={config.model.name!r} was trained on sequences of up to {cfg.max_position} "
        f"tokens (max_position_embeddings), but {longest} are needed {what}"
    )
    if cfg.rope_scaling is None:
        raise ValueError(message)
    warnings.warn(f"{message}. Its positions are scaled, so it may cope", stacklevel=3)
