"""Lengths of what a run reads and writes, in tokens: each has to fit a row of a batch and the
positions that the model was trained on.
"""

import dataclasses
import warnings
from collections.abc import Iterator, Mapping, Sequence

import ml_collections

from sleep_jax.config import RunConfig, read
from sleep_jax.data.documents import Document
from sleep_jax.dreaming.reinforce import writer_prompt
from sleep_jax.interop.prompts import RECITE_REQUEST, Prompts, answer_request
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.study.variants import prompt_lengths


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Lengths of a document and of what is asked about it, in tokens.

    Attributes:
      title: title of the document.
      about: the request that the document is the reply to when it is learnt.
      reply: the document as that reply.
      recited: the document in context, the request to repeat it, and the reply.
      asked: the document in context and the longest question that comes with it; 0 without one.
      self_asked: the document in context and a question of the model's own, its answer beside it
        with `study.answer_in_view`.
      variant: the longest prompt of the student for a variant; 0 without variants.
      varied: the document in context and the longest prompt for a variant; 0 without variants.
      writers: prompt of a dream by name of its template, with the document in context, or with as
        much of it as is recollected on a later day.
    """

    title: str
    about: int
    reply: int
    recited: int
    asked: int
    self_asked: int
    variant: int
    varied: int
    writers: Mapping[str, int]


def of_days(config, count: int):
    """The config of a run of so many days, however many of them it was given before."""
    config = ml_collections.ConfigDict(config.to_dict())
    config.data.episodes = count
    return config


def measure(settings: RunConfig, prompts: Prompts, documents: Sequence[Document]) -> list[Lengths]:
    """The lengths of some documents. Each is encoded once, and once more for every template that
    holds its text.
    """
    dreaming, curriculum = settings.dreaming, settings.dreaming.curriculum
    templates = dreaming.writing.templates if dreaming.learning.steps else ()
    recollects = settings.data.episodes > 1 and curriculum.weak and curriculum.source == "dreams"
    recite = len(prompts.with_context(RECITE_REQUEST))
    study = settings.study
    ask = len(prompts.with_context(answer_request(""))) + study.max_question_tokens
    if study.answer_in_view:
        ask = len(prompts.with_context(answer_request("", " "))) + study.max_question_tokens
        ask += study.max_answer_tokens
    with_context = {
        t.name: len(prompts.with_context(t.prompt)) for t in templates if t.needs_context
    }

    def writer(template, document: Document, context: int) -> int:
        """Tokens of the prompt of a dream; `context`: tokens of the document in context."""
        if template.needs_context:
            return context + with_context[template.name]
        return len(writer_prompt(document, prompts, template))

    lengths = []
    for document in documents:
        context, reply = len(prompts.context(document)), len(prompts.reply(document.text))
        texts = [t for q in document.questions for t in (q.question, q.paraphrase) if t]
        asked = [context + len(prompts.with_context(answer_request(text))) for text in texts]
        writers = {t.name: writer(t, document, context) for t in templates}
        if recollects:
            blank = dataclasses.replace(document, text="")
            empty_context = len(prompts.context(blank))
            for t in templates:
                recollected = writer(t, blank, empty_context) + settings.data.chunk_tokens
                writers[t.name] = max(writers[t.name], recollected)
        variant, varied = prompt_lengths(document, prompts, study)
        lengths.append(
            Lengths(
                title=document.title,
                about=len(prompts.tell_about(document)),
                reply=reply,
                recited=context + recite + reply,
                asked=max(asked, default=0),
                self_asked=context + ask,
                variant=variant,
                varied=context + varied if varied else 0,
                writers=writers,
            )
        )
    return lengths


def check_lengths(config, prompts: Prompts, documents: Sequence[Document]) -> list[Lengths]:
    """Checks that every document with its longest prompt, and every variant of it and dream about
    it, fits a row of a seeding batch.

    Returns:
      The lengths of the documents.

    Raises:
      ValueError: one does not fit; names the fields to change.
    """
    settings = read(config)
    measured, shape = measure(settings, prompts, documents), settings.seeding.shape
    for lengths in measured:
        row = lengths.about + lengths.reply
        if row > shape.max_length or lengths.reply > shape.max_target_length:
            raise ValueError(
                f"document {lengths.title!r} needs rows of {row} tokens, {lengths.reply} of them "
                f"scored, more than seeding.max_length={shape.max_length} and "
                f"seeding.max_target_length={shape.max_target_length}; raise them or lower "
                f"data.chunk_tokens"
            )
        longest = settings.study.max_variant_tokens
        if lengths.variant and lengths.variant + longest > shape.max_length:
            raise ValueError(
                f"study.max_variant_tokens={longest}: a variant of {lengths.title!r} needs rows of "
                f"up to {lengths.variant + longest} tokens, more than "
                f"seeding.max_length={shape.max_length}; lower the one or raise the other"
            )
    _check_dreams(settings, measured)
    return measured


def _check_dreams(settings: RunConfig, documents: Sequence[Lengths]) -> None:
    writing, shape = settings.dreaming.writing, settings.seeding.shape
    forms = {template.name: template.form for template in writing.templates}
    for lengths in documents:
        for name, prompt in lengths.writers.items():
            dream = writing.max_tokens(forms[name])
            if prompt + dream <= shape.max_length and dream <= shape.max_target_length:
                continue
            fields, lower = f"dreaming.max_new_tokens={writing.max_new_tokens}", "it"
            if dream > writing.max_new_tokens:
                fields, lower = (
                    f"{fields}, model.thought_tokens={writing.thought_tokens}",
                    "one of them",
                )
            raise ValueError(
                f"{fields}: a dream about {lengths.title!r} by the template {name!r} needs rows of "
                f"up to {prompt + dream} tokens, {dream} of them scored, more than "
                f"seeding.max_length={shape.max_length} and "
                f"seeding.max_target_length={shape.max_target_length}; lower {lower} or "
                f"data.chunk_tokens, or raise those"
            )


def longest_sequence(settings: RunConfig, lengths: Lengths) -> tuple[int, str]:
    """Tokens of the longest sequence with a document in it, and how to make it shorter."""
    return max(_sequences(settings, lengths))


def _sequences(settings: RunConfig, lengths: Lengths) -> Iterator[tuple[int, str]]:
    thinks = "model.thought_tokens, " if settings.model.thinking else ""
    yield lengths.recited, "lower data.chunk_tokens"
    if lengths.asked:
        answer = settings.evaluation.max_new_tokens
        remedy = f"lower {thinks}evaluation.max_new_tokens or data.chunk_tokens"
        yield lengths.asked + answer, remedy
    answer = settings.study.max_chat_tokens
    yield lengths.self_asked + answer, f"lower {thinks}study.max_answer_tokens or data.chunk_tokens"
    if lengths.varied:
        longest = settings.study.max_variant_tokens + settings.study.thought_tokens
        remedy = f"lower {thinks}study.max_variant_tokens or data.chunk_tokens"
        yield lengths.varied + longest, remedy
    writing = settings.dreaming.writing
    forms = {template.name: template.form for template in writing.templates}
    for name, prompt in lengths.writers.items():
        thought = "" if forms[name] == "plain" else thinks
        yield (
            prompt + writing.max_tokens(forms[name]),
            f"lower {thought}dreaming.max_new_tokens or data.chunk_tokens, or leave the template "
            f"{name!r} out of dreaming.instructions",
        )


def check_positions(
    config, cfg: DecoderConfig, documents: Sequence[Lengths], field: str = ""
) -> None:
    """Checks that no sequence is longer than a model was trained on; warns instead where its
    positions are scaled (RoPE scaling).

    Args:
      config: of the run.
      cfg: of the model.
      documents: lengths of the documents.
      field: the field that names the model, with its value; by default model.name.

    Raises:
      ValueError: a sequence is too long; names it and what to lower.
    """
    settings = read(config)
    sequences = []
    for lengths in documents:
        tokens, remedy = longest_sequence(settings, lengths)
        purpose = f"for document {lengths.title!r} and what is asked about it"
        sequences.append((tokens, purpose, remedy))
    if any(config.memory.learning_rates):
        purpose = "for the context of the stream while awake"
        sequences.append((config.wake.context, purpose, "lower wake.context"))
    if not sequences:
        return
    longest, purpose, remedy = max(sequences)
    if longest <= cfg.max_position:
        return
    message = (
        f"{field or f'model.name={config.model.name!r}'} was trained on sequences of up to "
        f"{cfg.max_position} tokens (max_position_embeddings), but {longest} are needed {purpose}; "
        f"{remedy}"
    )
    if cfg.rope_scaling is None:
        raise ValueError(message)
    warnings.warn(f"{message}. Its positions are scaled, so it may work", stacklevel=3)
