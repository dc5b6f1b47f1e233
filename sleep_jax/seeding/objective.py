"""The Knowledge Seeding objective J_KS (paper 3.3) as a function of the scores of every token.

    loss = alpha * D + (1 - alpha) * PG + c * CE,
    D    = (1 - lambda) mean_off KL(T || S) + lambda mean_on KL(T || S)

KL(T || S) stands for the divergence, of which there are others (divergence.py). `off` are the
target tokens of teacher-written sequences and `on` those of student rollouts, of which there are
far fewer: with `on_policy_weight="tokens"` lambda is a weight of tokens and D their weighted mean,

    D    = ((1 - lambda) sum_off KL(T || S) + lambda sum_on KL(T || S))
           / ((1 - lambda) tokens_off + lambda tokens_on),

at lambda 0.5 the mean over all. PG is the clipped
policy gradient of the imitation reward on the same rollouts; CE, off by default, is the
cross-entropy of the supervised tokens. No gradient flows through sampling.
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

ON_POLICY_WEIGHTS = ("lambda", "tokens")


@flax.struct.dataclass
class SeedingBatch:
    """Packed sequences as the student sees them, and the target tokens that are scored in them.

    Attributes:
      tokens, segment_ids: int32 [batch, time]; segment 0 is padding.
      target_positions: int32 [batch, targets], time indices of the hidden states that predict the
        target tokens.
      mask: bool [batch, targets]; false on padding.
      targets: int32 [batch, targets], the target tokens.
      teacher: [batch, targets, d] in the dtype of the model, the teacher's hidden states that
        predict the target tokens; those of several teachers are concatenated along the last axis.
      on_policy: bool [batch, targets], written by the student.
      supervised: bool [batch, targets], also learnt by cross-entropy: rewarded dreams.
      advantages: float32 [batch, targets], of the token or of its sequence; 0 off-policy.
      old_log_probs: float32 [batch, targets], by the scorer when the round of rollouts began, which
        ratios start from; read on-policy only, like the next four.
      sampler_log_probs: float32 [batch, targets], of the token when it was sampled.
      reference_log_probs: float32 [batch, targets], under the student before the night.
      old_values, returns: float32 [batch, targets], for a value head.
      rewarded: bool [batch, targets], on-policy tokens that the policy gradient learns from.
      sequence_ids: int32 [batch, targets], the sequence that a token belongs to; the tokens of a
        sequence are adjacent.
      trunk: float32 [batch, time, d], the student's residual stream after the layers that carry no
        memory (`run_trunk`), from which the forward pass starts; None: it starts from the tokens.
    """

    tokens: jax.Array
    segment_ids: jax.Array
    target_positions: jax.Array
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
    sequence_ids: jax.Array
    trunk: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class Objective(Settings, section="seeding"):
    """Weights of the seeding objective.

    Attributes:
      ce_coef: weight c of the cross-entropy of the supervised tokens.
      surrogate: policy-gradient loss of the imitation term.
      logit_chunk: tokens whose logits exist at a time.
      weights: of the teachers, which sum to 1.
      divergence: between teacher and student; `sampled` is defined only on tokens that the student
        has sampled, so it needs lam = 1 and the rollouts' temperature, 1.
      lam_as_probability: the divergence of an update is that of the student's sequences alone with
        probability lam, else that of the teacher's alone, rather than the mixture of both
        (Agarwal et al., 2024, GKD).

    Raises:
      ValueError: a field is out of range, or fields contradict each other.
    """

    alpha: float = setting(0.5, "distillation (1) against imitation (0)", least=0, most=1)
    lam: float = setting(
        0.5, "share of the student's sequences in the divergence (lambda)", least=0, most=1
    )
    on_policy_weight: str = setting(
        "lambda", "lam is the weight of all the student's sequences, or of each of their tokens",
        choices=ON_POLICY_WEIGHTS,
    )  # fmt: skip
    ce_coef: float = 0.0
    surrogate: Surrogate = part(Surrogate, surrogate)
    logit_chunk: int = 128
    weights: tuple[float, ...] = (1.0,)
    divergence: Divergence = part(Divergence)
    lam_as_probability: bool = setting(
        False, "lam is the probability that a batch is the student's, not a share of each batch"
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
                f"seeding.lam={self.lam} with seeding.divergence='sampled', which is undefined on "
                "a teacher's tokens; set seeding.lam=1 or choose 'reverse', which it estimates"
            )
        if self.on_policy_weight == "tokens" and self.lam_as_probability:
            raise ValueError(
                "seeding.on_policy_weight='tokens' with seeding.lam_as_probability=True, which "
                "mixes no tokens of the two; set one of them to its default"
            )
        if self.divergence.kind == "sampled" and self.divergence.temperature != 1:
            raise ValueError(
                f"seeding.divergence_temperature={self.divergence.temperature} with "
                "seeding.divergence='sampled'; rollouts are sampled at 1, so it must be 1"
            )

    @property
    def learnt_scores(self) -> tuple[str, ...]:
        """The fields of `TokenScores` that the loss has a gradient in."""
        imitates = self.alpha < 1
        is_learnt = {
            "kl": self.alpha > 0,
            "log_prob": imitates or self.ce_coef != 0,
            "entropy": imitates and self.surrogate.entropy_coef > 0,
        }
        return tuple(name for name, learnt in is_learnt.items() if learnt)

    def score_options(self, heads=None) -> dict:
        """Keyword arguments of `token_scores`."""
        return {
            "logit_chunk": self.logit_chunk,
            "heads": heads,
            "weights": self.weights,
            "divergence": self.divergence,
            "has_entropy": self.surrogate.entropy_coef > 0,
        }

    def terms(self, scores: TokenScores, batch: SeedingBatch):
        """The terms of the loss and the metrics of the policy gradient.

        Args:
          scores: of all target tokens of the batch, [batch * targets].
          batch: whose tokens they are.

        Returns:
          (terms, metrics): terms kl_off, kl_on, policy_loss and cross_entropy, each as a
          (sum, denominator) pair of float32 scalars; metrics as float32 scalars by name.
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
            sequences=flat(_unique_ids(batch.sequence_ids))[:, None],
            **column,
        )
        earlier_log_probs = {"sampler": batch.sampler_log_probs, "round": batch.old_log_probs}
        for name, earlier in earlier_log_probs.items():
            gap, count = masked_sum(jnp.abs(scores.log_prob - flat(earlier)), on)
            metrics[f"{name}_gap"] = jax.lax.stop_gradient(gap / jnp.maximum(count, 1.0))
        terms = {
            "kl_off": masked_sum(scores.kl, flat(batch.mask & ~batch.on_policy)),
            "kl_on": masked_sum(scores.kl, on),
            "policy_loss": policy,
            "cross_entropy": masked_sum(-scores.log_prob, flat(batch.mask & batch.supervised)),
        }
        return terms, metrics

    def weighted_terms(self, mean: dict[str, jax.Array], lam) -> dict[str, jax.Array]:
        """The summands of the loss.

        Args:
          mean: of each of `terms`.
          lam: weight of `kl_on`; `kl_off` has the rest.
        """
        kl = (1 - lam) * mean["kl_off"] + lam * mean["kl_on"]
        return {
            "distillation": self.alpha * kl,
            "policy": (1 - self.alpha) * mean["policy_loss"],
            "cross_entropy": self.ce_coef * mean["cross_entropy"],
        }

    def lam_of_update(self, step, count_off, count_on, lam_rng=None):
        """The weight of `kl_on` in an update; `kl_off` has the rest.

        Args:
          step: number of the update.
          count_off, count_on: off- and on-policy target tokens of its batch.
          lam_rng: PRNG key of a night, read only with `lam_as_probability`.

        Returns:
          `lam`; with `on_policy_weight="tokens"` the share of the on-policy tokens in the weight of
          all, where each has `lam` and every other 1 - lam; with `lam_as_probability` 1 with
          probability lam, if the batch has on-policy tokens, else 0.

        Raises:
          ValueError: `lam_as_probability` without `lam_rng`.
        """
        if self.on_policy_weight == "tokens":
            on = self.lam * count_on
            total = on + (1 - self.lam) * count_off
            return jnp.where(total > 0, on / jnp.where(total > 0, total, 1.0), self.lam)
        if not self.lam_as_probability:
            return self.lam
        if lam_rng is None:
            raise ValueError("seeding.lam_as_probability=True needs lam_rng; pass a PRNG key")
        is_on_policy = jax.random.bernoulli(jax.random.fold_in(lam_rng, step), self.lam)
        return jnp.where(is_on_policy & (count_on > 0), 1.0, 0.0)


def flat(x):
    """[batch, targets, ...] as [batch * targets, ...]."""
    return x.reshape(-1, *x.shape[2:])


def _unique_ids(sequence_ids):
    """Ids in [0, batch * targets) that no two sequences share, even in different rows; independent
    of which other rows are present."""
    is_first = sequence_ids[:, 1:] != sequence_ids[:, :-1]
    is_first = jnp.pad(is_first, ((0, 0), (1, 0)))
    rows, width = sequence_ids.shape
    return jnp.cumsum(is_first, axis=1) + width * jnp.arange(rows)[:, None]


def scored_hidden(cfg: DecoderConfig, variables, batch: SeedingBatch):
    """The student's hidden states that predict the target tokens, [batch * targets, d]."""
    hidden = Decoder(cfg).apply(variables, batch.tokens, batch.segment_ids, batch.trunk)
    return _at_targets(hidden, batch)


def scored_hidden_and_gates(cfg: DecoderConfig, variables, batch: SeedingBatch, level: int):
    """`scored_hidden` and what the router of a level does.

    Returns:
      (hidden, gates): gates float32 [slots], each slot's gate summed over the batch's tokens and
      averaged over the layers that carry memory; None without a router.
    """
    if cfg.memory.router == "none":
        return scored_hidden(cfg, variables, batch), None
    hidden, sown = Decoder(cfg).apply(
        variables, batch.tokens, batch.segment_ids, batch.trunk, mutable=["intermediates"]
    )
    name = f"level_{level}"
    [gates] = sown["intermediates"]["layers"][name]["gates"]  # [layers, batch, time, slots]
    carries = variables["slots"]["layers"][name]["carries"]
    gates = jnp.mean(gates, axis=0, where=carries[:, None, None, None])
    is_token = (batch.segment_ids != 0)[..., None]
    return _at_targets(hidden, batch), jnp.sum(gates, axis=(0, 1), where=is_token)


def _at_targets(hidden, batch: SeedingBatch):
    """Of hidden states [batch, time, d] those at the target positions, [batch * targets, d]."""
    return flat(jnp.take_along_axis(hidden, batch.target_positions[..., None], axis=1))


def objective_terms(
    cfg: DecoderConfig, objective: Objective, variables, batch: SeedingBatch, heads=None
):
    """`Objective.terms` of a batch under a student.

    Args:
      cfg, objective: static.
      variables: the student's collections.
      batch: what is scored.
      heads: the teachers' LM heads; None: all have the student's.
    """
    scores = token_scores(
        scored_hidden(cfg, variables, batch),
        flat(batch.teacher),
        flat(batch.targets),
        flat(batch.mask),
        lm_head(cfg, variables["params"]),
        **objective.score_options(heads),
    )
    return objective.terms(scores, batch)
