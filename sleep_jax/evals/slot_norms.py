"""Which slots speak: how much each adds to the residual stream while a reply is written."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from sleep_jax.data.batches import bucket, pad
from sleep_jax.memory.memory_config import MemoryConfig
from sleep_jax.memory.slots import ROUTING
from sleep_jax.models.decoder import Decoder
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.models.experts import expert


def slot_norms(
    cfg: DecoderConfig, variables, prompt: Sequence[int], reply: Sequence[int]
) -> dict[int, np.ndarray]:
    """What each slot adds while a reply is written: the L2 norm of its output, at the tokens from
    which the reply was drawn, mean over these and over the layers that carry memory.

    Args:
      cfg: the decoder.
      variables: its collections, in the form of `cfg`.
      prompt, reply: token ids, one each at least.

    Returns:
      float [S] by level; 0 for slots that are not active. Levels without slots are left out.

    Raises:
      ValueError: as `check_slots_have_outputs`.
    """
    check_slots_have_outputs(cfg.memory)
    tokens = [*prompt, *reply]
    row, mask = pad([tokens], bucket(len(tokens)))
    scored = np.zeros(row.shape, bool)
    scored[0, len(prompt) - 1 : len(tokens) - 1] = True
    norms = _summed_norms(cfg, variables, row, mask, scored)
    count = len(reply) * len(cfg.memory.carriers(cfg.layers))
    return {level: np.asarray(total) / count for level, total in norms.items()}


def check_slots_have_outputs(memory: MemoryConfig) -> None:
    """Checks that each slot adds something of its own to the residual stream.

    Raises:
      ValueError: they act within the FFN, where what they do cannot be told apart.
    """
    if memory.expert == "lora":
        raise ValueError(
            "memory.expert='lora' acts within the FFN, so what each slot adds cannot be told "
            "apart; ask without --slots"
        )


@functools.partial(jax.jit, static_argnames="cfg")
def _summed_norms(cfg: DecoderConfig, variables, tokens, mask, scored):
    """Norms of what each slot adds, summed over the scored tokens and over layers: {level: [S]}."""
    _, sown = Decoder(cfg).apply(variables, tokens, mask, mutable=["intermediates"])
    totals = {
        n: jnp.zeros(level.slots) for n, level in enumerate(cfg.memory.levels, 1) if level.slots
    }
    for name, levels in sown["intermediates"].items():
        for level in totals:
            if (layer := f"level_{level}") not in levels:
                continue
            bank = variables["memory"][name][layer]["experts"]
            active = variables["slots"][name][layer]["active"]
            (h,), gates = levels[layer]["input"], levels[layer].get("gates", (None,))[0]
            norms = functools.partial(_norms_of_layer, cfg.memory, scored=scored)
            if cfg.scan_layers:  # with a leading axis of layers
                axes = (0, 0, 0, None if gates is None else 0)
                totals[level] += jax.vmap(norms, axes)(h, bank, active, gates).sum(0)
            else:
                totals[level] += norms(h, bank, active, gates)
    return totals


def _norms_of_layer(memory: MemoryConfig, h, bank, active, gates, *, scored):
    """The same of one layer [S]: h [batch, time, d], gates [batch, time, S] or None."""
    weights = {leaf: x for leaf, x in bank.items() if leaf not in ROUTING}
    out = jax.vmap(functools.partial(expert, h))(weights)  # [S, batch, time, d]
    norms = memory.scale * jnp.linalg.norm(out, axis=-1)
    if gates is not None:
        norms = norms * jnp.moveaxis(gates, -1, 0)
    return jnp.where(active[:, None, None] & scored, norms, 0).sum((1, 2))
