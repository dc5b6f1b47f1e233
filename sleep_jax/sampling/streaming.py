"""A reply as it is drawn, a few tokens a call, by a model that keeps what it has in view.

What is in view is one row of the `cache` collection with room left. It is read in blocks of one
size, and room doubles when it is used up, so that a conversation has two programs, and two more
each time it has doubled.
"""

import functools
from collections.abc import Iterator, Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from sleep_jax.data.batches import pad
from sleep_jax.models.cache import grow, init_cache
from sleep_jax.models.decoder import Decoder, lm_head, unstack_layers
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.models.linear import matmul
from sleep_jax.sampling.generate import decoding_config
from sleep_jax.sampling.sampler import SamplingConfig, draw_token

BLOCK = 64  # tokens that are read in a call
CHUNK = 4  # tokens that are drawn in a call
SMALLEST = 1024  # tokens that there is room for at first
NO_TOKEN = -1


@flax.struct.dataclass
class View:
    """What a model has in view, and where its reply stands.

    Attributes:
      cache: the collection of this name, of one row.
      hidden: float32 [1, d], of the last token.
      drawn: int32 [], tokens of the reply so far.
      is_over: bool [], the reply has ended.
    """

    cache: dict
    hidden: jax.Array
    drawn: jax.Array
    is_over: jax.Array


@functools.partial(jax.jit, static_argnames="cfg", donate_argnames="cache")
def read_block(cfg: DecoderConfig, variables, cache, tokens, mask) -> View:
    """Reads tokens, after which a reply may begin.

    Args:
      cfg: the decoder.
      variables: its collections in that form, without `cache`.
      cache: with room for them.
      tokens, mask: int32 [1, BLOCK], padded on the left; the mask is 1 on real tokens.
    """
    hidden, grown = Decoder(cfg).apply(
        {**variables, "cache": cache}, tokens, mask, mutable=["cache"]
    )
    return View(grown["cache"], hidden[:, -1], jnp.zeros((), jnp.int32), jnp.zeros((), bool))


@functools.partial(jax.jit, static_argnames=("cfg", "sampling"), donate_argnames="view")
def draw_chunk(cfg: DecoderConfig, sampling: SamplingConfig, variables, head, view: View, rng):
    """Draws the next tokens of a reply, at most CHUNK; none once it is over.

    Args:
      cfg, variables: as for `read_block`.
      head: LM head [d, vocab].
      sampling: how, and how long the reply may become.
      view: with room for them.
      rng: PRNG key of the reply.

    Returns:
      (view, tokens): the tokens that were drawn are in view, int32 [CHUNK], and NO_TOKEN after the
      last.
    """

    def goes_on(state):
        count, view, _ = state
        return (count < CHUNK) & ~view.is_over

    def advance(state):
        count, view, tokens = state
        logits = matmul(view.hidden.astype(cfg.dtype), head)
        token, _ = draw_token(sampling, logits, jax.random.fold_in(rng, view.drawn))
        hidden, grown = Decoder(cfg).apply(
            {**variables, "cache": view.cache}, token[:, None], mutable=["cache"]
        )
        drawn = view.drawn + 1
        is_over = jnp.isin(token[0], jnp.array(sampling.eos_ids)) | (
            drawn == sampling.max_new_tokens
        )
        view = View(grown["cache"], hidden[:, 0], drawn, is_over)
        return count + 1, view, tokens.at[count].set(token[0])

    start = (jnp.zeros((), jnp.int32), view, jnp.full((CHUNK,), NO_TOKEN, jnp.int32))
    _, view, tokens = jax.lax.while_loop(goes_on, advance, start)
    return view, tokens


_grown = jax.jit(grow, static_argnames=("cfg", "more"))


def decoding_form(cfg: DecoderConfig, variables):
    """A decoder and collections of it, both in scanned form, as a reader takes them: in the form
    that decodes fastest here, on the device.

    On a CPU weights of the base are widened to float32, once: a CPU multiplies them so, and would
    widen all of them again in every call.
    """
    decoding = decoding_config(cfg, jax.default_backend())
    if decoding.scan_layers:
        return decoding, jax.tree.map(jnp.asarray, variables)
    variables = unstack_layers(cfg, variables)
    if "params" in variables:
        variables |= {"params": jax.tree.map(_widened, variables["params"])}
    return decoding, jax.tree.map(jnp.asarray, variables)


def _widened(x):
    return np.asarray(x).astype(np.float32)


def decoding_head(cfg: DecoderConfig, params):
    """The LM head [d, vocab] of a reader; on a CPU widened, and a copy where it is an embedding,
    transposed."""
    head = lm_head(cfg, params)
    if jax.default_backend() != "cpu":
        return head
    return jnp.asarray(_widened(np.ascontiguousarray(head)))


class Reader:
    """A model that reads and replies, with what it has read and replied in view.

    Args:
      cfg: the decoder, as `decoding_form` returns it.
      variables: its collections in that form, without `cache`.
      head: as `decoding_head` returns it.
      sampling: how it replies, one reply at a time.
    """

    def __init__(self, cfg: DecoderConfig, variables, head, sampling: SamplingConfig):
        self._cfg, self._sampling, self._head = cfg, sampling, head
        self.variables = variables
        self._clear()

    def _clear(self) -> None:
        """Nothing is in view any more."""
        self._in_view: list[int] = []
        self._view: View | None = None
        self._room = self._used = 0  # of the cache, in tokens; padding is used as well

    def reply(self, prompt: Sequence[int], rng) -> Iterator[int]:
        """Reads a prompt and draws a reply to it, token by token, that of its end included.

        What the prompt begins with and is in view already is not read again. A reply that is not
        taken to its end leaves nothing in view.

        Args:
          prompt: all that is to be in view, one token at least.
          rng: PRNG key.

        Raises:
          ValueError: the prompt and the longest reply are more than the model was trained on.
        """
        longest, most = self._sampling.max_new_tokens, self._cfg.max_position
        if len(prompt) + longest > most:
            raise ValueError(
                f"{len(prompt):,} tokens and a reply of up to {longest:,} are more than the "
                f"{most:,} that the model was trained on; shorten the one or the other"
            )
        view = self._read(prompt)
        draw = functools.partial(draw_chunk, self._cfg, self._sampling, self.variables, self._head)
        view, chunk = draw(view, rng)
        while tokens := [t for t in np.asarray(chunk).tolist() if t != NO_TOKEN]:
            view, chunk = draw(view, rng)  # computed while these are shown
            self._in_view += tokens
            yield from tokens
        self._used += len(self._in_view) - len(prompt)
        self._view = view

    def _read(self, prompt: Sequence[int]) -> View:
        """Makes a prompt what is in view; the caller keeps the view."""
        known = len(self._in_view)
        if self._view is None or known >= len(prompt) or [*prompt[:known]] != self._in_view:
            self._clear()
            known = 0
        rest = prompt[known:]
        first = len(rest) % BLOCK or BLOCK
        blocks = [rest[:first], *(rest[i : i + BLOCK] for i in range(first, len(rest), BLOCK))]
        cache = self._with_room(len(blocks) * BLOCK + self._sampling.max_new_tokens)
        self._view = None  # its arrays are donated
        for block in blocks:
            tokens, mask = pad([block], BLOCK, side="left")
            view = read_block(self._cfg, self.variables, cache, tokens, mask)
            cache = view.cache
        self._in_view, self._used = [*prompt], self._used + len(blocks) * BLOCK
        return view

    def _with_room(self, more: int):
        """The cache with room for more tokens."""
        before, self._room = self._room, self._room or SMALLEST
        while self._room < self._used + more:
            self._room *= 2
        if self._view is None:
            return init_cache(self._cfg, 1, self._room)
        if self._room == before:
            return self._view.cache
        return _grown(self._cfg, self._view.cache, self._room - before)
