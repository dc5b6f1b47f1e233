"""Learn: what the reward of its dreams teaches a writer, and what they say.

rest_em    a dream that earned a reward is learnt by heart (ReST-EM, Singh et al. 2024): to
           write such dreams with the document in view, and to know what it says without
others     every dream that was tried moves the writer by the policy gradient of
           `rl.algorithms`, the dreams of a document compared with each other; what the rewarded
           ones say is learnt as above
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
    """What a trial of one dream learns, as (prompt, reply): the dream, or where it `is_split` each
    of its lines, and the passage."""
    lines = [line for line in dream.text.splitlines() if line.strip()]
    told = (
        [prompts.reply(line) for line in lines]
        if is_split
        else [prompts.reply_without_thought(dream.tokens)]
    )
    return [
        (prompts.tell_about(document), reply) for reply in (*told, prompts.reply(document.text))
    ]


def passage_sequences(
    dreams: Sequence[Dream],
    learnt: Sequence[Sequence[PromptCompletion]],
    documents: Sequence[Document],
    prompts: Prompts,
    trial: TrialConfig,
) -> dict[int, list[PromptCompletion]]:
    """What the trial of each document's passage alone learns, by document: the passage, by as many
    updates as the longest of its dreams.

    Args:
      dreams: that are tried.
      learnt: what the trial of each learns.
      documents: by index.
      prompts: of the model.
      trial: how they are tried.
    """
    out = {}
    for document in sorted({x.document for x in dreams}):
        rows = max(len(own) for x, own in zip(dreams, learnt) if x.document == document)
        text = documents[document]
        passage = (prompts.tell_about(text), prompts.reply(text.text))
        out[document] = [passage] * (rows if trial.batch_size else 1)
    return out


def rewarded_dreams(
    dreams: Sequence[Dream],
    rewards: Sequence[float],
    cap: int = 0,
    gains: Sequence[float] | None = None,
) -> list[Dream]:
    """The dreams that earned something, in their order.

    Args:
      dreams, rewards: all that were tried, and what each earned.
      cap: how many of a document are left, the best; 0: all.
      gains: of each over the baseline, which decide between equal rewards; of equals the first is
        left.
    """
    gains = [0.0] * len(dreams) if gains is None else gains
    left: list[int] = []
    for document in {x.document for x in dreams}:
        mine = [i for i, x in enumerate(dreams) if x.document == document and rewards[i] > 0]
        left += sorted(mine, key=lambda i: (-rewards[i], -gains[i]))[: cap or None]
    return [dreams[i] for i in sorted(left)]


def supervised_exchanges(
    dreams: Sequence[Dream],
    documents: Sequence[Document],
    prompts: Prompts,
    templates: Mapping[str, Template],
    *,
    writes: bool = True,
) -> list[Exchange]:
    """What a rewarded dream teaches: if it `writes`, to write such dreams with the document in
    view, and, unless it is a recipe, to know what it says without."""
    out = []
    for dream in dreams:
        writing = _writing(dream, documents[dream.document], prompts, templates[dream.template])
        if writes:
            out.append(writing)
        if not dream.is_recipe:
            student, said = (
                prompts.tell_about(documents[dream.document]),
                prompts.reply_without_thought(dream.tokens),
            )
            out.append(dataclasses.replace(writing, student=student, completion=said, kind="dream"))
    return [dataclasses.replace(e, supervised=True) for e in out]


def policy_gradient_exchanges(
    dreams: Sequence[Dream],
    rewards: Sequence[float],
    documents: Sequence[Document],
    prompts: Prompts,
    templates: Mapping[str, Template],
    surrogate: Surrogate,
) -> list[Exchange]:
    """The dreams that were tried as a policy gradient learns from them, with their advantages.

    Dreams of a document are compared with each other; under a surrogate with values, or with the
    baseline of a batch, all of the night are. Of dreams that were all as good nothing is learnt.
    """
    rewards, of = np.asarray(rewards, np.float32), np.array([x.document for x in dreams])
    groups = [np.flatnonzero(of == document) for document in dict.fromkeys(of)]
    if surrogate.baseline in ("batch", "none"):
        groups = [np.arange(len(dreams))]
    out: dict[int, Exchange] = {}
    for group in groups:
        if len(np.unique(rewards[group])) < 2:
            continue
        advantages, _ = surrogate.advantages(jnp.asarray(rewards[group])[None])
        for i, advantage in zip(group, np.asarray(advantages)[0]):
            x = dreams[i]
            exchange = _writing(x, documents[x.document], prompts, templates[x.template])
            out[i] = dataclasses.replace(
                exchange,
                on_policy=True,
                advantage=float(advantage),
                log_probs=np.asarray(x.log_probs, np.float32),
            )
    return [out[i] for i in sorted(out)]


def writer_prompt(document: Document, prompts: Prompts, template: Template) -> tuple[int, ...]:
    """What a student is asked that learns to write, the document in view."""
    prompt = template.tokens(prompts, document)
    return (*prompts.context(document), *prompt) if template.needs_context else prompt


def _writing(dream: Dream, document: Document, prompts: Prompts, template: Template) -> Exchange:
    """The dream as it came about, with the document before the student, too."""
    student = writer_prompt(document, prompts, template)
    in_view = dream.document if template.needs_context else None
    return Exchange(in_view, student, template.tokens(prompts, document), dream.tokens, "write")
