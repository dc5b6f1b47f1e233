"""The seeding step: one pure update of the newly unlocked slot by J_KS (objective.py). Nothing but
the slot learns.

Two things make the gradient here more than one call of `jax.grad`. The batch may be cut into parts
whose gradients add up, each term being divided by the tokens of the whole batch: accumulated, an
update is that of the whole batch. And every term's gradient with respect to the student's last
hidden states is formed on its own before their sum goes back through the decoder once: what
distillation and imitation pull with is known without a second backward pass.
"""

import functools

import flax.struct
import jax
import jax.numpy as jnp
import optax

from sleep_jax.memory.slots import put_slot
from sleep_jax.models.config import DecoderConfig
from sleep_jax.models.decoder import lm_head
from sleep_jax.seeding.divergence import TokenScores, scores_and_slopes
from sleep_jax.seeding.objective import Objective, SeedingBatch, flat, scored_hidden


@flax.struct.dataclass
class SeedingState:
    """What learns: the slot, its optimizer state and the step counter."""

    slot: dict
    opt_state: optax.OptState
    step: jax.Array


def init_state(slot, optimizer: optax.GradientTransformation) -> SeedingState:
    """The state before the first step of a slot."""
    return SeedingState(slot, optimizer.init(slot), jnp.zeros((), jnp.int32))


@functools.partial(
    jax.jit, static_argnames=("cfg", "objective", "optimizer", "level"), donate_argnames=("state",)
)
def seeding_step(
    cfg: DecoderConfig,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    level: int,
    index,
    state: SeedingState,
    base,
    batch: SeedingBatch,
    heads=None,
):
    """One update of slot `index` of `level`.

    Args:
      cfg, objective, optimizer, level: static.
      index: the slot that learns, int32 scalar.
      state: what learns; donated.
      base: the student's collections (params, memory, slots); the slot's own entry in `memory` is
        not read.
      batch: what it learns from; its rows are a multiple of `objective.accumulate`.
      heads: the teachers' LM heads; None where all have the student's.

    Returns:
      (state, metrics): float32 scalars:
        loss, kl_off, kl_on, policy_loss, cross_entropy: the loss and the means of its terms.
        policy_...: those of the policy gradient; policy_sampler_gap is the mean |log-prob now -
          when drawn| of the rollouts' tokens: on the first update after they were sampled, the gap
          between sampler and scorer, later also what the slot has learnt since.
        tokens_off, tokens_on: tokens that the divergence is the mean of.
        gradient_norm: with respect to the slot, before clipping.
        hidden_gradient_distillation, hidden_gradient_policy: of both terms as they enter the loss,
          with respect to the student's last hidden states.
        skipped: 1 where gradient or update was not finite: slot and optimizer state are then, bit
          for bit, those that came in (`optax.apply_if_finite` gives in after a while).
    """
    head = lm_head(cfg, base["params"])
    counts = _counts(objective, batch)
    lam = objective.share_on_policy(state.step, counts["kl_on"])

    def shares(scores, part):
        terms, _ = objective.terms(scores, part)
        mean = {name: total / jnp.maximum(counts[name], 1.0) for name, (total, _) in terms.items()}
        return objective.shares(mean, lam)

    def gradient_of(part):
        def states(slot):
            memory = put_slot(base["memory"], level, index, slot)
            return scored_hidden(cfg, {**base, "memory": memory}, part)

        hidden, pull_back = jax.vjp(states, state.slot)
        scores, slopes = scores_and_slopes(
            hidden,
            flat(part.teacher),
            flat(part.targets),
            flat(part.mask),
            head,
            **objective.scoring(heads),
        )
        # One number for a token and a score; times the score's slope it is d share / d hidden.
        towards = jax.jacrev(shares)(scores, part)
        pulls = {name: _scaled(slopes, factors) for name, factors in towards.items()}
        (gradient,) = pull_back(sum(pulls.values()))
        return gradient, (scores, {name: jnp.sum(pull**2) for name, pull in pulls.items()})

    gradient, (scores, squares) = _added_up(gradient_of, batch, objective.accumulate)
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.slot)
    learnt = (optax.apply_updates(state.slot, updates), opt_state)
    norm = optax.tree.norm(gradient)
    is_finite = jnp.isfinite(norm) & jnp.isfinite(optax.tree.norm(updates))
    slot, opt_state = jax.tree.map(
        lambda new, old: jnp.where(is_finite, new, old), learnt, (state.slot, state.opt_state)
    )

    terms, policy = objective.terms(scores, batch)
    mean = {name: total / jnp.maximum(count, 1.0) for name, (total, count) in terms.items()}
    metrics = {
        "loss": sum(objective.shares(mean, lam).values()),
        **mean,
        **{f"policy_{name}": value for name, value in policy.items()},
        "tokens_off": counts["kl_off"],
        "tokens_on": counts["kl_on"],
        "gradient_norm": norm,
        "hidden_gradient_distillation": jnp.sqrt(squares["distillation"]),
        "hidden_gradient_policy": jnp.sqrt(squares["policy"]),
        "skipped": 1.0 - is_finite,
    }
    return SeedingState(slot, opt_state, state.step + 1), metrics


def _counts(objective: Objective, batch: SeedingBatch) -> dict[str, jax.Array]:
    """The denominators of the terms, which no score has a part in."""
    nothing = jnp.zeros(batch.mask.size)
    terms, _ = objective.terms(TokenScores(nothing, nothing, nothing), batch)
    return {name: count for name, (_, count) in terms.items()}


def _scaled(slopes: TokenScores, factors: TokenScores):
    """The sum over scores of slope times factor: [tokens, d]."""
    pairs = zip(jax.tree.leaves(slopes), jax.tree.leaves(factors))
    return sum(slope * factor[:, None] for slope, factor in pairs)


def _added_up(gradient_of, batch: SeedingBatch, parts: int):
    """`gradient_of` the whole batch, a part of its rows at a time; scores come row after row."""
    if parts == 1:
        return gradient_of(batch)
    cut = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), batch)

    def add(total, part):
        gradient, rest = gradient_of(part)
        return jax.tree.map(jnp.add, total, gradient), rest

    shapes = jax.eval_shape(gradient_of, jax.tree.map(lambda x: x[0], cut))[0]
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    gradient, (scores, squares) = jax.lax.scan(add, nothing, cut)
    return gradient, (jax.tree.map(jnp.ravel, scores), jax.tree.map(jnp.sum, squares))
