"""Try: every dream trains a LoRA adapter of its own, all in one program (paper 4, step 3).

    W x + (alpha / r) B A x,     A ~ U(-1/sqrt(d), 1/sqrt(d)), B = 0 at birth (Hu et al. 2021)

Adapters are stacked on a leading axis and vmapped over one base, so its products batch over the
dreams. All start from the same
A: dreams are compared, not their luck.
"""

import dataclasses
import functools
import itertools

import flax.struct
import jax
import jax.numpy as jnp
import optax

from sleep_jax.models.config import DecoderConfig
from sleep_jax.models.decoder import Decoder, lm_head
from sleep_jax.models.head import token_log_probs

ATTENTION = ("q", "k", "v", "o")


@dataclasses.dataclass(frozen=True)
class TrialConfig:
    """A trial: full-batch Adam on the dream and its passage.

    Attributes:
      epochs: updates of each adapter.
      learning_rate: Adam's rate.
      chunk: adapters trained at a time; bounds memory.
    """

    epochs: int = 10
    learning_rate: float = 1e-3
    chunk: int = 8


@flax.struct.dataclass
class Examples:
    """Token sequences with the positions that count.

    Attributes:
      tokens: int32 [..., rows, time].
      segment_ids: int32 [..., rows, time]; 0 is padding.
      mask: bool [..., rows, time]; true on tokens whose prediction is scored (never a row's first).
    """

    tokens: jax.Array
    segment_ids: jax.Array
    mask: jax.Array


def init_lora(cfg: DecoderConfig, params, rng):
    """One adapter: `lora` collection, per stack of layers {attention, mlp}/target/{a [L, in, r], b
    [L, r, out]}.

    Raises:
      ValueError: a target is not a linear of the decoder.
    """
    known = (*ATTENTION, "gate", "up", "down")
    if unknown := [t for t in cfg.lora.targets if t not in known]:
        raise ValueError(
            f"dreaming.trial.targets has {unknown[0]!r}; choose from {', '.join(known)}"
        )
    lora: dict = {}
    for i, (stack, target) in enumerate(itertools.product(cfg.stacks, cfg.lora.targets)):
        group = "attention" if target in ATTENTION else "mlp"
        layers, width, out = params[stack][group][target]["kernel"].shape
        a_shape, b_shape = (layers, width, cfg.lora.rank), (layers, cfg.lora.rank, out)
        bound = width**-0.5
        a = jax.random.uniform(jax.random.fold_in(rng, i), a_shape, minval=-bound, maxval=bound)
        held = lora.setdefault(stack, {}).setdefault(group, {})
        held[target] = {"a": a, "b": jnp.zeros(b_shape)}
    return lora


def mean_nll(cfg: DecoderConfig, variables, examples: Examples):
    """Mean negative log-likelihood of the scored tokens, in nats: the SFT loss."""
    hidden = Decoder(cfg).apply(variables, examples.tokens, examples.segment_ids)
    mask = examples.mask[:, 1:].reshape(-1)
    log_probs = token_log_probs(
        hidden[:, :-1].reshape(-1, cfg.width),
        examples.tokens[:, 1:].reshape(-1),
        mask,
        lm_head(cfg, variables["params"]),
    )
    return -jnp.sum(jnp.where(mask, log_probs, 0.0)) / jnp.maximum(mask.sum(), 1)


@functools.partial(jax.jit, static_argnames=("cfg", "trial"))
def train_adapters(cfg: DecoderConfig, trial: TrialConfig, variables, lora, examples: Examples):
    """Trains one adapter a dream, each alone with its own examples.

    Args:
      cfg, trial: static.
      variables: the model as it is now, without `lora`.
      lora: the adapter at birth, shared by all.
      examples: [dreams, rows, time].

    Returns:
      (adapters, losses): the `lora` collection with a leading axis [dreams], and the loss before
      each update [dreams, epochs].
    """
    optimizer = optax.adam(trial.learning_rate)

    def train(dream: Examples):
        def update(state, _):
            adapter, opt_state = state
            loss, gradient = jax.value_and_grad(
                lambda adapter: mean_nll(cfg, {**variables, "lora": adapter}, dream)
            )(adapter)
            updates, opt_state = optimizer.update(gradient, opt_state)
            return (optax.apply_updates(adapter, updates), opt_state), loss

        (adapter, _), losses = jax.lax.scan(
            update, (lora, optimizer.init(lora)), length=trial.epochs
        )
        return adapter, losses

    return jax.lax.map(train, examples, batch_size=trial.chunk)


@functools.partial(jax.jit, static_argnames=("cfg", "trial"))
def likelihoods(cfg: DecoderConfig, trial: TrialConfig, variables, adapters, examples: Examples):
    """tau: mean log-likelihood a token of the examples under every adapted model, [dreams].

    Args:
      cfg, trial: static.
      variables: the model, without `lora`.
      adapters: the `lora` collection with a leading axis [dreams].
      examples: [dreams, rows, time], each adapter's own.
    """

    def score(item):
        adapter, mine = item
        return -mean_nll(cfg, {**variables, "lora": adapter}, mine)

    return jax.lax.map(score, (adapters, examples), batch_size=trial.chunk)
