"""The questions that the teacher of a night asks itself about what it read, with its answers."""

import dataclasses
import unicodedata
from collections.abc import Collection, Sequence

import jax

from sleep_jax.data.answers import answer_words, canonical, content_words, normalize_characters
from sleep_jax.data.documents import Document
from sleep_jax.data.languages import language
from sleep_jax.data.sentences import sentences
from sleep_jax.interop.prompts import Prompts, answer_request
from sleep_jax.interop.tokenizer import Tokenizer
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.rewards.agreement import ungrounded
from sleep_jax.sampling.generate import Draw, generate
from sleep_jax.sampling.sampler import SamplingConfig
from sleep_jax.study.study_config import StudyConfig


@dataclasses.dataclass(frozen=True)
class SelfQuestion:
    """A question that the model wrote itself about a sentence of a document.

    Attributes:
      document: index of the document.
      sentence: what it asks about.
      question: its words.
      answer: the model's own answer with the document in view; None where that was not grounded or
        not finished.
    """

    document: int
    sentence: str
    question: str
    answer: str | None


def ask(
    cfg: DecoderConfig,
    variables,
    tokenizer: Tokenizer,
    documents: Sequence[Document],
    context,
    study: StudyConfig,
    excluded: Collection[str],
    rng,
    draw: Draw | None = None,
) -> tuple[list[SelfQuestion], int]:
    """Questions that the teacher writes about each sentence, with its answers from the whole
    document.

    Args:
      cfg, variables, tokenizer: the teacher.
      documents, context: what it read, and its cache with one row a document.
      study: how much.
      excluded: test questions; one that the model happens to write itself is left out, whatever
        its case, articles and punctuation.
      rng: PRNG key.
      draw: in place of `generate`; it may know what was drawn before.

    Returns:
      (questions, drawn): the distinct questions that are about their sentence, and how many were
      drawn for them.
    """
    prompts = Prompts(tokenizer)
    about = [(i, s) for i, d in enumerate(documents) for s in sentences(d.text)]
    drawn = (draw or generate)(
        cfg,
        SamplingConfig(
            max_new_tokens=study.max_question_tokens,
            eos_ids=(*tokenizer.eos_ids, *tokenizer.line_end_ids),
            temperature=study.temperature,
            num_generations=study.questions,
        ),
        variables,
        [prompts.question_prompt(s) for _, s in about],
        jax.random.fold_in(rng, 0),
    )
    pages = [f"{d.title} {d.text}" for d in documents]
    tested = set(map(canonical, excluded))
    written = {
        (i, text): sentence
        for (i, sentence), group in zip(about, drawn)
        for text in (_first_line(tokenizer.decode(c.tokens)) for c in group)
        if is_about(text, sentence)
        and canonical(text) not in tested
        and not (study.is_grounded and ungrounded(text, pages[i]))
    }
    answers = (draw or generate)(
        cfg,
        SamplingConfig(study.max_chat_tokens, tokenizer.eos_ids, temperature=0.0),
        variables,
        [prompts.with_context(answer_request(q)) for _, q in written],
        jax.random.fold_in(rng, 1),
        context=context,
        documents=[i for i, _ in written],
    )
    questions = []
    for ((i, text), sentence), [completion] in zip(written.items(), answers):
        reply = tokenizer.reply_text(completion.tokens)
        invents = study.is_grounded and ungrounded(reply, pages[i])
        is_kept = bool(reply) and completion.finished and not invents
        questions.append(SelfQuestion(i, sentence, text, reply if is_kept else None))
    return questions, sum(map(len, drawn))


def _first_line(text: str) -> str:
    return text.partition("\n")[0].strip()


def is_about(question: str, sentence: str) -> bool:
    """Whether it is a question, in any script, and shares a content word with the sentence."""
    return is_question(question) and not content_words(question).isdisjoint(content_words(sentence))


def is_question(text: str) -> bool:
    """Whether it ends in a question mark of any script, or in the か that Japanese has for it."""
    text = text.rstrip()
    if not text:
        return False
    is_marked = "QUESTION" in unicodedata.name(text[-1], "")
    is_greek = text[-1] == ";" and language(text) == "el"
    return is_marked or is_greek or normalize_characters(text).rstrip("。. ").endswith("か")


def hold_out(
    questions: Sequence[SelfQuestion], per_document: int
) -> tuple[list[SelfQuestion], list[SelfQuestion]]:
    """Splits the model's own questions: those that only measure and reward, and those it learns
    from. The former are about sentences spread over their document, and about one sentence twice
    only where there are too few."""
    held = []
    for document in sorted({q.document for q in questions}):
        unlike: dict[str, SelfQuestion] = {}  # of those that are spelt alike the first
        for q in questions:
            if q.document == document and q.answer and answer_words(q.answer):
                unlike.setdefault(canonical(q.question), q)
        mine = list(unlike.values())
        of: dict[str, list[SelfQuestion]] = {}
        for q in mine:
            of.setdefault(q.sentence, []).append(q)
        count = min(per_document, len(of))
        spread = {(2 * i + 1) * len(of) // (2 * count) for i in range(count)}
        first = [own[0] for i, own in enumerate(of.values()) if i in spread]
        rest = [q for q in mine if q not in first]
        held += [*first, *rest[: per_document - count]]
    asked = {(q.document, canonical(q.question)) for q in held}
    return held, [q for q in questions if (q.document, canonical(q.question)) not in asked]
