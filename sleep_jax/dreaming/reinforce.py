"""Reward and learn: a dream that raised tau earns 1 (Eq. 5); what earned 1 is learnt (ReST-EM,
Singh et al. 2024).

tau is the mean log-likelihood of the model's own answers to its own questions about the document.
They are held out of training and disjoint from the test questions. Ties earn 0.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from sleep_jax.data.batches import bucket, pack
from sleep_jax.data.documents import Document
from sleep_jax.dreaming.trial import Examples, TrialConfig, likelihoods, train_adapters
from sleep_jax.dreaming.write import INSTRUCTIONS, Dream
from sleep_jax.models.config import DecoderConfig
from sleep_jax.seeding.prompts import Prompts
from sleep_jax.seeding.self_study import Question
from sleep_jax.seeding.sequences import Exchange

MAX_ROW = 512  # tokens; an item's sequences share rows of at most this length
Scored = tuple[tuple[int, ...], tuple[int, ...]]  # what is given and what is scored after it


def examples(items: Sequence[Sequence[Scored]]) -> Examples:
    """Packs every item's sequences into the same number of rows: `Examples` [items, rows, time]."""
    time = bucket(max(sum(len(given) + len(scored) for given, scored in item) for item in items))
    longest = max(len(given) + len(scored) for item in items for given, scored in item)
    time = max(min(time, MAX_ROW), bucket(longest))
    packed = [pack([(len(g) + len(s),) for g, s in item], (time,)) for item in items]
    shape = (len(items), max(map(len, packed)), time)
    tokens, segments = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    mask = np.zeros(shape, bool)
    for i, item in enumerate(items):
        for row, members in enumerate(packed[i]):
            t = 0
            for segment, j in enumerate(members, start=1):
                given, scored = item[j]
                n = len(given) + len(scored)
                tokens[i, row, t : t + n] = (*given, *scored)
                segments[i, row, t : t + n] = segment
                mask[i, row, t + len(given) : t + n] = True
                t += n
    return Examples(tokens=tokens, segment_ids=segments, mask=mask)


def about(document: Document, prompts: Prompts) -> tuple[int, ...]:
    """The request that a dream, or the passage itself, is the reply to when it is learnt."""
    return prompts.alone(f"Tell me about {document.title}.")


def rewards(
    cfg: DecoderConfig,
    trial: TrialConfig,
    variables,
    lora,
    dreams: Sequence[Dream],
    documents: Sequence[Document],
    questions: Sequence[Question],
    prompts: Prompts,
) -> tuple[np.ndarray, np.ndarray]:
    """Trains a trial adapter on every dream and its passage and sees whether tau rose.

    Args:
      cfg, trial: static.
      variables: the model as it is now.
      lora: the adapter at birth.
      dreams: the selected dreams; each one's document has at least one question.
      documents: what was read.
      questions: what tau asks, with the model's own answers.
      prompts: of the model.

    Returns:
      (reward, gain): per dream 1.0 or 0.0, and tau(adapted) - tau(base) in nats a token.
    """
    asked = examples(
        [
            [
                (prompts.alone(q.question), prompts.reply(q.answer))
                for q in questions
                if q.document == dream.document
            ]
            for dream in dreams
        ]
    )
    pages = [documents[d.document] for d in dreams]
    learnt = examples(
        [
            [(about(page, prompts), d.tokens), (about(page, prompts), prompts.reply(page.text))]
            for d, page in zip(dreams, pages)
        ]
    )
    adapters, _ = train_adapters(cfg, trial, variables, lora, learnt)
    at_birth = jax.tree.map(lambda x: jnp.broadcast_to(x, (len(dreams), *x.shape)), lora)
    before = likelihoods(cfg, trial, variables, at_birth, asked)
    after = likelihoods(cfg, trial, variables, adapters, asked)
    gain = np.asarray(after - before)
    return (gain > 0).astype(np.float32), gain


def lessons(
    dreams: Sequence[Dream], documents: Sequence[Document], prompts: Prompts
) -> list[Exchange]:
    """What a rewarded dream teaches: to write such dreams with the document in view, and to know
    what it says without."""
    out = []
    for dream in dreams:
        document = documents[dream.document]
        teacher = prompts.beside(INSTRUCTIONS[dream.instruction])
        writing = (*prompts.context(document), *teacher)
        for kind, student in (("write", writing), ("dream", about(document, prompts))):
            exchange = Exchange(
                dream.document, student, teacher, dream.tokens, kind, supervised=True
            )
            out.append(exchange)
    return out
