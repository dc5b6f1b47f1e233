"""Gradients of many dreams in one program, each for itself, as the inner products that selection
needs.

    g_i = grad_B L_SFT(dream_i)     on the trial adapter W x + (alpha / r) B A x at birth

There B = 0, so A has no gradient and is left out. Copies of B, one a dream, lie side by side
(`models.linear`), `microbatch` at a time: the gradient of the summed losses is each dream's own.
The
gradients of one context are held together until its Gram matrix is made: 4 bytes a dream for every
number in B (14 MB for rank 32 on the MLPs of a 135M model).
"""

import functools

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from sleep_jax.data.batches import equal_batches
from sleep_jax.data.examples import Examples
from sleep_jax.evals.likelihood import mean_nll
from sleep_jax.models.decoder import unstack_layers
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.models.sharding import ROWS, constrain, constrain_tree, spread_evenly


@functools.partial(jax.jit, static_argnames=("cfg", "microbatch", "is_last_only"))
def gram_matrices(
    cfg: DecoderConfig,
    microbatch: int,
    variables,
    lora,
    dreams: Examples,
    targets: Examples,
    is_last_only: bool = False,
):
    """Inner products of the gradients of every context's target and dreams.

    Args:
      cfg: the decoder, in scanned form; static.
      microbatch: dreams differentiated at a time, on a mesh as many on every shard; static.
      variables: the model, without `lora`.
      lora: the trial adapter at birth.
      dreams: [contexts, dreams, rows, time].
      targets: [contexts, rows, time].
      is_last_only: of the adapter's last layer alone; nothing is sent back through the others.

    Returns:
      float32 [contexts, 1 + dreams, 1 + dreams]; the target comes first.
    """
    if is_last_only:
        last, unrolled = f"layer_{cfg.layers - 1}", cfg.replace(scan_layers=False)
        lora = {last: unstack_layers(cfg, {"lora": lora})["lora"][last]}
        cfg, variables = unrolled, unstack_layers(cfg, variables)
    leaves = flatten_dict(lora)

    def loss(b, a, examples):
        adapters = unflatten_dict(a | b)
        return mean_nll(cfg, {**variables, "lora": adapters}, examples).sum()

    def gradients(examples):
        count = len(examples.tokens)
        a, b = (
            {p: jnp.repeat(x[..., None, :, :], count, -3) for p, x in leaves.items() if p[-1] == n}
            for n in "ab"
        )
        a, b = (flatten_dict(constrain_tree(unflatten_dict(x), "trials")) for x in (a, b))
        each = jax.grad(loss)(b, a, examples).values()
        rows = [jnp.moveaxis(g, -3, 0).reshape(count, -1) for g in each]
        return constrain(jnp.concatenate(rows, axis=1), None, ROWS)

    def of_context(item):
        mine, target = item
        count = len(mine.tokens)
        own = jax.lax.map(
            lambda i: gradients(jax.tree.map(lambda x: x[i], mine)),
            equal_batches(count, spread_evenly(microbatch)),
        )
        of_target = gradients(jax.tree.map(lambda x: x[None], target))
        every = jnp.concatenate([of_target, own.reshape(-1, own.shape[-1])[:count]])
        return jnp.matmul(every, every.T, precision=jax.lax.Precision.HIGHEST)

    return jax.lax.map(of_context, (dreams, targets))


@functools.partial(jax.jit, static_argnames=("cfg", "microbatch"))
def dream_losses(cfg: DecoderConfig, microbatch: int, variables, dreams: Examples):
    """Mean negative log-likelihood a token of each dream [dreams, rows, time] in nats: [dreams]."""
    return jax.lax.map(lambda dream: mean_nll(cfg, variables, dream), dreams, batch_size=microbatch)
