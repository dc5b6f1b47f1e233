"""Self-study: what the teacher writes about what it read, and what it rehearses of what it
knew.

    recite     the document itself, as a reply; its teacher has it in view and is nearly certain: a
               dense signal
    complete   a sentence of it, from a cue of its first words
    quote      the sentence that a question of the teacher's own is about, as the reply to it
    answer     the teacher's free reply to such a question, with the whole document in view
    rehearse   the model's own words on general prompts, so that the night keeps what was known

A question that shares no content word with its sentence, and a reply with names or numbers that its
document lacks, is dropped: small teachers invent.
"""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from sleep_jax.data.documents import Document
from sleep_jax.data.sentences import sentences, word_ends
from sleep_jax.interop import prompts as requests
from sleep_jax.interop.prompts import Prompts
from sleep_jax.interop.tokenizer import Tokenizer
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.sampling.generate import Completion, Draw, generate
from sleep_jax.sampling.sampler import SamplingConfig
from sleep_jax.seeding.sequences import Exchange
from sleep_jax.study.questions import SelfQuestion
from sleep_jax.study.study_config import StudyConfig


@dataclasses.dataclass(frozen=True)
class Study:
    """What the teacher of a night wrote about the documents of its day.

    Attributes:
      held_out: questions of its own that only measure and reward.
      learnt: those that it learns from.
      rehearsed: general sequences.
    """

    held_out: tuple[SelfQuestion, ...]
    learnt: tuple[SelfQuestion, ...]
    rehearsed: tuple[Exchange, ...]

    @classmethod
    def of(cls, record: dict) -> "Study":
        """The study that `record` keeps as JSON."""
        return cls(
            held_out=tuple(SelfQuestion(**q) for q in record["held_out"]),
            learnt=tuple(SelfQuestion(**q) for q in record["learnt"]),
            rehearsed=tuple(
                Exchange(
                    None, *(tuple(e[k]) for k in ("student", "teacher", "completion")), e["kind"]
                )
                for e in record["rehearsed"]
            ),
        )

    def record(self) -> dict:
        """JSON-able."""
        return {
            "held_out": [dataclasses.asdict(q) for q in self.held_out],
            "learnt": [dataclasses.asdict(q) for q in self.learnt],
            "rehearsed": [
                {k: getattr(e, k) for k in ("student", "teacher", "completion", "kind")}
                for e in self.rehearsed
            ],
        }

    def exchanges(
        self, documents: Sequence[Document], prompts: Prompts, config: StudyConfig, seed: int
    ) -> list[Exchange]:
        """All that the night learns from: recitations, completions, answers, rehearsals."""
        rng = np.random.default_rng(seed)
        return [
            *recite(documents, prompts, config.recitations),
            *complete(documents, prompts, config.completions, rng),
            *answer(self.learnt, prompts),
            *self.rehearsed,
        ]


def from_memory(exchanges: Sequence[Exchange]) -> list[Exchange]:
    """The same sequences with no document in view: what a night between two levels replays, whose
    teacher knows them by heart."""
    return [
        dataclasses.replace(e, document=None, teacher=e.student)
        for e in exchanges
        if e.kind != "rehearse"
    ]


def reread(pages: Sequence[Sequence[int]]) -> list[Exchange]:
    """Text that was read, as it stood in the stream."""
    return [
        Exchange(None, tuple(page[:1]), tuple(page[:1]), tuple(page[1:]), "reread")
        for page in pages
        if len(page) > 1
    ]


def recite(documents: Sequence[Document], prompts: Prompts, times: int) -> list[Exchange]:
    """Every document as a reply about its title."""
    return [
        Exchange(
            document=i,
            student=prompts.about(d),
            teacher=prompts.with_context(requests.RECITE),
            completion=prompts.reply(d.text),
            kind="recite",
        )
        for i, d in enumerate(documents)
        for _ in range(times)
    ]


def complete(
    documents: Sequence[Document], prompts: Prompts, times: int, rng: np.random.Generator
) -> list[Exchange]:
    """Every sentence, asked for by a cue of two or more of its first words."""
    out = []
    for i, d in enumerate(documents):
        for sentence in sentences(d.text):
            ends = word_ends(sentence)
            # A cue has two words or more and leaves one or more.
            for _ in range(times if len(ends) >= 3 else 0):
                last = rng.integers(2, max(3, len(ends) - 1)) - 1
                cue = " ".join(sentence[: ends[last]].split())
                out.append(
                    Exchange(
                        document=i,
                        student=prompts.without_context(f"Complete the sentence: {cue}"),
                        teacher=prompts.with_context(f"Complete the sentence from the text: {cue}"),
                        completion=prompts.reply(sentence),
                        kind="complete",
                    )
                )
    return out


def answer(questions: Sequence[SelfQuestion], prompts: Prompts) -> list[Exchange]:
    """The teacher's replies to its questions: the quoted sentence, and its own words where they are
    grounded."""
    replies = [(q, "quote", q.sentence) for q in questions]
    replies += [(q, "answer", q.answer) for q in questions if q.answer]
    return [
        Exchange(
            document=q.document,
            student=prompts.without_context(q.question),
            teacher=prompts.with_context(requests.answer(q.question)),
            completion=prompts.reply(reply),
            kind=kind,
        )
        for q, kind, reply in replies
    ]


def rehearse(
    cfg: DecoderConfig,
    variables,
    tokenizer: Tokenizer,
    topics: Sequence[str],
    study: StudyConfig,
    rng,
    draw: Draw | None = None,
) -> list[Exchange]:
    """What the model says on general prompts, asked in a chat and begun as plain text, in turn.

    The teacher of these is the model as it was, without a document; `draw` as for `ask`.
    """
    if not topics or not study.rehearsals:
        return []
    prompts = Prompts(tokenizer)
    asked = [(prompts.plain if i % 2 else prompts.without_context)(t) for i, t in enumerate(topics)]
    calls = [(slice(None), study.max_answer_tokens, rng)]
    if study.thought:  # a text that is continued has none
        calls = [
            (slice(0, None, 2), study.max_chat_tokens, rng),
            (slice(1, None, 2), study.max_answer_tokens, jax.random.fold_in(rng, 1)),
        ]
    drawn: list[list[Completion]] = [[]] * len(asked)
    for part, longest, key in calls:
        sampling = SamplingConfig(
            longest,
            tokenizer.eos_ids,
            temperature=study.temperature,
            num_generations=study.rehearsals,
        )
        drawn[part] = (draw or generate)(cfg, sampling, variables, asked[part], key)
    return [
        Exchange(None, prompt, prompt, c.tokens, "rehearse")
        for prompt, group in zip(asked, drawn)
        for c in group
    ]
