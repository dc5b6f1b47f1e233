"""Initial LoRA adapters: B is zero, so that a model with one is the model without."""

import itertools

import jax
import jax.numpy as jnp

from sleep_jax.models.decoder_config import TARGETS, DecoderConfig


def init_lora(cfg: DecoderConfig, params, rng):
    """An initial adapter.

    Args:
      cfg: the decoder; `cfg.lora` has the rank and the targets.
      params: its `params` collection, for shapes.
      rng: PRNG key of A.

    Returns:
      The `lora` collection: per stack of layers {cfg.mixer, mlp}/target/{a: float32 [layers, in,
      rank], b: float32 [layers, rank, out]}, b zero.

    Raises:
      ValueError: the mixer has no such target.
    """
    lora: dict = {}
    for i, (stack, target) in enumerate(itertools.product(cfg.stacks, cfg.lora.targets)):
        group = cfg.mixer if TARGETS[target] == "mixer" else TARGETS[target]
        if target not in params[stack][group]:
            raise ValueError(
                f"dreaming.trial.targets={cfg.lora.targets}: the mixer {cfg.mixer!r} has no "
                f"{target!r}; choose from {', '.join(params[stack][group])} and gate, up, down"
            )
        layers, width, out = params[stack][group][target]["kernel"].shape
        a_shape, b_shape = (layers, width, cfg.lora.rank), (layers, cfg.lora.rank, out)
        bound = width**-0.5
        a = jax.random.uniform(jax.random.fold_in(rng, i), a_shape, minval=-bound, maxval=bound)
        targets = lora.setdefault(stack, {}).setdefault(group, {})
        targets[target] = {"a": a, "b": jnp.zeros(b_shape)}
    return lora


def init_adapters(cfg: DecoderConfig, params, rng, seeds: int) -> list:
    """An initial adapter for every seed; the first does not depend on the number of seeds.

    Args:
      cfg, params, rng: as for `init_lora`.
      seeds: number of adapters.
    """
    return [init_lora(cfg, params, jax.random.fold_in(rng, i) if i else rng) for i in range(seeds)]
