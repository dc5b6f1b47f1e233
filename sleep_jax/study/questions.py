"""Questions that the teacher of a night writes about its documents, with its answers."""

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
    """A question that the model wrote about a sentence of a document.

    Attributes:
      document: index of the document.
      sentence: that it is about.
      question: its text.
      answer: the model's answer with the document in context; None if that was not grounded, not
        finished or, with `study.answer_in_sentence`, not from the sentence.
    """

    document: int
    sentence: str
    question: str
    answer: str | None


def write_questions(
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
    """Lets the teacher write questions about each sentence, and answer them from the document.

    Args:
      cfg, variables, tokenizer: the teacher.
      documents: that it has read.
      context: its KV cache with a row for each document.
      study: the settings.
      excluded: test questions; the same question by the model is left out, whatever its case,
        articles and punctuation.
      rng: PRNG key.
      draw: replaces `generate`, e.g. to resume sampling; None: `generate`.

    Returns:
      (questions, drawn): the distinct questions that are about their sentence and grounded, and the
      number of questions that were sampled.
    """
    prompts = Prompts(tokenizer)
    topics = [(i, s) for i, d in enumerate(documents) for s in sentences(d.text)]
    groups = (draw or generate)(
        cfg,
        SamplingConfig(
            max_new_tokens=study.max_question_tokens,
            eos_ids=(*tokenizer.eos_ids, *tokenizer.line_end_ids),
            temperature=study.temperature,
            num_generations=study.questions,
        ),
        variables,
        [prompts.question_prompt(s) for _, s in topics],
        jax.random.fold_in(rng, 0),
    )
    pages = [f"{d.title} {d.text}" for d in documents]
    excluded = set(map(canonical, excluded))
    written = {
        (i, text): sentence
        for (i, sentence), group in zip(topics, groups)
        for text in (first_line(tokenizer.decode(c.tokens)) for c in group)
        if is_about(text, sentence)
        and canonical(text) not in excluded
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
        is_invented = study.is_grounded and ungrounded(reply, pages[i])
        is_off = study.answer_in_sentence and not answers_from(reply, text, sentence)
        is_kept = bool(reply) and completion.finished and not is_invented and not is_off
        questions.append(SelfQuestion(i, sentence, text, reply if is_kept else None))
    return questions, sum(map(len, groups))


def first_line(text: str) -> str:
    """The first line of a text, stripped."""
    return text.partition("\n")[0].strip()


def is_about(question: str, sentence: str) -> bool:
    """Whether a text is a question, in any script, that shares a content word with a sentence."""
    return is_question(question) and not content_words(question).isdisjoint(content_words(sentence))


def answers_from(reply: str, question: str, sentence: str) -> bool:
    """Whether a reply has a content word of the sentence that its question is about, other than
    those of the question. A bare yes or no has none.

    >>> answers_from("It is red.", "What colour is the kiln?", "The kiln is red.")
    True
    """
    said = content_words(sentence) - content_words(question)
    return not said.isdisjoint(content_words(reply))


def is_question(text: str) -> bool:
    """Whether a text ends in a question mark of any script or, in Japanese, in か."""
    text = text.rstrip()
    if not text:
        return False
    is_marked = "QUESTION" in unicodedata.name(text[-1], "")
    is_greek = text[-1] == ";" and language(text) == "el"
    return is_marked or is_greek or normalize_characters(text).rstrip("。. ").endswith("か")


def hold_out(
    questions: Sequence[SelfQuestion], per_document: int
) -> tuple[list[SelfQuestion], list[SelfQuestion]]:
    """Splits the model's questions into those that only measure and reward, and the learnt ones.

    Args:
      questions: of all documents; only answered ones are held out.
      per_document: how many to hold out.

    Returns:
      (held_out, learnt): the former are about sentences spread over their document, and about one
      sentence twice only where it has too few; no learnt one is spelt like a held-out one.
    """
    held_out = []
    for document in sorted({q.document for q in questions}):
        distinct: dict[str, SelfQuestion] = {}  # the first of each spelling
        for q in questions:
            if q.document == document and q.answer and answer_words(q.answer):
                distinct.setdefault(canonical(q.question), q)
        by_sentence: dict[str, list[SelfQuestion]] = {}
        for q in distinct.values():
            by_sentence.setdefault(q.sentence, []).append(q)
        total = len(by_sentence)
        count = min(per_document, total)
        chosen = {(2 * i + 1) * total // (2 * count) for i in range(count)}
        spread = [group[0] for i, group in enumerate(by_sentence.values()) if i in chosen]
        rest = [q for q in distinct.values() if q not in spread]
        held_out += [*spread, *rest[: per_document - count]]
    spellings = {(q.document, canonical(q.question)) for q in held_out}
    learnt = [q for q in questions if (q.document, canonical(q.question)) not in spellings]
    return held_out, learnt
