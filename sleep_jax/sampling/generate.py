"""Completions of many prompts of any length, sampled in batches of a few static shapes."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import jax
import numpy as np

from sleep_jax.data.batches import bucket, pad
from sleep_jax.models.cache import take_rows
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.models.sharding import spread_evenly, to_host
from sleep_jax.sampling.sampler import SamplingConfig, sample


@dataclasses.dataclass(frozen=True)
class Completion:
    """A sampled continuation of a prompt.

    Attributes:
      tokens: the completion; ends in an EOS token if it is finished.
      log_probs: float32 [tokens], of each token when it was drawn.
      finished: it ended with an EOS token, within the limit.
    """

    tokens: tuple[int, ...]
    log_probs: np.ndarray
    finished: bool


Draw = Callable[..., list[list[Completion]]]  # `generate`, or what stands in for it
BATCH = 64  # completions that are sampled at a time, at most


def decoding_config(cfg: DecoderConfig, platform: str) -> DecoderConfig:
    """The decoder as it samples on a platform: unrolled layers decode faster on CPU; elsewhere one
    scanned layer saves the copy of the weights."""
    return cfg.replace(scan_layers=platform != "cpu")


def prompts_per_call(
    prompts: int, num_generations: int, batch: int = BATCH, has_adapters: bool = False
) -> int:
    """How many prompts a call of the sampler completes: they are dealt evenly over as few calls as
    `batch` completions at a time allow; on a mesh, whose shards have as many rows each, over as few
    as these rows allow (`rows_per_call`)."""
    most = rows_per_call(max(1, batch // num_generations), has_adapters)
    return math.ceil(prompts / math.ceil(prompts / most))


def rows_per_call(count: int, has_adapters: bool) -> int:
    """Rows of a call with `count` prompts, as many for every shard of a mesh; rows under adapters
    side by side belong to one each: none is put beside them."""
    return count if has_adapters else spread_evenly(count)


def generate(
    cfg: DecoderConfig,
    sampling: SamplingConfig,
    variables,
    prompts: Sequence[Sequence[int]],
    rng,
    *,
    context=None,
    documents: Sequence[int] | None = None,
    width: int | None = None,
    batch: int = BATCH,
    expert_rng=None,
    drawn: list[list[Completion]] | None = None,
    on_batch: Callable[[], None] = lambda: None,
) -> list[list[Completion]]:
    """Completes prompts, `sampling.num_generations` times each.

    Args:
      cfg: the decoder, in scanned form.
      sampling: how to sample.
      variables: its collections, without `cache`.
      prompts: token lists.
      rng: PRNG key.
      context: a cache with one row a document, which prompts continue, or None.
      documents: per prompt the row of `context` that it continues.
      width: tokens that prompts are padded to; None: the bucket of the longest. With the same width
        the calls of a loop share one program.
      batch: completions sampled at a time, at most, or as many as the shards of a mesh make of
        them; prompts are spread evenly over as few batches as that allows.
      expert_rng: PRNG key of the random expert, as for `sample`.
      drawn: completions of the first prompts, as an interrupted call left them after one of its
        batches; those of the other prompts are appended.
      on_batch: called after every batch.

    Returns:
      Per prompt its completions.
    """
    if not prompts:
        return []
    has_adapters = "lora" in variables
    count = prompts_per_call(len(prompts), sampling.num_generations, batch, has_adapters)
    rows = rows_per_call(count, has_adapters)
    width = width or bucket(max(map(len, prompts)))
    cfg = decoding_config(cfg, jax.default_backend())
    out = [] if drawn is None else drawn
    for start in range(len(out), len(prompts), count):
        chosen = list(range(start, min(start + count, len(prompts))))
        filled = chosen + [chosen[0]] * (rows - len(chosen))
        tokens, mask = pad([prompts[i] for i in filled], width, side="left")
        cache = None if context is None else take_rows(cfg, context, [documents[i] for i in filled])
        keys = [key if key is None else jax.random.fold_in(key, start) for key in (rng, expert_rng)]
        samples = sample(cfg, sampling, variables, tokens, mask, keys[0], cache, keys[1])
        samples = to_host(samples)
        for row in range(len(chosen)):
            group = range(row * sampling.num_generations, (row + 1) * sampling.num_generations)
            out.append([_completion(samples, i, sampling.eos_ids) for i in group])
        on_batch()
    return out


def _completion(samples, row: int, eos_ids) -> Completion:
    length = int(samples.mask[row].sum())
    tokens = tuple(int(t) for t in samples.tokens[row, :length])
    return Completion(tokens, samples.log_probs[row, :length], tokens[-1] in eos_ids)
