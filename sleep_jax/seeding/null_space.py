"""Null-space slots: a slot that stays silent on what was known, whatever it learns.

Known text gives, layer by layer, the second moment of what a level sees, C = sum of h h^T over its
tokens. U are the leading eigenvectors of C, up to a share of its trace. The input side of the slot
is kept orthogonal to them, before the first update and after each,

    w <- w - U (U^T w)        w = gate, up; [d, r]

so that its units see 0 of any h in the span of U and it adds nothing there: the null space of
AlphaEdit (arXiv 2410.02355), for a slot in place of an edit. The gradient is projected as well, so
that the optimizer's moments are of what the slot may learn.

How many eigenvectors are kept out decides between keeping and learning. `share` says it by what was
known; `spare` bounds it by what is to be learnt: of the new text's energy at least that share stays
outside U, 1 - tr(U^T C_new U) / tr(C_new) >= spare.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.models.sharding import constrain_tree, to_host
from sleep_jax.seeding.level_inputs import input_rows, level_inputs
from sleep_jax.seeding.sequences import Exchange
from sleep_jax.services import Figures

INPUT_SIDE = ("gate", "up")  # leaves of a slot that are kept out of the known inputs


def max_rank(width: int) -> int:
    """Eigenvectors that are kept at most: half the width of the decoder, so that a slot can always
    learn, and U of a large model is half of its moments."""
    return width // 2


def known_basis(
    cfg: DecoderConfig,
    variables,
    level: int,
    exchanges: Sequence[Exchange],
    length: int,
    share: float,
    spare: float,
) -> tuple[jax.Array | None, Figures]:
    """The directions that a new slot of a level is kept out of.

    Args:
      cfg, variables: the student, its new slot still without effect.
      level: that the slot belongs to.
      exchanges: what the night learns from; `Exchange.is_known` tells what was known before.
      length: tokens of a row; longer sequences are cut to it.
      share: of the known inputs' energy, in [0, 1]; 0: none is kept out.
      spare: least share of the new inputs' energy that is left outside, in [0, 1].

    Returns:
      (basis, figures): basis as of `leading_basis`, None where share = 0 or nothing was known;
      figures of each layer: null_space_rank, columns of U, and null_space_left, the share of the
      new inputs' energy outside.
    """
    known = [e for e in exchanges if e.is_known]
    new = [e for e in exchanges if not e.is_known]
    if not share or not known:
        return None, {}
    moments = [second_moments(cfg, variables, level, part, length) for part in (known, new)]
    basis, ranks, left = leading_basis(*moments, jnp.float32(share), jnp.float32(spare))
    figures = {"null_space_rank": ranks, "null_space_left": left}
    return basis, {name: to_host(values).tolist() for name, values in figures.items()}


def second_moments(
    cfg: DecoderConfig, variables, level: int, exchanges: Sequence[Exchange], length: int
):
    """The sum of h h^T over all tokens of the student's side of some exchanges, float32
    [layers, d, d]; 0 of none."""
    layers = variables["memory"]["layers"][f"level_{level}"]["experts"]["gate"].shape[0]
    total = jnp.zeros((layers, cfg.width, cfg.width))
    for tokens, segment_ids in input_rows(exchanges, length):
        total += sum_outer_products(cfg, variables, level, tokens, segment_ids)
    return total


@jax.jit(static_argnames=("cfg", "level"))
def sum_outer_products(cfg: DecoderConfig, variables, level: int, tokens, segment_ids):
    """h h^T of a level's inputs, summed over real tokens.

    Args:
      cfg, variables: the decoder.
      level: of its memory.
      tokens, segment_ids: int32 [rows, time]; segment 0 is padding.

    Returns:
      float32 [layers, d, d].
    """
    h = level_inputs(cfg, variables, level, tokens, segment_ids)
    moments = jnp.einsum("lbtd,lbte->lde", h, h, precision="highest")
    return constrain_tree({"moments": moments}, "null_space")["moments"]


@jax.jit
def leading_basis(known, new, share, spare):
    """The leading eigenvectors of what was known, as many as `share` asks for and `spare` allows.

    Args:
      known, new: second moments, float32 [layers, d, d].
      share, spare: as for `known_basis`, float32 scalars.

    Returns:
      (basis, ranks, left): float32 [layers, d, `max_rank`], orthonormal columns and after them
      columns of zeros; int32 [layers], how many are not zero; float32 [layers], the share of the
      new inputs' energy outside of them (1 where there are no new inputs).
    """

    most = max_rank(known.shape[-1])

    def of_layer(moments):
        known, new = moments
        values, vectors = jnp.linalg.eigh(known)
        values, vectors = values[::-1], vectors[:, ::-1]  # the largest first
        energy = jnp.cumsum(values) / jnp.trace(known)
        taken = jnp.einsum("dk,de,ek->k", vectors, new, vectors, precision="highest")
        left = 1 - jnp.cumsum(taken) / jnp.maximum(jnp.trace(new), 1e-30)
        asked = jnp.sum(energy < share) + 1  # the last one is that which reaches the share
        count = jnp.minimum(jnp.minimum(asked, jnp.sum(left >= spare)), most)
        columns = jnp.where(jnp.arange(most) < count, vectors[:, :most], 0)
        return columns, count, jnp.where(count > 0, left[count - 1], 1.0)

    basis, ranks, left = jax.lax.map(of_layer, (known, new))
    return constrain_tree({"basis": basis}, "null_space")["basis"], ranks, left


def projected(slot, basis):
    """A slot, or a gradient of it, without what its input side has in the span of a basis.

    Args:
      slot: gate and (SwiGLU) up [layers, d, r], and other leaves, which stay as they are.
      basis: float32 [layers, d, k], of orthonormal columns or columns of zeros; None: the slot is
        returned unchanged.
    """
    if basis is None:
        return slot
    along = functools.partial(jnp.einsum, precision="highest")

    def outside(w):
        return w - along("ldk,lkr->ldr", basis, along("ldk,ldr->lkr", basis, w))

    return slot | {name: outside(slot[name]) for name in INPUT_SIDE if name in slot}
