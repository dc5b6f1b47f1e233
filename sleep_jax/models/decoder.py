"""A Llama-shaped decoder (Llama 3, Qwen 2.5, Qwen 3, SmolLM2) with memory levels beside each FFN.

The variable collections are the memory system: `params` is the frozen base, `memory` and `slots`
the levels beside each FFN, `cache` the context (level 0), `lora` a trial adapter. The decoder
returns hidden states; the LM head is a function of its own, so that losses can fuse it
(`sleep_jax.seeding.divergence`).
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from sleep_jax.models.attention import ATTENDED, Attention
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.models.experts import RANDOM_EXPERT, MemoryLevel, contribution
from sleep_jax.models.linear import Linear, RMSNorm, matmul
from sleep_jax.models.sharding import ROWS, constrain

SHARED_PREFIX = -1  # segment id of a row's prefix that its segments above 0 continue
COLLECTIONS = ("params", "memory", "slots", "lora", "cache", "intermediates")


class MLP(nn.Module):
    """The base FFN: (silu(h G) * (h U)) D, the oldest memory of the slowest level."""

    cfg: DecoderConfig

    @nn.compact
    def __call__(self, h):
        """Maps [batch, time, d] to float32 [batch, time, d]."""
        gate = Linear(self.cfg, self.cfg.hidden, name="gate")(h)
        up = Linear(self.cfg, self.cfg.hidden, name="up")(h)
        return Linear(self.cfg, self.cfg.width, name="down")(jax.nn.silu(gate) * up)


class Block(nn.Module):
    """Attention, then the FFN with its memory, in one of two layouts.

    parallel   x <- x + F(Nx) + sum over levels M_l(Nx)
    chain      x <- x + M_1(Nx); ...; x <- x + M_{k-1}(Nx); x <- x + F(Nx) + M_k(Nx)     (Eq. 1)

    Attributes:
      cfg: the decoder.
      has_memory: there are levels beside this FFN.
    """

    cfg: DecoderConfig
    has_memory: bool = True

    @nn.compact
    def __call__(self, x, positions, mask, index):
        """Maps the residual stream [batch, time, d]; returns (x, None), the carry of a scan."""
        cfg, x = self.cfg, on_mesh(x)
        h = RMSNorm(cfg.norm_eps, name="attention_norm")(x)
        x = x + Attention(cfg, name="attention")(h, positions, mask, index)
        levels = [
            MemoryLevel(cfg, number, name=f"level_{number}")
            for number in range(1, cfg.memory.depth + 1)
            if self.has_memory
        ]
        norm = RMSNorm(cfg.norm_eps, name="mlp_norm")
        if cfg.memory.layout == "chain":
            for level in levels[:-1]:
                x = x + contribution(cfg.memory, [level], norm(x))
            levels = levels[-1:]
        h = norm(x)
        x = x + MLP(cfg, name="mlp")(h)
        if levels:
            x = x + contribution(cfg.memory, levels, h)
        return on_mesh(x), None


def on_mesh(x):
    """The residual stream [batch, time, d] as a mesh shall hold it.

    Rows are spread and weights gathered, unless there is but one token a row: then the weights, far
    larger, stay where they are and what every token carries travels.
    """
    return constrain(x, "data", None, "fsdp") if x.shape[1] == 1 else constrain(x, ROWS, None, None)


class Decoder(nn.Module):
    """Tokens to final hidden states."""

    cfg: DecoderConfig

    @nn.compact
    def __call__(self, tokens, segment_ids=None, trunk=None):
        """Runs the decoder, over packed sequences or on top of a cache.

        Args:
          tokens: int32 [batch, time].
          segment_ids: int32 [batch, time]; tokens attend within their segment, 0 is padding.
            SHARED_PREFIX is a prefix at the row's start that segments above 0 continue; those below
            it stand alone. Default: all one segment. With a cache the same ids continue the
            segments
              that it holds.
          trunk: what `run_trunk` gave for the same tokens and segments; these layers are then not
            run. Only without a cache, which would lack their keys.

        Returns:
          Normalised hidden states, float32 [batch, time, d]; `lm_logits` turns them into logits.
          With a cache, apply with `mutable=["cache"]` to get the grown cache.
        """
        cfg = self.cfg
        if segment_ids is None:
            segment_ids = jnp.ones_like(tokens)
        embedding = self._table("embed", "embedding", (cfg.vocab, cfg.width))
        # Looked up where the table is, then moved: the compiler would gather the table.
        found = constrain(embedding[tokens].astype(jnp.float32), "data", None, "fsdp")
        x = found if trunk is None else trunk
        positions, mask, index = self._visibility(segment_ids)

        block = Block
        if cfg.remat == "full" and not self.has_variable("cache", "index"):
            keep = jax.checkpoint_policies.save_only_these_names(ATTENDED)
            block = nn.remat(Block, prevent_cse=not cfg.scan_layers, policy=keep)
        for name, layers in cfg.stacks.items():
            has_memory = name != "trunk"
            if not has_memory and trunk is not None:
                continue
            if cfg.scan_layers:
                x, _ = nn.scan(
                    block,
                    variable_axes=dict.fromkeys(COLLECTIONS, 0),
                    split_rngs={"params": True, "memory": True, RANDOM_EXPERT: True},
                    in_axes=(nn.broadcast, nn.broadcast, nn.broadcast),
                    length=len(layers),
                )(cfg, has_memory, name=name)(x, positions, mask, index)
            else:
                for i in layers:
                    x, _ = block(cfg, has_memory, name=f"layer_{i}")(x, positions, mask, index)
            if not has_memory:
                self.sow("intermediates", "residual", x)
        x = RMSNorm(cfg.norm_eps, name="final_norm")(x)
        if not cfg.tie_embeddings:
            self._table("head", "kernel", (cfg.width, cfg.vocab))
        return x

    def _table(self, group, name, shape):
        """The parameter `group/name`: a matrix over the vocabulary."""
        init = nn.initializers.normal(0.02)
        return self.param(group, lambda rng: {name: init(rng, shape, self.cfg.dtype)})[name]

    def _visibility(self, segment_ids):
        """Rotary positions [b, t], visible keys [b, t, keys] and the cache's write index."""
        start, keys = 0, segment_ids
        if self.has_variable("cache", "index"):
            index, held = self.variable("cache", "index"), self.variable("cache", "segment_ids")
            start = index.value
            index.value = start + segment_ids.shape[1]
            held.value = jax.lax.dynamic_update_slice(held.value, segment_ids, (0, start))
            keys = held.value
        query, key = segment_ids[:, :, None], keys[:, None]
        related = (key == query) | ((key == SHARED_PREFIX) & (query > 0))
        time = start + jnp.arange(segment_ids.shape[1])
        visible = related & (jnp.arange(keys.shape[1]) <= time[:, None])
        # A token's position is how much it sees before itself.
        return visible.sum(-1) - 1, visible, start


@functools.partial(jax.jit, static_argnames=("cfg",))
def run_trunk(cfg: DecoderConfig, variables, tokens, segment_ids):
    """The residual stream after the layers that carry no memory, float32 [batch, time, d]: the same
    for all models that differ in memory alone.

    Args:
      cfg: a decoder with a trunk (`DecoderConfig.stacks`).
      variables: its collections.
      tokens, segment_ids: as for `Decoder`.
    """
    _, seen = Decoder(cfg).apply(variables, tokens, segment_ids, mutable=["intermediates"])
    [residual] = seen["intermediates"]["residual"]  # what follows it is dead code
    return residual


def unstack_layers(cfg: DecoderConfig, variables):
    """Variables of a scanned decoder as those of the same decoder with `scan_layers=False`."""

    def unstack(collection):
        rest = {name: held for name, held in collection.items() if name not in cfg.stacks}
        layers = {
            f"layer_{i}": jax.tree.map(lambda x, j=j: x[j], collection.get(name, {}))
            for name, stack in cfg.stacks.items()
            for j, i in enumerate(stack)
        }
        return rest | layers

    return {name: unstack(collection) for name, collection in variables.items()}


def lm_head(cfg: DecoderConfig, params):
    """The LM head as a matrix [d, vocab]."""
    return params["embed"]["embedding"].T if cfg.tie_embeddings else params["head"]["kernel"]


def lm_logits(cfg: DecoderConfig, params, hidden):
    """Next-token logits, float32 [..., vocab], from hidden states [..., d]."""
    return matmul(hidden, lm_head(cfg, params))
