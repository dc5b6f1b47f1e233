"""In-context learning (Brown et al. 2020, arXiv 2005.14165): what is to be known stays in view.

    replies = replies_in_view(model, [[document], ...], [answer_request(question), ...])

Nothing is learnt, the texts are kept. With the one document that a question is about in view, this
is the open book of a run, the ceiling of its nights; with all documents, or with labelled examples
(`examples_document`), the baseline; with those that a search has found, retrieval (`retrieval.py`).
"""

import dataclasses
from collections.abc import Sequence

from sleep_jax.baselines.model import Model
from sleep_jax.data.documents import Document
from sleep_jax.evals.recall import greedy_replies
from sleep_jax.interop.prompts import Prompts
from sleep_jax.settings import Settings, setting
from sleep_jax.wake.context import read


@dataclasses.dataclass(frozen=True)
class InContextConfig(Settings, section="in_context"):
    """How requests are answered; replies as long as those of SEAL's evaluation (Zweiger et al.
    2025)."""

    max_new_tokens: int = setting(64, "longest reply, in tokens", least=1)
    views_per_call: int = setting(16, "contexts whose keys and values exist at a time", least=1)


def replies_in_view(
    model: Model,
    views: Sequence[Sequence[Document]],
    requests: Sequence[str],
    config: InContextConfig = InContextConfig(),
) -> list[str]:
    """Greedy replies to requests, each with its documents in view; each different view is read
    once.

    Args:
      model: with a tokenizer.
      views: of each request, its documents, in the order in which they are read.
      requests: what is asked after them.
      config: how.

    Raises:
      ValueError: there are more views than requests or fewer, or a view is empty.
    """
    if len(views) != len(requests) or not all(views):
        raise ValueError(
            f"{len(views)} views of {[*map(len, views)]} documents for {len(requests)} requests; "
            "give as many, with a document at least in each"
        )
    prompts = Prompts(model.tokenizer)
    asked_by_view: dict[tuple[Document, ...], list[int]] = {}
    for i, view in enumerate(views):
        asked_by_view.setdefault(tuple(view), []).append(i)
    replies, contexts = [""] * len(requests), list(asked_by_view)
    for start in range(0, len(contexts), config.views_per_call):
        group = contexts[start : start + config.views_per_call]
        cache, _, _ = read(model.cfg, model.variables, [prompts.context(*view) for view in group])
        asked = [(row, i) for row, view in enumerate(group) for i in asked_by_view[view]]
        answers = greedy_replies(
            model.cfg,
            model.variables,
            model.tokenizer,
            [prompts.with_context(requests[i]) for _, i in asked],
            max_new_tokens=config.max_new_tokens,
            context=cache,
            documents=[row for row, _ in asked],
        )
        for (_, i), answer in zip(asked, answers):
            replies[i] = answer
    return replies
