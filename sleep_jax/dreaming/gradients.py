"""Per-dream gradients in one program, as the Gram matrices that selection needs.

    g_i = grad_B L_SFT(dream_i)     of the initial trial adapter W x + (alpha / r) B A x

Initially B = 0, so A has no gradient and is left out. Each dream has its own copy of B, stacked
(`models.linear`), `microbatch` at a time: the gradient of the summed losses with respect to a copy
is the gradient of one dream. The gradients of a context stay in memory until its Gram matrix is
made: 4 bytes a dream for every number in B (14 MB for rank 32 on the MLPs of a 135M model).
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
    """Inner products of the gradients of the target and the dreams of every context.

    Args:
      cfg: the decoder, in scanned form; static.
      microbatch: dreams differentiated at a time, on a mesh as many on every shard; static.
      variables: the model, without `lora`.
      lora: the initial trial adapter.
      dreams: [contexts, dreams, rows, time].
      targets: [contexts, rows, time].
      is_last_only: gradients of the adapter in the last layer only, without backpropagation through
        the others; static.

    Returns:
      float32 [contexts, 1 + dreams, 1 + dreams]; index 0 is the target.
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
        grads = jax.grad(loss)(b, a, examples).values()
        flat = [jnp.moveaxis(g, -3, 0).reshape(count, -1) for g in grads]
        return constrain(jnp.concatenate(flat, axis=1), None, ROWS)

    def gram_matrix(item):
        context_dreams, target = item
        count = len(context_dreams.tokens)
        dream_grads = jax.lax.map(
            lambda i: gradients(jax.tree.map(lambda x: x[i], context_dreams)),
            equal_batches(count, spread_evenly(microbatch)),
        )
        target_grad = gradients(jax.tree.map(lambda x: x[None], target))
        flat = dream_grads.reshape(-1, dream_grads.shape[-1])[:count]
        grads = jnp.concatenate([target_grad, flat])
        return jnp.matmul(grads, grads.T, precision=jax.lax.Precision.HIGHEST)

    return jax.lax.map(gram_matrix, (dreams, targets))


@functools.partial(jax.jit, static_argnames=("cfg", "microbatch"))
def dream_losses(cfg: DecoderConfig, microbatch: int, variables, dreams: Examples):
    """Mean negative log-likelihood of each dream: float32 [dreams], in nats a token.

    Args:
      cfg: the decoder; static.
      microbatch: dreams at a time; static.
      variables: the model.
      dreams: [dreams, rows, time].
    """
    return jax.lax.map(lambda dream: mean_nll(cfg, variables, dream), dreams, batch_size=microbatch)
