"""The seeding step: one pure update of the newly unlocked slot by J_KS (paper 3.3).

    loss = alpha * D + (1 - alpha) * PG + c * CE,
    D    = (1 - lambda) mean_off KL(T || S) + lambda mean_on KL(T || S)

KL(T || S) stands for the divergence, of which there are others (divergence.py). `off` are the
tokens of teacher-written sequences and `on` those of student rollouts; PG is the clipped policy
gradient of the imitation reward on the same rollouts; CE, off by default, is the cross-entropy of
the supervised tokens. No gradient flows through sampling, and nothing but the slot learns.
"""

import dataclasses
import functools

import flax.struct
import jax
import jax.numpy as jnp
import optax

from sleep_jax.memory.slots import put_slot
from sleep_jax.models.config import DecoderConfig
from sleep_jax.models.decoder import Decoder, lm_head
from sleep_jax.models.head import masked_sum
from sleep_jax.rl.algorithms import Surrogate
from sleep_jax.seeding.divergence import Divergence, token_scores


@dataclasses.dataclass(frozen=True)
class Objective:
    """Weights of the seeding objective.

    Attributes:
      alpha: distillation against imitation, in [0, 1].
      cross_entropy: weight c of the plain cross-entropy of the supervised tokens.
      lam: share of on-policy sequences in the divergence (lambda in the paper), in [0, 1].
      surrogate: policy-gradient loss of the imitation term.
      chunk: tokens whose logits exist at a time.
      weights: of the teachers, which sum to 1.
      divergence: between teacher and student; `sampled` knows only what the student has sampled, so
        it needs lam = 1 and the rollouts' temperature, 1.
    """

    alpha: float = 0.5
    lam: float = 0.5
    cross_entropy: float = 0.0
    surrogate: Surrogate = dataclasses.field(default_factory=Surrogate)
    chunk: int = 128
    weights: tuple[float, ...] = (1.0,)
    divergence: Divergence = dataclasses.field(default_factory=Divergence)

    def __post_init__(self):
        for name, value in (("alpha", self.alpha), ("lam", self.lam)):
            if not 0 <= value <= 1:
                raise ValueError(f"seeding.{name}={value}; it must lie in [0, 1]")
        if min(self.weights) <= 0 or abs(sum(self.weights) - 1) > 1e-6:
            raise ValueError(
                f"seeding.teacher_weights={self.weights}; they must be above 0 and sum to 1"
            )
        if self.divergence.kind == "sampled" and self.lam < 1:
            raise ValueError(
                f"seeding.lam={self.lam} with seeding.divergence='sampled', which means nothing on "
                "a teacher's tokens; set seeding.lam=1 or choose 'reverse', which it estimates"
            )
        if self.divergence.kind == "sampled" and self.divergence.temperature != 1:
            raise ValueError(
                f"seeding.divergence_temperature={self.divergence.temperature} with "
                "seeding.divergence='sampled'; rollouts are sampled at 1, so it must be 1"
            )


@flax.struct.dataclass
class SeedingBatch:
    """Packed sequences as the student sees them, and what is scored in them.

    Attributes:
      tokens, segment_ids: int32 [batch, time]; segment 0 is padding.
      scored: int32 [batch, scored], time indices of the hidden states that predict the scored
        tokens.
      mask: bool [batch, scored]; false pads.
      targets: int32 [batch, scored], the scored tokens.
      teacher: float32 [batch, scored, d], the teacher's hidden states at the same tokens; those of
        several teachers side by side.
      on_policy: bool [batch, scored], written by the student.
      supervised: bool [batch, scored], also learnt by cross-entropy: rewarded dreams.
      advantages: float32 [batch, scored], of the sequence that the token is part of; 0 off-policy.
      old_log_probs: float32 [batch, scored], at sampling time; read on-policy only.
      rewarded: bool [batch, scored], on-policy tokens that the policy gradient learns from.
      sequence: int32 [batch, scored], which exchange of the batch the token is part of.
    """

    tokens: jax.Array
    segment_ids: jax.Array
    scored: jax.Array
    mask: jax.Array
    targets: jax.Array
    teacher: jax.Array
    on_policy: jax.Array
    supervised: jax.Array
    advantages: jax.Array
    old_log_probs: jax.Array
    rewarded: jax.Array
    sequence: jax.Array


@flax.struct.dataclass
class SeedingState:
    """What learns: the slot, its optimizer state and the step counter."""

    slot: dict
    opt_state: optax.OptState
    step: jax.Array


def init_state(slot, optimizer: optax.GradientTransformation) -> SeedingState:
    """The state before the first step of a slot."""
    return SeedingState(slot, optimizer.init(slot), jnp.zeros((), jnp.int32))


def _mean(total_and_count):
    total, count = total_and_count
    return total / jnp.maximum(count, 1.0)


def objective_terms(
    cfg: DecoderConfig, objective: Objective, variables, batch: SeedingBatch, heads=None
):
    """The terms of the loss by name, each a (sum, denominator) pair, and the policy gradient's
    metrics; `kl_off` and `kl_on` are of whichever divergence the objective has, and `heads` are the
    teachers' LM heads, None where all have the student's."""
    hidden = Decoder(cfg).apply(variables, batch.tokens, batch.segment_ids)
    hidden = jnp.take_along_axis(hidden, batch.scored[..., None], axis=1)

    def flat(x):
        return x.reshape(-1, *x.shape[2:])

    scores = token_scores(
        flat(hidden),
        flat(batch.teacher),
        flat(batch.targets),
        flat(batch.mask),
        lm_head(cfg, variables["params"]),
        objective.chunk,
        heads=heads,
        weights=objective.weights,
        divergence=objective.divergence,
    )
    on = flat(batch.mask & batch.on_policy)
    off = flat(batch.mask & ~batch.on_policy)
    # Rows hold several sequences: for the policy gradient every token is a row of its own.
    policy, metrics = objective.surrogate.loss(
        scores.log_prob[:, None],
        flat(batch.old_log_probs)[:, None],
        flat(batch.advantages),
        flat(batch.mask & batch.rewarded)[:, None],
        sequences=flat(batch.sequence)[:, None],
    )
    terms = {
        "kl_off": masked_sum(scores.kl, off),
        "kl_on": masked_sum(scores.kl, on),
        "policy_loss": policy,
        "cross_entropy": masked_sum(-scores.log_prob, flat(batch.mask & batch.supervised)),
    }
    return terms, metrics


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
      batch: what it learns from.
      heads: the teachers' LM heads; None where all have the student's.

    Returns:
      (state, metrics): float32 scalars: loss, its terms, gradient_norm, those of the policy
      gradient, and skipped, 1 where gradient or update was not finite: slot and optimizer state
      are then, bit for bit, those that came in (`optax.apply_if_finite` gives in after a while).
    """

    def loss(slot):
        memory = put_slot(base["memory"], level, index, slot)
        terms, metrics = objective_terms(cfg, objective, {**base, "memory": memory}, batch, heads)
        mean = {name: _mean(term) for name, term in terms.items()}
        kl = (1 - objective.lam) * mean["kl_off"] + objective.lam * mean["kl_on"]
        total = (
            objective.alpha * kl
            + (1 - objective.alpha) * mean["policy_loss"]
            + objective.cross_entropy * mean["cross_entropy"]
        )
        policy = {f"policy_{name}": value for name, value in metrics.items()}
        return total, {"loss": total, **mean, **policy}

    gradient, metrics = jax.grad(loss, has_aux=True)(state.slot)
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.slot)
    learnt = (optax.apply_updates(state.slot, updates), opt_state)
    norm = optax.tree.norm(gradient)
    is_finite = jnp.isfinite(norm) & jnp.isfinite(optax.tree.norm(updates))
    slot, opt_state = jax.tree.map(
        lambda new, old: jnp.where(is_finite, new, old), learnt, (state.slot, state.opt_state)
    )
    metrics |= {"gradient_norm": norm, "skipped": 1.0 - is_finite}
    return SeedingState(slot, opt_state, state.step + 1), metrics
