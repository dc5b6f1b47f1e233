"""Training data from rewarded dreams: to write such dreams, and to know what they say.

rest_em    supervised learning of the rewarded dreams (ReST-EM, Singh et al. 2024): to write them
           with the document in view, and to recall what they say closed book
others     a policy gradient of `rl.algorithms` over all dreams that were tried, those of a document
           compared with each other; recall of the rewarded ones is learnt as above
"""

import dataclasses
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np

from sleep_jax.data.documents import Document
from sleep_jax.data.examples import PromptCompletion
from sleep_jax.dreaming.templates import Template
from sleep_jax.dreaming.trial import TrialConfig
from sleep_jax.dreaming.write import Dream
from sleep_jax.interop.prompts import Prompts
from sleep_jax.rl.algorithms import Surrogate
from sleep_jax.seeding.sequences import Exchange


def trial_sequences(
    dream: Dream, document: Document, prompts: Prompts, is_split: bool
) -> list[PromptCompletion]:
    """What the trial of a dream learns, as (prompt, reply): the dream and its passage.

    Args:
      dream: the dream.
      document: its document, the passage.
      prompts: of the model.
      is_split: each line of the dream is a reply of its own.
    """
    request = prompts.tell_about(document)
    if is_split:
        lines = [line for line in dream.text.splitlines() if line.strip()]
        replies = [prompts.reply(line) for line in lines]
    else:
        replies = [prompts.reply_without_thought(dream.tokens)]
    return [(request, reply) for reply in (*replies, prompts.reply(document.text))]


def passage_sequences(
    dreams: Sequence[Dream],
    sequences: Sequence[Sequence[PromptCompletion]],
    documents: Sequence[Document],
    prompts: Prompts,
    trial: TrialConfig,
) -> dict[int, list[PromptCompletion]]:
    """What the baseline trial of each document learns, by document: the passage alone, repeated so
    that it has as many updates as the longest dream about it.

    Args:
      dreams: the dreams that are tried.
      sequences: what the trial of each dream learns (`trial_sequences`).
      documents: by index.
      prompts: of the model.
      trial: how dreams are tried.
    """
    out = {}
    for index in sorted({x.document for x in dreams}):
        rows = max(len(rows) for x, rows in zip(dreams, sequences) if x.document == index)
        document = documents[index]
        passage = (prompts.tell_about(document), prompts.reply(document.text))
        out[index] = [passage] * (rows if trial.batch_size else 1)
    return out


def rewarded_dreams(
    dreams: Sequence[Dream],
    rewards: Sequence[float],
    cap: int = 0,
    gains: Sequence[float] | None = None,
) -> list[Dream]:
    """The dreams with a positive reward, in order.

    Args:
      dreams, rewards: all dreams that were tried, and their rewards.
      cap: most dreams of a document, the best ones; 0: all.
      gains: of each dream over the baseline; they break ties of the reward, then the order does.
    """
    gains = [0.0] * len(dreams) if gains is None else gains
    kept: list[int] = []
    for document in {x.document for x in dreams}:
        earned = [i for i, x in enumerate(dreams) if x.document == document and rewards[i] > 0]
        kept += sorted(earned, key=lambda i: (-rewards[i], -gains[i]))[: cap or None]
    return [dreams[i] for i in sorted(kept)]


def supervised_exchanges(
    dreams: Sequence[Dream],
    documents: Sequence[Document],
    prompts: Prompts,
    templates: Mapping[str, Template],
    *,
    writes: bool = True,
) -> list[Exchange]:
    """Rewarded dreams as supervised exchanges.

    Args:
      dreams: the rewarded dreams.
      documents: by index.
      prompts: of the model.
      templates: by name.
      writes: also learn to write such dreams with the document in view. To recall what a dream says
        closed book is learnt in any case, unless it is a recipe.
    """
    out = []
    for dream in dreams:
        writing = _writing_exchange(
            dream, documents[dream.document], prompts, templates[dream.template]
        )
        if writes:
            out.append(writing)
        if not dream.is_recipe:
            recall = dataclasses.replace(
                writing,
                student=prompts.tell_about(documents[dream.document]),
                completion=prompts.reply_without_thought(dream.tokens),
                kind="dream",
            )
            out.append(recall)
    return [dataclasses.replace(e, supervised=True) for e in out]


def policy_gradient_exchanges(
    dreams: Sequence[Dream],
    rewards: Sequence[float],
    documents: Sequence[Document],
    prompts: Prompts,
    templates: Mapping[str, Template],
    surrogate: Surrogate,
) -> list[Exchange]:
    """The dreams that were tried as on-policy exchanges with advantages.

    Dreams of a document are compared with each other; under a surrogate with values or a baseline
    over the batch, all dreams of the night are. Groups of equal rewards are left out, since they
    have no gradient.

    Args:
      dreams, rewards: all dreams that were tried, and their rewards.
      documents: by index.
      prompts: of the model.
      templates: by name.
      surrogate: whose advantages are computed.
    """
    rewards = np.asarray(rewards, np.float32)
    document_of = np.array([x.document for x in dreams])
    groups = [np.flatnonzero(document_of == i) for i in dict.fromkeys(document_of)]
    if surrogate.baseline in ("batch", "none"):
        groups = [np.arange(len(dreams))]
    out: dict[int, Exchange] = {}
    for group in groups:
        if len(np.unique(rewards[group])) < 2:
            continue
        advantages, _ = surrogate.advantages(jnp.asarray(rewards[group])[None])
        for i, advantage in zip(group, np.asarray(advantages)[0]):
            x = dreams[i]
            exchange = _writing_exchange(x, documents[x.document], prompts, templates[x.template])
            out[i] = dataclasses.replace(
                exchange,
                on_policy=True,
                advantage=float(advantage),
                log_probs=np.asarray(x.log_probs, np.float32),
            )
    return [out[i] for i in sorted(out)]


def writer_prompt(document: Document, prompts: Prompts, template: Template) -> tuple[int, ...]:
    """The prompt by which a student learns to write dreams: its token ids, the document
    included."""
    prompt = template.tokens(prompts, document)
    return (*prompts.context(document), *prompt) if template.needs_context else prompt


def _writing_exchange(
    dream: Dream, document: Document, prompts: Prompts, template: Template
) -> Exchange:
    """The dream as it was sampled; the student sees the document, too."""
    student = writer_prompt(document, prompts, template)
    in_view = dream.document if template.needs_context else None
    return Exchange(in_view, student, template.tokens(prompts, document), dream.tokens, "write")
