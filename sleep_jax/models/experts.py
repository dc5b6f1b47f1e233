"""The memory beside an FFN: per level its wake weights and a bank of preallocated low-rank experts
(paper 3.2; design, memory levels).

    M(h) = scale * (wake(h) + sum over active slots s of gate_s(h) * expert_s(h))
    expert(h) = (silu(h G) * (h U)) D     or, as a bottleneck,     silu(h G) D

or, with `memory.expert="lora"`, within it: W + scale * sum over active slots s of A_s B_s in place
of each of its matrices W (`MLP`); that is nothing beside the FFN, and M(h) = 0.

With a PRNG key named RANDOM_EXPERT, which only the writing of dreams passes, every routed bank adds
one more of its slots for every token (paper 4, step 1).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from sleep_jax.memory.memory_config import MemoryConfig
from sleep_jax.memory.slots import OUTPUT_SIDE, ROUTING, init_level
from sleep_jax.models.decode_layout import UNITS, is_decoding, times_columns, times_rows
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.models.linear import matmul

RANDOM_EXPERT = "random_expert"


def expert(h, weights, gates=None):
    """One SwiGLU or bottleneck expert, or several concatenated into one of their joint width.

    Args:
      h: [batch, time, d].
      weights: gate and (SwiGLU) up [d, r], down [r, d].
      gates: [batch, time, r], factors on the hidden units; None: 1.

    Returns:
      float32 [batch, time, d]; while decoding, as `times_rows`.
    """
    if is_decoding(h):
        y = jax.nn.silu(times_columns(h, weights["gate"], UNITS))
        if "up" in weights:
            y = y * times_columns(h, weights["up"], UNITS)
    elif "up" in weights:
        both = matmul(h, jnp.concatenate([weights["gate"], weights["up"]], axis=-1))
        gate, up = jnp.split(both, 2, axis=-1)
        y = jax.nn.silu(gate) * up
    else:
        y = jax.nn.silu(matmul(h, weights["gate"]))
    if gates is not None:
        y = y * gates
    if is_decoding(h):
        return times_rows(y, weights["down"], UNITS)
    return matmul(y, weights["down"])


def side_by_side(experts):
    """Several experts concatenated into one of their joint width, which computes their sum.

    Args:
      experts: list of (weights, gates or None), as for `expert`; all with gates or none.
    """
    weights, gates = zip(*experts)
    axes = {"gate": -1, "up": -1, "down": -2}
    joint = {leaf: jnp.concatenate([w[leaf] for w in weights], axes[leaf]) for leaf in weights[0]}
    return joint, None if gates[0] is None else jnp.concatenate(gates, axis=-1)


def random_expert(rng, candidates):
    """One of the candidates of each token, drawn uniformly; none where a token has no candidate.

    Args:
      rng: PRNG key.
      candidates: bool [batch, time, S].

    Returns:
      bool [batch, time, S].
    """
    number = jnp.where(candidates, jax.random.uniform(rng, candidates.shape), -1.0)
    drawn = jax.nn.one_hot(jnp.argmax(number, axis=-1), number.shape[-1], dtype=bool)
    return drawn & candidates


def route(h, key, bias, active, is_zero, top_k: int, rng=None):
    """Sigmoid gates of a bank's slots, unnormalised.

    Args:
      h: [batch, time, d].
      key, bias: [S, d] and [S].
      active: bool [S].
      is_zero: bool [S], down = 0: such a slot does not count among the `top_k`, so unlocking it
        displaces none.
      top_k: slots that stay on; 0 keeps all active ones.
      rng: PRNG key of one more slot a token, drawn from the active ones that are off, with its
        sigmoid gate. None: no such slot.

    Returns:
      float32 [batch, time, S]; 0 for what is off.
    """
    score = jnp.einsum("btd,sd->bts", h, key) * h.shape[-1] ** -0.5 + bias
    score = jnp.where(active, score, -jnp.inf)
    if top_k:
        ranked = jnp.where(is_zero, -jnp.inf, score)
        # By index: a score that is computed anew for a comparison may be rounded otherwise.
        kept = jax.lax.top_k(ranked, min(top_k, score.shape[-1]))[1]
        is_on = jax.nn.one_hot(kept, score.shape[-1], dtype=bool).any(-2) | is_zero
        if rng is not None:
            is_on |= random_expert(rng, active & ~is_on)
        score = jnp.where(is_on, score, -jnp.inf)
    return jax.nn.sigmoid(score)


class MemoryLevel(nn.Module):
    """One memory level of one layer.

    Variables: those of `init_level`, in `memory`; in `slots` carries, bool []: this layer has
    memory, and, where the level has slots, active, bool [S]. Initially down = 0, so unlocking a
    slot changes no output. Inactive slots are masked by `where`, so nothing in them leaks, not even
    NaN.

    Attributes:
      cfg: the decoder.
      number: of the level, from 1.
    """

    cfg: DecoderConfig
    number: int

    @nn.compact
    def __call__(self, h):
        """What the level adds to normalised hidden states [batch, time, d].

        Returns:
          (wake, slots): its experts, each None where the level has none, or (weights, gates) as
          for `expert`; all its slots are one expert of width S * r. A `lora` expert's weights are
          those of `MLP`.
        """
        memory, count = self.cfg.memory, self.cfg.memory.level(self.number).slots
        self.sow("intermediates", "input", h)

        def init(part):
            rng = self.make_rng("memory")
            widths = {"width": self.cfg.width, "hidden": self.cfg.hidden}
            return init_level(rng, memory, self.number, **widths)[part]

        carries = self.variable("slots", "carries", jnp.ones, (), bool).value
        wake = slots = None
        if memory.has_wake(self.number):
            weights = self.variable("memory", "wake", init, "wake").value
            wake = self._masked(weights, carries), None
        if count:
            active = self.variable("slots", "active", jnp.zeros, (count,), bool).value
            bank = self.variable("memory", "experts", init, "experts").value
            slots = self._bank(h, bank, active)
        return wake, slots

    def _masked(self, weights, on):
        """Weights in the compute dtype, zero where `on`, bool of their leading axes, is false."""
        return {
            leaf: jnp.where(on.reshape(on.shape + (1,) * (w.ndim - on.ndim)), w, 0).astype(
                self.cfg.dtype
            )
            for leaf, w in weights.items()
        }

    def _bank(self, h, bank, active):
        """All slots concatenated into one expert, and the gates of its units."""
        memory = self.cfg.memory
        units = self._masked({k: w for k, w in bank.items() if k not in ROUTING}, active)
        # While decoding, the first unit of every slot comes first: a split of r is one of S * r.
        by_unit = is_decoding(h)
        wide = {leaf: _joined(w, leaf in OUTPUT_SIDE, by_unit) for leaf, w in units.items()}
        if memory.router == "none":
            return wide, None
        key = jnp.where(active[:, None], bank["key"], 0)
        bias = jnp.where(active, bank["bias"], 0)
        is_zero = ~jnp.any(units["down"], axis=(1, 2))
        rng = self.make_rng(RANDOM_EXPERT) if self.has_rng(RANDOM_EXPERT) else None
        gates = route(h, key, bias, active, is_zero, memory.top_k, rng)
        self.sow("intermediates", "gates", gates)
        rank = memory.level(self.number).rank
        return wide, jnp.tile(gates, rank) if by_unit else jnp.repeat(gates, rank, axis=-1)


def _joined(w, is_output: bool, by_unit: bool):
    """The units of all slots side by side, slot by slot or unit by unit: [S, r, ...] as [S * r,
    ...] where it `is_output`, else [S, ..., r] as [..., S * r]."""
    if is_output:
        return (w.swapaxes(0, 1) if by_unit else w).reshape(-1, w.shape[-1])
    return w.transpose((1, 2, 0) if by_unit else (1, 0, 2)).reshape(w.shape[1], -1)


def low_rank_terms(levels, h):
    """A and B of the active slots of `lora` levels, side by side.

    Args:
      levels: modules `MemoryLevel`, at most one, as `MemoryConfig` checks.
      h: normalised hidden states [batch, time, d], which the level records.

    Returns:
      {gate_a, up_a [d, R], gate_b, up_b [R, f], down_a [f, R], down_b [R, d]}, 0 where inactive;
      None where there are no slots.
    """
    if not levels:
        return None
    [level] = levels
    _, slots = level(h)
    return None if slots is None else slots[0]


def contribution(memory: MemoryConfig, levels, h):
    """The sum of what levels add for h: all their wake weights are one expert, all slots another.

    Args:
      memory: the config that they are levels of.
      levels: modules `MemoryLevel`.
      h: normalised hidden states [batch, time, d].

    Returns:
      float32 [batch, time, d]; while decoding, as `times_rows`.
    """
    if is_decoding(h):  # each by itself: what is cut by units is not concatenated
        experts = [e for level in levels for e in level(h) if e is not None]
        scaled = [(w, memory.scale if g is None else memory.scale * g) for w, g in experts]
        return sum(expert(h, *e) for e in scaled)
    out = jnp.zeros(h.shape, jnp.float32)
    for experts in zip(*(level(h) for level in levels)):
        if experts := [e for e in experts if e is not None]:
            out = out + expert(h, *side_by_side(experts))
    return memory.scale * out
