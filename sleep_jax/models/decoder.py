"""A Llama-shaped decoder (Llama 3, Qwen 2.5, Qwen 3, SmolLM2) with memory levels beside each FFN.

The variable collections are the memory system: `params` is the frozen base, `memory` and `slots`
the levels beside each FFN, `cache` the context (level 0), `lora` a trial adapter. The decoder
returns hidden states; the LM head is a separate function, so that losses can fuse it
(`sleep_jax.seeding.divergence`).
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from sleep_jax.models.decode_layout import is_decoding, settled, whole
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.models.experts import RANDOM_EXPERT, MemoryLevel, contribution, low_rank_terms
from sleep_jax.models.linear import Linear, RMSNorm, matmul
from sleep_jax.models.mixer import get_mixer
from sleep_jax.models.sharding import ROWS, constrain

COLLECTIONS = ("params", "memory", "slots", "lora", "cache", "appended", "intermediates")


class MLP(nn.Module):
    """The base FFN: (silu(h G) * (h U)) D, the oldest memory of the slowest level. With low-rank
    terms each matrix W of it is W + scale * A B."""

    cfg: DecoderConfig

    @nn.compact
    def __call__(self, h, terms=None):
        """Maps [batch, time, d] to float32 [batch, time, d]; terms are of `low_rank_terms`."""

        def linear(name, features, x):
            y = Linear(self.cfg, features, name=name)(x)
            if terms is None:
                return y
            low = matmul(x, terms[f"{name}_a"])
            return y + self.cfg.memory.scale * matmul(low, terms[f"{name}_b"])

        gate, up = (linear(name, self.cfg.hidden, h) for name in ("gate", "up"))
        return linear("down", self.cfg.width, jax.nn.silu(gate) * up)


class Block(nn.Module):
    """The mixer (`models/mixer.py`), then the FFN with its memory, in one of two layouts.

    parallel   x <- x + F(Nx) + sum over levels M_l(Nx)
    chain      x <- x + M_1(Nx); ...; x <- x + M_{k-1}(Nx); x <- x + F(Nx) + M_k(Nx)     (Eq. 1)

    A `lora` level is part of F.

    Attributes:
      cfg: the decoder.
      has_memory: there are levels beside this FFN.
    """

    cfg: DecoderConfig
    has_memory: bool = True

    @nn.compact
    def __call__(self, x, plan):
        """Maps the residual stream [batch, time, d]; returns (x, None), the carry of a scan.

        `plan` is the mixer's, the same for all layers.
        """
        cfg, x = self.cfg, on_mesh(x)
        h = RMSNorm(cfg.norm_eps, name=f"{cfg.mixer}_norm")(x)
        x = x + settled(get_mixer(cfg.mixer)(cfg, name=cfg.mixer)(h, plan))
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
        h, terms = norm(x), None
        if cfg.memory.expert == "lora":
            terms, levels = low_rank_terms(levels, h), []
        y = MLP(cfg, name="mlp")(h, terms)
        if not levels:
            x = x + settled(y)
        elif is_decoding(x):  # one sum over the chips
            x = x + settled(y + contribution(cfg.memory, levels, h))
        else:
            x = x + y + contribution(cfg.memory, levels, h)
        return on_mesh(x), None


def on_mesh(x):
    """The residual stream [batch, time, d]: its rows are spread over the mesh; while tokens are
    decoded one by one every chip has all of it (`models/decode_layout.py`)."""
    return whole(x) if is_decoding(x) else constrain(x, ROWS, None, None)


class Decoder(nn.Module):
    """Tokens to final hidden states."""

    cfg: DecoderConfig

    @nn.compact
    def __call__(self, tokens, segment_ids=None, trunk=None):
        """Runs the decoder, over packed sequences or on top of a cache.

        Args:
          tokens: int32 [batch, time].
          segment_ids: int32 [batch, time], the sequences packed into a row, as `models/mixer.py`
            defines them; 0 is padding. Default: all one segment. With a cache the same ids continue
            the segments that it holds.
          trunk: what `run_trunk` returned for the same tokens and segments; its layers are then not
            run. Only without a cache, which would lack their state.

        Returns:
          Normalised hidden states, float32 [batch, time, d]; `lm_logits` turns them into logits.
          With a cache, apply with `mutable=["cache"]` to get the grown cache; or, for one token a
          row and a mixer whose state only grows, with `mutable=["appended"]` to get what
          `cache.append` puts into it.
        """
        cfg = self.cfg
        if segment_ids is None:
            segment_ids = jnp.ones_like(tokens)
        embedding = self._table("embed", "embedding", (cfg.vocab, cfg.width))
        # Looked up in the sharded table: without the constraint the compiler gathers the table.
        embedded = constrain(embedding[tokens].astype(jnp.float32), "data", None, "fsdp")
        x = on_mesh(embedded if trunk is None else trunk)  # as it is between layers
        plan, has_cache = self._plan(segment_ids)

        block = Block
        if cfg.remat == "full" and not has_cache:
            saved = get_mixer(cfg.mixer).saved_names
            policy = jax.checkpoint_policies.save_only_these_names(*saved)
            block = nn.remat(Block, prevent_cse=not cfg.scan_layers, policy=policy)
        for name, layers in cfg.stacks.items():
            has_memory = name != "trunk"
            if not has_memory and trunk is not None:
                continue
            if cfg.scan_layers:
                x, _ = nn.scan(
                    block,
                    variable_axes=dict.fromkeys(COLLECTIONS, 0),
                    split_rngs={"params": True, "memory": True, RANDOM_EXPERT: True},
                    in_axes=nn.broadcast,
                    length=len(layers),
                )(cfg, has_memory, name=name)(x, plan)
            else:
                for i in layers:
                    x, _ = block(cfg, has_memory, name=f"layer_{i}")(x, plan)
            if not has_memory:
                self.sow("intermediates", "residual", x)
        x = RMSNorm(cfg.norm_eps, name="final_norm")(x)
        if not cfg.tie_embeddings:
            self._table("head", "kernel", (cfg.width, cfg.vocab))
        return on_mesh(x)

    def _table(self, group, name, shape):
        """The parameter `group/name`: a matrix over the vocabulary."""
        init = nn.initializers.normal(0.02)
        return self.param(group, lambda rng: {name: init(rng, shape, self.cfg.dtype)})[name]

    def _plan(self, segment_ids):
        """The mixer's plan of a call, and whether there is a cache, whose progress is moved on."""
        mixer = get_mixer(self.cfg.mixer)
        has_cache = all(self.has_variable("cache", name) for name in mixer.progress_axes)
        if not has_cache:
            return mixer.plan(self.cfg, segment_ids, None)[0], False
        progress = {name: self.variable("cache", name) for name in mixer.progress_axes}
        before = {name: variable.value for name, variable in progress.items()}
        plan, after = mixer.plan(self.cfg, segment_ids, before)
        if segment_ids.shape[1] > 1 and not self.is_mutable_collection("cache"):
            raise ValueError("more than one token a row: apply with mutable=['cache']")
        for name in progress:
            if self.is_mutable_collection("cache"):
                progress[name].value = after[name]
            else:
                self.variable("appended", name, lambda: None).value = after[name]
        return plan, True


@functools.partial(jax.jit, static_argnames=("cfg",))
def run_trunk(cfg: DecoderConfig, variables, tokens, segment_ids):
    """The residual stream after the layers without memory, float32 [batch, time, d]: the same for
    all models that differ in memory alone.

    Args:
      cfg: a decoder with a trunk (`DecoderConfig.stacks`).
      variables: its collections.
      tokens, segment_ids: as for `Decoder`.
    """
    _, sown = Decoder(cfg).apply(variables, tokens, segment_ids, mutable=["intermediates"])
    [residual] = sown["intermediates"]["residual"]  # the layers above it are dead code
    return residual


def unstack_layers(cfg: DecoderConfig, variables):
    """Variables of a scanned decoder as those of the same decoder with `scan_layers=False`."""

    def unstack(collection):
        rest = {name: tree for name, tree in collection.items() if name not in cfg.stacks}
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
