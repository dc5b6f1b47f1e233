"""Reading documents into the context, the fastest memory (level 0).

The result is a cache with one row a document. The model that continues it is *awake*, with the
document in its context: the teacher of the coming night. The student is the same model without it.
"""

from collections.abc import Sequence

from sleep_jax.data.batches import bucket, pad
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.models.sharding import spread_evenly
from sleep_jax.sampling.sampler import prefill


def read_shape(lengths: Sequence[int]) -> tuple[int, int]:
    """(rows, width) of the contexts of these lengths: as many rows for every shard of a mesh."""
    return spread_evenly(len(lengths)), bucket(max(lengths))


def read(cfg: DecoderConfig, variables, contexts: Sequence[Sequence[int]]):
    """Reads contexts into a cache.

    Args:
      cfg: the decoder.
      variables: its collections, without `cache`.
      contexts: token lists, one a document.

    Returns:
      (cache, hidden, mask): the `cache` collection with one row a context, padded on the left; the
      hidden states [contexts, time, d] and int32 mask [contexts, time] of the tokens read. On a
      mesh, empty contexts are appended until the shards divide the rows evenly.
    """
    rows, width = read_shape([*map(len, contexts)])
    tokens, mask = pad([*contexts, *[()] * (rows - len(contexts))], width, side="left")
    cache, hidden = prefill(cfg, variables, tokens, mask)
    return cache, hidden, mask
