"""The seeding step: one pure update of the newly unlocked slot by J_KS (objective.py). Nothing but
the slot learns.

Two things make the gradient here more than one call of `jax.grad`. The batch may be cut into parts
whose gradients add up, each term being divided by the tokens of the whole batch: accumulated, an
update is that of the whole batch. And every term's gradient with respect to the student's last
hidden states is formed on its own before their sum goes back through the decoder once: what
distillation and imitation pull with is known without a second backward pass.

With PPO a value head over the same hidden states learns beside the slot, from its own loss and with
its own optimizer: it reads the student and does not move it.
"""

import functools

import flax.struct
import jax
import jax.numpy as jnp
import optax

from sleep_jax.memory.slots import put_slot
from sleep_jax.models.decoder import lm_head
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.models.sharding import constrain_tree
from sleep_jax.rl.ppo import apply_value_head, init_value_head, value_loss
from sleep_jax.seeding.divergence import TokenScores, scores_and_grads
from sleep_jax.seeding.objective import Objective, SeedingBatch, flat, scored_hidden_and_gates


@flax.struct.dataclass
class Critic:
    """The value head of PPO and its optimizer state; no part of the memory."""

    head: dict
    opt_state: optax.OptState


@flax.struct.dataclass
class SeedingState:
    """What learns: the slot, its optimizer state, the step counter, and with PPO a critic."""

    slot: dict
    opt_state: optax.OptState
    step: jax.Array
    critic: Critic | None = None

    @property
    def value_head(self):
        """Of the critic; None without one."""
        return None if self.critic is None else self.critic.head


def init_state(slot, optimizer: optax.GradientTransformation) -> SeedingState:
    """The state before the first step of a slot."""
    return SeedingState(slot, optimizer.init(slot), jnp.zeros((), jnp.int32))


def init_critic(width: int, learning_rate: float) -> Critic:
    """A critic at birth.

    Args:
      width: of the decoder.
      learning_rate: Adam's.
    """
    head = init_value_head(width)
    return Critic(head, optax.adam(learning_rate).init(head))


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
    coin_rng=None,
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
      coin_rng: PRNG key of the flips of `objective.lam_as_probability`.

    Returns:
      (state, metrics): float32 scalars:
        loss, kl_off, kl_on, policy_loss, cross_entropy: the loss and the means of its terms.
        policy_...: those of the policy gradient and of the value head. Of the rollouts' tokens,
          policy_round_gap is the mean |log-prob now - when their round began|, both by the scorer:
          how far the updates of the round have taken the policy, 0 before the first of them but for
          rounding. policy_sampler_gap, |log-prob now - when drawn|, has the difference between
          sampler and scorer besides.
        tokens_off, tokens_on: tokens that the divergence is the mean of.
        gradient_norm: with respect to the slot, before clipping.
        hidden_gradient_distillation, hidden_gradient_policy: of both terms as they enter the loss,
          with respect to the student's last hidden states.
        gate_0, gate_1, ...: with a router, the mean gate of each slot of the level: the share of
          the batch's tokens that an expert gets.
        skipped: 1 where gradient or update was not finite: slot and optimizer state are then, bit
          for bit, those that came in (`optax.apply_if_finite` gives in after a while).
    """
    head = lm_head(cfg, base["params"])
    counts = _counts(objective, batch)
    lam = objective.share_on_policy(state.step, counts["kl_on"], coin_rng)
    learners = jnp.sum(batch.mask & batch.rewarded, dtype=jnp.float32)

    def shares(scores, part):
        terms, _ = objective.terms(scores, part)
        mean = {name: total / jnp.maximum(counts[name], 1.0) for name, (total, _) in terms.items()}
        return objective.shares(mean, lam)

    def gradient_of(part):
        def states(slot):
            memory = put_slot(base["memory"], level, index, slot)
            return scored_hidden_and_gates(cfg, {**base, "memory": memory}, part, level)

        hidden, pull_back, gates = jax.vjp(states, state.slot, has_aux=True)
        scores, grads = scores_and_grads(
            hidden,
            flat(part.teacher),
            flat(part.targets),
            flat(part.mask),
            head,
            learns=objective.learns,
            **objective.scoring(heads),
        )
        # One number for a token and a score; times the score's slope it is d share / d hidden.
        towards = jax.jacrev(shares)(scores, part)
        pulls = {name: _scaled(grads, factors) for name, factors in towards.items()}
        (gradient,) = pull_back(sum(pulls.values()))
        sums = {name: jnp.sum(pull**2) for name, pull in pulls.items()} | {"gates": gates}
        value_gradient, values = _value_gradient(state.critic, hidden, part, learners)
        return (gradient, value_gradient), (scores, values), sums

    gradients, (scores, values), sums = _added_up(gradient_of, batch, objective.accumulate)
    gradient, value_gradient = gradients
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.slot)
    learnt = state.replace(
        slot=optax.apply_updates(state.slot, updates),
        opt_state=opt_state,
        critic=_advanced(objective, state.critic, value_gradient),
    )
    norm = optax.tree.norm(gradient)
    is_finite = jnp.isfinite(norm) & jnp.isfinite(optax.tree.norm((updates, value_gradient)))
    kept = jax.tree.map(lambda new, old: jnp.where(is_finite, new, old), learnt, state)

    terms, policy = objective.terms(scores, batch)
    if values is not None:
        policy |= _value_loss(values, batch)[1]
    mean = {name: total / jnp.maximum(count, 1.0) for name, (total, count) in terms.items()}
    metrics = {
        "loss": sum(objective.shares(mean, lam).values()),
        **mean,
        **{f"policy_{name}": value for name, value in policy.items()},
        "tokens_off": counts["kl_off"],
        "tokens_on": counts["kl_on"],
        "gradient_norm": norm,
        "hidden_gradient_distillation": jnp.sqrt(sums["distillation"]),
        "hidden_gradient_policy": jnp.sqrt(sums["policy"]),
        "skipped": 1.0 - is_finite,
    }
    if (gates := sums["gates"]) is not None:
        tokens = jnp.maximum(jnp.sum(batch.segment_ids != 0), 1)
        metrics |= {f"gate_{slot}": total / tokens for slot, total in enumerate(gates)}
    return constrain_tree(kept.replace(step=state.step + 1), "learner"), metrics


def _counts(objective: Objective, batch: SeedingBatch) -> dict[str, jax.Array]:
    """The denominators of the terms, which no score has a part in."""
    nothing = jnp.zeros(batch.mask.size)
    terms, _ = objective.terms(TokenScores(nothing, nothing, nothing), batch)
    return {name: count for name, (_, count) in terms.items()}


def _scaled(grads: TokenScores, factors: TokenScores):
    """The sum over the scores that are learnt of slope times factor: [tokens, d]."""
    learnt = {name: slope for name, slope in vars(grads).items() if slope is not None}
    return sum(slope * getattr(factors, name)[:, None] for name, slope in learnt.items())


def _value_loss(values, batch: SeedingBatch):
    """`value_loss` of the tokens that the policy gradient learns from; values are [tokens]."""
    old, returns, mask = batch.old_values, batch.returns, batch.mask & batch.rewarded
    return value_loss(values[None], *(flat(x)[None] for x in (old, returns, mask)))


def _value_gradient(critic: Critic | None, hidden, part: SeedingBatch, learners):
    """Of the value loss, a mean over `learners` tokens, with respect to the head; and the values,
    float32 [tokens]."""
    if critic is None:
        return None, None

    def loss(head):
        values = apply_value_head(head, hidden[None])[0]
        return _value_loss(values, part)[0][0] / jnp.maximum(learners, 1.0), values

    return jax.grad(loss, has_aux=True)(critic.head)


def _advanced(objective: Objective, critic: Critic | None, gradient) -> Critic | None:
    """The critic after an update of its own."""
    if critic is None:
        return None
    optimizer = optax.adam(objective.surrogate.value_learning_rate)
    updates, opt_state = optimizer.update(gradient, critic.opt_state)
    return Critic(optax.apply_updates(critic.head, updates), opt_state)


def _added_up(gradient_of, batch: SeedingBatch, parts: int):
    """`gradient_of` the whole batch, a part of its rows at a time: (gradients, what it says of
    tokens, row after row, and sums)."""
    if parts == 1:
        return gradient_of(batch)
    # A part has rows of every shard of a mesh.
    cut = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch)

    def add(total, part):
        gradients, of_tokens, sums = gradient_of(part)
        return jax.tree.map(jnp.add, total, (gradients, sums)), of_tokens

    gradients, _, sums = jax.eval_shape(gradient_of, jax.tree.map(lambda x: x[0], cut))
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (gradients, sums))
    (gradients, sums), of_tokens = jax.lax.scan(add, nothing, cut)

    def in_order(x):
        return x.reshape(parts, batch.mask.shape[0] // parts, -1).swapaxes(0, 1).ravel()

    return gradients, jax.tree.map(in_order, of_tokens), sums
