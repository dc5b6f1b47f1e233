"""The initial router key and bias of a new slot, from the hidden states of what it will learn from.

    mean       key = mean of all of them; the bias stays at its initial value
    contrast   linear discriminant analysis (Fisher, 1936) of new sequences against known ones
               (`Exchange.is_known`), layer by layer:

                   w = S^-1 (m_new - m_known)
                   S = (1 - SHRINKAGE) C + SHRINKAGE tr(C) / d I     C: covariance within classes
                   score(h) = a w . h + b,   score(m_new) = logit(ON),   score(m_known) = -logit(ON)

Mean hidden states of all texts are nearly parallel, so with `mean` the score of a slot hardly
depends on the text. With `contrast` its gate is ON at the mean of what is new and 1 - ON at the
mean of what was known. S is shrunk towards a multiple of the identity, as by Ledoit and Wolf
(2004), but by a fixed share: tokens of one text are no independent samples, which their estimate of
the share is for. Key and bias are leaves of the slot and are trained with it.
"""

import functools
import math

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from sleep_jax.memory.slots import put_slot, take_slot
from sleep_jax.models.decoder import Decoder
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.models.sharding import constrain_tree, place
from sleep_jax.seeding.transaction import MemoryState

REPLAY_ROWS = 4  # rows of a replay whose hidden states exist at a time
SHRINKAGE = 0.1
ON = 0.9  # the gate at the mean of what is new


def init_router_key(
    cfg: DecoderConfig,
    params,
    student: MemoryState,
    level: int,
    index: int,
    tokens,
    mask,
    is_known,
):
    """The student with the new slot's router key (and bias) set from a replay.

    Args:
      cfg: the decoder; without a router the student is returned unchanged.
      params: the base.
      student: its memory.
      level, index: the new slot.
      tokens, mask: int32 [rows, time] of the replay; the mask is 1 on real tokens.
      is_known: bool [rows], the model knew the sequence before the day.

    Raises:
      ValueError: `memory.router_key` is 'contrast' and all sequences are known, or none is.
    """
    if cfg.memory.router == "none":
        return student
    variables = student.variables(params)
    if cfg.memory.router_key == "contrast":
        leaves = _contrast(cfg, variables, level, tokens, mask, np.asarray(is_known, bool))
    else:
        leaves = {"key": _mean(cfg, variables, level, tokens, mask)}
    slot = take_slot(student.memory, level, index) | leaves
    return student.replace(memory=put_slot(student.memory, level, index, slot))


def _mean(cfg: DecoderConfig, variables, level: int, tokens, mask):
    """The mean of a level's inputs over real tokens, float32 [layers, d]."""
    total = count = 0.0
    for rows in _batches(tokens, mask):
        total = total + sum_inputs(cfg, variables, level, *rows)
        count += float(np.sum(rows[1]))
    return total / max(count, 1.0)


def _contrast(cfg: DecoderConfig, variables, level: int, tokens, mask, is_known):
    """Key and bias that tell new sequences from known ones: {key [layers, d], bias [layers]}."""
    if is_known.all() or not is_known.any():
        raise ValueError(
            f"memory.router_key='contrast' compares what is new with what was known, but of "
            f"{len(is_known)} sequences {is_known.sum()} were known; set study.rehearsals above 0, "
            "or memory.router_key='mean'"
        )
    moments, means = init_moments(cfg, variables, level), []
    for part in (is_known, ~is_known):
        # The scatter goes on, about a mean of each class.
        moments = moments.replace(count=jnp.zeros(()), mean=jnp.zeros_like(moments.mean))
        moments = place(moments, "moments")
        for rows in _batches(tokens[part], mask[part]):
            moments = add_inputs(cfg, variables, level, moments, *rows)
        means.append(moments.mean)
    known, new = means
    return discriminant(new, known, moments.scatter, jnp.float32(np.sum(mask)))


def _batches(tokens, mask):
    """(tokens, mask) of `REPLAY_ROWS` rows at a time, the last ones filled with padding."""
    for start in range(0, len(tokens), REPLAY_ROWS):
        part = slice(start, start + REPLAY_ROWS)
        fill = ((0, REPLAY_ROWS - len(tokens[part])), (0, 0))
        yield np.pad(tokens[part], fill), np.pad(mask[part], fill)


def _inputs(cfg: DecoderConfig, variables, level: int, tokens, mask):
    """A level's input hidden states, [layers, rows, time, d]."""
    _, sown = Decoder(cfg.replace(remat="none")).apply(
        variables, tokens, mask, mutable=["intermediates"]
    )
    [h] = sown["intermediates"]["layers"][f"level_{level}"]["input"]
    return h


@jax.jit(static_argnames=("cfg", "level"))
def sum_inputs(cfg: DecoderConfig, variables, level: int, tokens, mask):
    """A level's input hidden states, summed over real tokens: float32 [layers, d]."""
    return jnp.sum(_inputs(cfg, variables, level, tokens, mask) * mask[..., None], (1, 2))


@flax.struct.dataclass
class Moments:
    """Of a level's inputs, float32.

    Attributes:
      count: [], tokens of the class.
      mean: [layers, d], over them.
      scatter: [layers, d, d], sum of (h - mean)(h - mean)^T over them, and over the tokens of the
        classes before, each about its own mean.
    """

    count: jax.Array
    mean: jax.Array
    scatter: jax.Array


def init_moments(cfg: DecoderConfig, variables, level: int) -> Moments:
    """The moments of no tokens."""
    layers = len(variables["memory"]["layers"][f"level_{level}"]["experts"]["bias"])
    d = cfg.width
    return Moments(jnp.zeros(()), jnp.zeros((layers, d)), jnp.zeros((layers, d, d)))


@functools.partial(jax.jit, static_argnames=("cfg", "level"), donate_argnames=("moments",))
def add_inputs(cfg: DecoderConfig, variables, level: int, moments: Moments, tokens, mask):
    """The moments with the real tokens of a few more rows of the same class.

    Exact, and without the cancellation of sum h h^T - n m m^T: with m' the mean after the rows,
    scatter' = scatter + sum over them of (h - m)(h - m')^T. Float32 copies of the inputs exist one
    layer at a time.

    Args:
      cfg, variables: the decoder.
      level: of its memory.
      moments: is donated.
      tokens, mask: int32 [rows, time]; the mask is 1 on real tokens.
    """
    count = moments.count + jnp.sum(mask)

    def of_layer(layer):
        h, mean, scatter = layer
        before = (h - mean) * mask[..., None]
        mean = mean + jnp.sum(before, (0, 1)) / jnp.maximum(count, 1)
        after = (h - mean) * mask[..., None]
        scatter = scatter + jnp.einsum("btd,bte->de", before, after, precision="highest")
        return mean, scatter

    h = _inputs(cfg, variables, level, tokens, mask)
    mean, scatter = jax.lax.map(of_layer, (h, moments.mean, moments.scatter))
    return constrain_tree(Moments(count, mean, scatter), "moments")


@jax.jit
def discriminant(new, known, scatter, count):
    """Key and bias of linear discriminant analysis, calibrated as the module says.

    Args:
      new, known: means of the classes, float32 [layers, d].
      scatter: within classes, float32 [layers, d, d].
      count: tokens of both classes, float32 [].

    Returns:
      {key: float32 [layers, d], bias: float32 [layers]} as `experts.route` takes them, which
      divides by sqrt(d). Where the means are equal the key is zero and the gate is 1/2.
    """
    d, tiny = new.shape[-1], 1e-30
    dot = functools.partial(jnp.dot, precision="highest")

    def of_layer(layer):
        new, known, scatter = layer
        covariance = scatter / count
        variance = jnp.maximum(jnp.trace(covariance) / d, tiny)
        shrunk = (1 - SHRINKAGE) * covariance + SHRINKAGE * variance * jnp.eye(d)
        w = jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(shrunk), new - known)
        distance = dot(w, new - known)  # squared, of Mahalanobis
        slope = 2 * math.log(ON / (1 - ON)) / jnp.maximum(distance, tiny)
        return {"key": slope * math.sqrt(d) * w, "bias": -slope * dot(w, (new + known) / 2)}

    return jax.lax.map(of_layer, (new, known, scatter))
