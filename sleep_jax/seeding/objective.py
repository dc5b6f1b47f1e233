"""The seeding objective J_KS (paper 3.3): what an update is to lower, in terms of what every token
scores.

    loss = alpha * D + (1 - alpha) * PG + c * CE,
    D    = (1 - lambda) mean_off KL(T || S) + lambda mean_on KL(T || S)

KL(T || S) stands for the divergence, of which there are others (divergence.py). `off` are the
tokens of teacher-written sequences and `on` those of student rollouts; PG is the clipped policy
gradient of the imitation reward on the same rollouts; CE, off by default, is the cross-entropy of
the supervised tokens. No gradient flows through sampling.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp

from sleep_jax.models.decoder import Decoder, lm_head
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.models.head import masked_sum
from sleep_jax.rl.algorithms import Surrogate, surrogate
from sleep_jax.seeding.divergence import Divergence, TokenScores, token_scores
from sleep_jax.settings import Settings, part, setting


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
      advantages: float32 [batch, scored], of the token or the sequence that it is part of; 0
        off-policy.
      old_log_probs: float32 [batch, scored], by the scorer when the round of rollouts began, which
        ratios start from; read on-policy only, like the next four.
      sampler_log_probs: float32 [batch, scored], of the token when it was drawn.
      reference_log_probs: float32 [batch, scored], under the student before the night.
      old_values, returns: float32 [batch, scored], for a value head.
      rewarded: bool [batch, scored], on-policy tokens that the policy gradient learns from.
      sequence: int32 [batch, scored], which exchange the token is part of; those of a row stand one
        after the other.
      trunk: float32 [batch, time, d], the student's residual stream after the layers that carry no
        memory (`run_trunk`), from which it goes on; None: from the tokens.
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
    sampler_log_probs: jax.Array
    reference_log_probs: jax.Array
    old_values: jax.Array
    returns: jax.Array
    rewarded: jax.Array
    sequence: jax.Array
    trunk: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class Objective(Settings, section="seeding"):
    """Weights of the seeding objective.

    Attributes:
      ce_coef: weight c of the plain cross-entropy of the supervised tokens.
      surrogate: policy-gradient loss of the imitation term.
      logit_chunk: tokens whose logits exist at a time.
      weights: of the teachers, which sum to 1.
      divergence: between teacher and student; `sampled` knows only what the student has sampled, so
        it needs lam = 1 and the rollouts' temperature, 1.
      lam_as_probability: the divergence of an update is wholly of the student's sequences, with
        probability lam, or wholly of the teacher's, rather than the mixture of both (Agarwal et
        al., 2024).

    Raises:
      ValueError: a field has no such value, or fields that cannot be together.
    """

    alpha: float = setting(0.5, "distillation (1) against imitation (0)", least=0, most=1)
    lam: float = setting(
        0.5, "share of the student's sequences in the divergence (lambda)", least=0, most=1
    )
    ce_coef: float = 0.0
    surrogate: Surrogate = part(Surrogate, surrogate)
    logit_chunk: int = 128
    weights: tuple[float, ...] = (1.0,)
    divergence: Divergence = part(Divergence)
    lam_as_probability: bool = setting(
        False, "lam as the odds of a coin for each batch, not as a mixture"
    )
    accumulate: int = setting(
        1, "parts that an update's rows are cut into; the activations of one exist at a time",
        least=1,
    )  # fmt: skip

    def check(self) -> None:
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

    @property
    def learns(self) -> tuple[str, ...]:
        """The scores that the loss can have a gradient in; that of the others is not formed."""
        imitates = self.alpha < 1
        weighs = {
            "kl": self.alpha > 0,
            "log_prob": imitates or self.ce_coef != 0,
            "entropy": imitates and self.surrogate.entropy_coef > 0,
        }
        return tuple(name for name, is_learnt in weighs.items() if is_learnt)

    def scoring(self, heads=None) -> dict:
        """Keywords of `token_scores`."""
        return {
            "logit_chunk": self.logit_chunk,
            "heads": heads,
            "weights": self.weights,
            "divergence": self.divergence,
            "has_entropy": self.surrogate.entropy_coef > 0,
        }

    def terms(self, scores: TokenScores, batch: SeedingBatch):
        """The terms of the loss by name, each a (sum, denominator) pair, and the metrics of the
        policy gradient.

        Args:
          scores: of all scored tokens of the batch, row after row.
          batch: whose tokens they are.
        """
        on = flat(batch.mask & batch.on_policy)
        # Rows hold several sequences: for the policy gradient every token is a row of its own.
        column = {
            name: flat(getattr(batch, name))[:, None]
            for name in ("old_log_probs", "sampler_log_probs", "reference_log_probs")
        }
        policy, metrics = self.surrogate.loss(
            scores.log_prob[:, None],
            column.pop("old_log_probs"),
            flat(batch.advantages)[:, None],
            flat(batch.mask & batch.rewarded)[:, None],
            entropy=None if scores.entropy is None else scores.entropy[:, None],
            sequences=flat(_numbered(batch.sequence))[:, None],
            **column,
        )
        for name, then in (("sampler", batch.sampler_log_probs), ("round", batch.old_log_probs)):
            gap, count = masked_sum(jnp.abs(scores.log_prob - flat(then)), on)
            metrics[f"{name}_gap"] = jax.lax.stop_gradient(gap / jnp.maximum(count, 1.0))
        terms = {
            "kl_off": masked_sum(scores.kl, flat(batch.mask & ~batch.on_policy)),
            "kl_on": masked_sum(scores.kl, on),
            "policy_loss": policy,
            "cross_entropy": masked_sum(-scores.log_prob, flat(batch.mask & batch.supervised)),
        }
        return terms, metrics

    def shares(self, mean: dict[str, jax.Array], lam) -> dict[str, jax.Array]:
        """What the loss is the sum of, from the means of its terms and lambda."""
        kl = (1 - lam) * mean["kl_off"] + lam * mean["kl_on"]
        return {
            "distillation": self.alpha * kl,
            "policy": (1 - self.alpha) * mean["policy_loss"],
            "cross_entropy": self.ce_coef * mean["cross_entropy"],
        }

    def share_on_policy(self, step, count_on, coin_rng=None):
        """Lambda of an update: `lam`, or what the coin says where there is anything on-policy.

        Raises:
          ValueError: a coin is to be flipped and `coin_rng`, the PRNG key of a night's flips, is
            not given.
        """
        if not self.lam_as_probability:
            return self.lam
        if coin_rng is None:
            raise ValueError(
                "seeding.lam_as_probability=True needs coin_rng, the PRNG key of its flips"
            )
        flip = jax.random.bernoulli(jax.random.fold_in(coin_rng, step), self.lam)
        return jnp.where(flip & (count_on > 0), 1.0, 0.0)


def flat(x):
    """[batch, scored, ...] as [batch * scored, ...]."""
    return x.reshape(-1, *x.shape[2:])


def _numbered(sequence):
    """Numbers of their own, below batch * scored, for the sequences of every row, whatever the
    other rows hold and whichever of them are here."""
    begins = jnp.pad(sequence[:, 1:] != sequence[:, :-1], ((0, 0), (1, 0)))
    rows, width = sequence.shape
    return jnp.cumsum(begins, axis=1) + width * jnp.arange(rows)[:, None]


def scored_hidden(cfg: DecoderConfig, variables, batch: SeedingBatch):
    """The student's hidden states that predict the scored tokens, [batch * scored, d]."""
    hidden = Decoder(cfg).apply(variables, batch.tokens, batch.segment_ids, batch.trunk)
    return _scored(hidden, batch)


def scored_hidden_and_gates(cfg: DecoderConfig, variables, batch: SeedingBatch, level: int):
    """`scored_hidden`, and each slot's gate in a level, summed over the batch's tokens and averaged
    over the layers that carry memory: float32 [slots]; None without a router."""
    if cfg.memory.router == "none":
        return scored_hidden(cfg, variables, batch), None
    hidden, seen = Decoder(cfg).apply(
        variables, batch.tokens, batch.segment_ids, batch.trunk, mutable=["intermediates"]
    )
    name = f"level_{level}"
    [gates] = seen["intermediates"]["layers"][name]["gates"]  # [layers, batch, time, slots]
    carries = variables["slots"]["layers"][name]["carries"]
    gates = jnp.mean(gates, axis=0, where=carries[:, None, None, None])
    is_token = (batch.segment_ids != 0)[..., None]
    return _scored(hidden, batch), jnp.sum(gates, axis=(0, 1), where=is_token)


def _scored(hidden, batch: SeedingBatch):
    return flat(jnp.take_along_axis(hidden, batch.scored[..., None], axis=1))


def objective_terms(
    cfg: DecoderConfig, objective: Objective, variables, batch: SeedingBatch, heads=None
):
    """`Objective.terms` of a batch under a student; `kl_off` and `kl_on` are of whichever
    divergence the objective has, and `heads` are the teachers' LM heads, None where all have the
    student's."""
    scores = token_scores(
        scored_hidden(cfg, variables, batch),
        flat(batch.teacher),
        flat(batch.targets),
        flat(batch.mask),
        lm_head(cfg, variables["params"]),
        **objective.scoring(heads),
    )
    return objective.terms(scores, batch)
