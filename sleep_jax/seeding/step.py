"""The seeding step: one pure update of the newly unlocked slot by J_KS (objective.py). Nothing but
the slot learns.

Two things make the gradient here more than one call of `jax.grad`. The rows of a batch may be cut
into parts whose gradients are accumulated, each term divided by its tokens in the whole batch, so
that the update is that of the whole batch. And the gradient of every term with respect to the
student's last hidden states is formed separately before their sum is propagated back through the
decoder once, so that the norms of the distillation and policy gradients are known without a second
backward pass.

With PPO a value head over the same hidden states learns beside the slot, from a loss and with an
optimizer of its own: it reads the student's hidden states and sends no gradient back.
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
from sleep_jax.seeding.null_space import projected
from sleep_jax.seeding.objective import Objective, SeedingBatch, flat, scored_hidden_and_gates


@flax.struct.dataclass
class Critic:
    """The value head of PPO and its optimizer state; no part of the memory."""

    head: dict
    opt_state: optax.OptState


@flax.struct.dataclass
class SeedingState:
    """What an update changes: the slot, its optimizer state, the step counter and, with PPO, a
    critic. `teacher_slot` is the slot of a teacher that follows the student; no update changes it,
    the loop over updates does (`seeding.teacher='ema'`)."""

    slot: dict
    opt_state: optax.OptState
    step: jax.Array
    critic: Critic | None = None
    teacher_slot: dict | None = None

    @property
    def value_head(self):
        """Parameters of the critic's value head; None without a critic."""
        return None if self.critic is None else self.critic.head


def init_state(slot, optimizer: optax.GradientTransformation) -> SeedingState:
    """The initial state of a slot's seeding."""
    return SeedingState(slot, optimizer.init(slot), jnp.zeros((), jnp.int32))


def init_critic(width: int, learning_rate: float) -> Critic:
    """An initial critic.

    Args:
      width: of the decoder's hidden states.
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
    lam_rng=None,
    null_space=None,
):
    """One update of slot `index` of `level`.

    Args:
      cfg, objective, optimizer, level: static.
      index: the slot that learns, int32 scalar.
      state: is donated.
      base: the student's collections (params, memory, slots); the slot's entry in `memory` is not
        read.
      batch: its rows are a multiple of `objective.accumulate`.
      heads: the teachers' LM heads; None: all have the student's.
      lam_rng: PRNG key for `objective.lam_as_probability`.
      null_space: the basis of `null_space.known_basis`, which the input side of the slot is kept
        out of; None: it may learn anything.

    Returns:
      (state, metrics): metrics are float32 scalars:
        loss, kl_off, kl_on, policy_loss, cross_entropy: the loss and the means of its terms.
        policy_...: of the policy gradient and of the value head. Of the on-policy tokens,
          policy_round_gap is the mean |log-prob now - when their round began|, both by the scorer:
          how far the updates of the round have moved the policy, 0 up to rounding before the first.
          policy_sampler_gap, |log-prob now - when sampled|, also contains the difference between
          sampler and scorer.
        tokens_off, tokens_on: tokens that kl_off and kl_on are means over.
        gradient_norm: with respect to the slot, before clipping.
        hidden_gradient_distillation, hidden_gradient_policy: norms of the gradients of both terms,
          weighted as in the loss, with respect to the student's last hidden states.
        gate_0, gate_1, ...: with a router, each slot's gate in the level, averaged over the batch's
          tokens.
        skipped: 1 where gradient or update was not finite: slot and optimizer state are then, bit
          for bit, those that came in (`optax.apply_if_finite` accepts such updates after a while).

    Raises:
      ValueError: `objective.lam_as_probability` without `lam_rng`.
    """
    head = lm_head(cfg, base["params"])
    counts = _counts(objective, batch)
    lam = objective.lam_of_update(state.step, counts["kl_off"], counts["kl_on"], lam_rng)
    rewarded_tokens = jnp.sum(batch.mask & batch.rewarded, dtype=jnp.float32)

    def weighted_terms(scores, part):
        terms, _ = objective.terms(scores, part)
        mean = {name: total / jnp.maximum(counts[name], 1.0) for name, (total, _) in terms.items()}
        return objective.weighted_terms(mean, lam)

    def part_grads(part):
        def hidden_and_gates(slot):
            memory = put_slot(base["memory"], level, index, slot)
            return scored_hidden_and_gates(cfg, {**base, "memory": memory}, part, level)

        hidden, decoder_vjp, gates = jax.vjp(hidden_and_gates, state.slot, has_aux=True)
        scores, score_grads = scores_and_grads(
            hidden,
            flat(part.teacher),
            flat(part.targets),
            flat(part.mask),
            head,
            learnt=objective.learnt_scores,
            **objective.score_options(heads),
        )
        # By the chain rule: d term / d score, a number a token, times d score / d hidden.
        term_grads = jax.jacrev(weighted_terms)(scores, part)
        hidden_grads = {name: _chain(score_grads, grads) for name, grads in term_grads.items()}
        (slot_grads,) = decoder_vjp(sum(hidden_grads.values()))
        sums = {name: jnp.sum(grads**2) for name, grads in hidden_grads.items()} | {"gates": gates}
        value_grads, values = _value_grads(state.critic, hidden, part, rewarded_tokens)
        return (slot_grads, value_grads), (scores, values), sums

    grads, (scores, values), sums = _accumulated(part_grads, batch, objective.accumulate)
    slot_grads, value_grads = grads
    slot_grads = projected(slot_grads, null_space)
    updates, opt_state = optimizer.update(slot_grads, state.opt_state, state.slot)
    updated = state.replace(
        slot=projected(optax.apply_updates(state.slot, updates), null_space),
        opt_state=opt_state,
        critic=_updated_critic(objective, state.critic, value_grads),
    )
    norm = optax.tree.norm(slot_grads)
    is_finite = jnp.isfinite(norm) & jnp.isfinite(optax.tree.norm((updates, value_grads)))
    state = jax.tree.map(lambda new, old: jnp.where(is_finite, new, old), updated, state)

    terms, policy = objective.terms(scores, batch)
    if values is not None:
        policy |= _value_loss(values, batch)[1]
    mean = {name: total / jnp.maximum(count, 1.0) for name, (total, count) in terms.items()}
    metrics = {
        "loss": sum(objective.weighted_terms(mean, lam).values()),
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
    return constrain_tree(state.replace(step=state.step + 1), "learner"), metrics


def _counts(objective: Objective, batch: SeedingBatch) -> dict[str, jax.Array]:
    """The denominators of the terms, which do not depend on the scores."""
    zeros = jnp.zeros(batch.mask.size)
    terms, _ = objective.terms(TokenScores(zeros, zeros, zeros), batch)
    return {name: count for name, (_, count) in terms.items()}


def _chain(score_grads: TokenScores, term_grads: TokenScores):
    """A term's gradient with respect to hidden states, [tokens, d].

    Args:
      score_grads: d score / d hidden, [tokens, d] each; None for scores that are not learnt.
      term_grads: d term / d score, [tokens] each.
    """
    learnt = {name: grads for name, grads in vars(score_grads).items() if grads is not None}
    return sum(grads * getattr(term_grads, name)[:, None] for name, grads in learnt.items())


def _value_loss(values, batch: SeedingBatch):
    """`value_loss` over the tokens that the policy gradient learns from; values are [tokens]."""
    old, returns, mask = batch.old_values, batch.returns, batch.mask & batch.rewarded
    return value_loss(values[None], *(flat(x)[None] for x in (old, returns, mask)))


def _value_grads(critic: Critic | None, hidden, part: SeedingBatch, rewarded_tokens):
    """The gradient of the value head and its values; (None, None) without a critic.

    Args:
      critic: whose head it is.
      hidden: [tokens, d].
      part: of the batch, whose tokens they are.
      rewarded_tokens: of the whole batch, which the loss is a mean over.

    Returns:
      (grads, values): grads of the loss summed over this part; values float32 [tokens].
    """
    if critic is None:
        return None, None

    def loss(head):
        values = apply_value_head(head, hidden[None])[0]
        return _value_loss(values, part)[0][0] / jnp.maximum(rewarded_tokens, 1.0), values

    return jax.grad(loss, has_aux=True)(critic.head)


def _updated_critic(objective: Objective, critic: Critic | None, grads) -> Critic | None:
    """The critic after one Adam update."""
    if critic is None:
        return None
    optimizer = optax.adam(objective.surrogate.value_learning_rate)
    updates, opt_state = optimizer.update(grads, critic.opt_state)
    return Critic(optax.apply_updates(critic.head, updates), opt_state)


def _accumulated(part_grads, batch: SeedingBatch, parts: int):
    """Gradients of the whole batch, a part of its rows at a time.

    Args:
      part_grads: takes a part of the batch and returns (grads, per_token, sums).
      batch: its rows are a multiple of `parts`.
      parts: static.

    Returns:
      (grads, per_token, sums): grads and sums added up, per_token values row after row.
    """
    if parts == 1:
        return part_grads(batch)
    # A part has rows of every shard of a mesh.
    cut = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch)

    def add(total, part):
        grads, per_token, sums = part_grads(part)
        return jax.tree.map(jnp.add, total, (grads, sums)), per_token

    grads, _, sums = jax.eval_shape(part_grads, jax.tree.map(lambda x: x[0], cut))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (grads, sums))
    (grads, sums), per_token = jax.lax.scan(add, zeros, cut)

    def in_row_order(x):
        return x.reshape(parts, batch.mask.shape[0] // parts, -1).swapaxes(0, 1).ravel()

    return grads, jax.tree.map(in_row_order, per_token), sums
