"""Recall of documents, with the document in context or closed book, and retention of known
texts.
"""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from sleep_jax.data.batches import bucket, pad
from sleep_jax.data.examples import Examples
from sleep_jax.evals.likelihood import log_probs
from sleep_jax.evals.metrics import contains_answer
from sleep_jax.interop.tokenizer import Tokenizer
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.sampling.generate import BATCH, generate
from sleep_jax.sampling.sampler import SamplingConfig


def greedy_replies(
    cfg: DecoderConfig,
    variables,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    context=None,
    documents: Sequence[int] | None = None,
    width: int | None = None,
    batch: int = BATCH,
) -> list[str]:
    """Greedy replies to token prompts, as text without thoughts.

    Args:
      cfg, variables: the model.
      tokenizer: of the model.
      prompts: token prompts.
      max_new_tokens: longest reply, in tokens.
      context: the cache of what was read, one row a document; None: closed book.
      documents: per prompt the row of the cache that it continues.
      width, batch: as for `generate`.
    """
    sampling = SamplingConfig(max_new_tokens, tokenizer.eos_ids, temperature=0.0)
    completions = generate(
        cfg,
        sampling,
        variables,
        prompts,
        jax.random.key(0),
        context=context,
        documents=documents,
        width=width,
        batch=batch,
    )
    return [tokenizer.reply_text(completion.tokens) for [completion] in completions]


def answer_accuracy(replies: Sequence[str], answers: Sequence[Sequence[str]]) -> float:
    """Share of replies that contain one of their accepted answers (`contains_answer`), in [0,
    1].
    """
    return float(np.mean([contains_answer(r, a) for r, a in zip(replies, answers)]))


@dataclasses.dataclass(frozen=True)
class AnchorSet:
    """Texts whose perplexity should not change, padded.

    Attributes:
      tokens: int32 [texts, time].
      mask: int32 [texts, time]; 1 on real tokens.
    """

    tokens: np.ndarray
    mask: np.ndarray

    @classmethod
    def from_sequences(cls, sequences: Sequence[Sequence[int]]) -> "AnchorSet":
        """Pads token sequences to one length, a `bucket`."""
        return cls(*pad(sequences, bucket(max(map(len, sequences)))))


@jax.jit(static_argnames=("cfg",))
def sum_nll(cfg, variables, tokens, mask):
    """Negative log-likelihood of texts: (sum in nats, number of scored tokens), as arrays.

    Args:
      cfg, variables: the model.
      tokens, mask: int32 [texts, time]; the mask is 1 on real tokens.
    """
    examples = Examples(tokens=tokens, segment_ids=mask, mask=(mask > 0).at[:, 0].set(False))
    return -log_probs(cfg, variables, examples).sum(), examples.mask.sum()


def negative_log_likelihood(cfg: DecoderConfig, variables, tokens, mask) -> tuple[float, int]:
    """Negative log-likelihood of texts, without the first token of each: (sum in nats, number of
    tokens), on the host.

    Args:
      cfg, variables: the model.
      tokens, mask: int32 [texts, time], padded on the right; 1 on real tokens.
    """
    total, count = sum_nll(cfg, variables, tokens, mask)
    return float(total), int(count)
