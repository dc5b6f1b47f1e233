"""A round of rollouts: the student completes dreams, is rewarded, and all that the updates to come
compare it with is scored while the slot is still the one that wrote.

    sampler     log-probabilities of the tokens when they were drawn
    old         those of the scorer, the same slot: what ratios start from. The sampler, another
                program over a cache, is not quite the policy that is updated
    reference   those of the student before the night, for a penalty
    values      of a value head, for PPO: rewards become advantages of tokens
    teachers    hidden states, for the divergence
    trunk       of the student, which all of these and the updates go on from
"""

import dataclasses
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sleep_jax.data.batches import bucket, pack
from sleep_jax.interop.tokenizer import Tokenizer
from sleep_jax.models.decoder import lm_head
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.models.head import token_log_probs
from sleep_jax.models.sharding import to_host
from sleep_jax.rewards.judge import Judge
from sleep_jax.rl.algorithms import Surrogate
from sleep_jax.rl.kl import kl_estimate
from sleep_jax.rl.ppo import apply_value_head, gae, token_rewards, whiten
from sleep_jax.seeding.imitation import ImitationConfig, roll_out, stack
from sleep_jax.seeding.objective import SeedingBatch, flat, scored_hidden
from sleep_jax.seeding.sequences import (
    BatchShape,
    Exchange,
    States,
    Teacher,
    along,
    batches,
    packs,
)
from sleep_jax.seeding.trunk import precompute, states_without_teacher, trunk_states
from sleep_jax.seeding.update_log import NO_TIMER, Figures, StepTimer


class Widths(NamedTuple):
    """Tokens that rows of a round are padded to: the longest prompt of a rollout, and the longest
    row before a teacher."""

    prompt: int
    teacher: int


def rollout_widths(dreams: Sequence[Exchange], imitation: ImitationConfig) -> Widths:
    """Widths that hold every rollout from some dreams."""
    student = max(map(_longest_prompt, dreams), default=1)
    teacher = max((len(e.teacher) + len(e.completion) for e in dreams), default=1)
    return Widths(bucket(student), bucket(teacher + imitation.max_new_tokens))


def imitable(
    exchanges: Sequence[Exchange], shape: BatchShape, imitation: ImitationConfig, rollouts: int
) -> list[Exchange]:
    """The dreams among some exchanges, but for those that are too long: wherever they are cut, the
    rollouts of an update fit its rows.

    Args:
      exchanges: teacher-written.
      shape: of the batch.
      imitation: how they are rolled out.
      rollouts: how many an update has.

    Raises:
      ValueError: there are dreams, and none is left.
    """
    dreams = [e for e in exchanges if e.is_imitable]
    widths, new = (bucket(_longest_prompt(e)) for e in dreams), imitation.max_new_tokens
    needed = [_rows(shape, width, rollouts, new) for width in widths]
    left = [e for e, rows in zip(dreams, needed) if rows <= shape.batch_size]
    if dreams and not left:
        raise ValueError(
            f"{rollouts} rollouts of an update (seeding.num_prompts x seeding.num_generations) may "
            f"need {min(needed)} rows, more than seeding.batch_size={shape.batch_size}; raise it "
            f"or lower one of the two"
        )
    if len(left) < len(dreams):
        warnings.warn(
            f"{len(dreams) - len(left)} of {len(dreams)} sequences are too long for {rollouts} "
            "rollouts an update and are not rolled out; raise seeding.batch_size or "
            "seeding.max_length to imitate them, too",
            stacklevel=2,
        )
    return left


def _longest_prompt(dream: Exchange) -> int:
    return len(dream.student) + len(dream.completion)


def _rows(shape: BatchShape, prompt_width: int, rollouts: int, new: int) -> int:
    """Rows that an update's rollouts need if all are as long as can be."""
    size = (
        min(
            prompt_width + new - len(shape.shared_prefix),
            shape.max_length - len(shape.shared_prefix),
        ),
        new,
    )
    return len(
        pack(
            [size] * rollouts,
            (shape.max_length - len(shape.shared_prefix), shape.max_target_length),
        )
    )


def written_widths(written: Sequence[Exchange], shape: BatchShape, share: int) -> Widths:
    """Widths that hold sequences which were written before.

    Raises:
      ValueError: the `share` of them that an update learns from may not fit its rows.
    """
    longest = sorted(written, key=lambda e: len(e.student + e.completion))[-share:]
    if (needed := len(packs(longest, shape))) > shape.batch_size:
        raise ValueError(
            f"dreaming.batch_size={share} dreams of an update, with their documents in view, may "
            f"need {needed} rows, more than seeding.batch_size={shape.batch_size}; raise it or "
            f"lower dreaming.batch_size"
        )
    longest = max(len(e.teacher + e.completion) for e in written)
    return Widths(0, bucket(longest))


def play(
    cfg: DecoderConfig,
    tokenizer: Tokenizer,
    judge: Judge,
    imitation: ImitationConfig,
    shape: BatchShape,
    *,
    student,
    initial,
    teachers: Sequence[Teacher],
    dreams: Sequence[Exchange],
    rng,
    widths: Widths,
    value_head=None,
    written: Sequence[Exchange] = (),
    timer: StepTimer = NO_TIMER,
) -> tuple[list[Exchange], list[States], Figures]:
    """Rolls out and scores.

    Args:
      cfg, tokenizer, judge, imitation: as for `roll_out`.
      shape: rows that rollouts are scored in.
      student: collections of the student as it is.
      initial: as it was before the night.
      teachers: for the divergence.
      dreams: to imitate.
      rng: PRNG key.
      widths: of the night.
      value_head: of PPO; None: another estimator.
      written: rollouts that there are already, with their advantages; then none are sampled.
      timer: is told what was `rollout`, `reward` and `score`.

    Returns:
      (rollouts, states, metrics): on-policy exchanges, the states of each, and the figures of
      `roll_out`.
    """
    surrogate = imitation.surrogate
    trunks: list[np.ndarray | None] = []

    def reference(rollouts):
        trunks.extend(trunk_states(cfg, initial, rollouts, shape))
        return score(cfg, initial, rollouts, shape, trunks=trunks)[0]

    rollouts, metrics = list(written), {}
    if not written:
        rollouts, metrics = roll_out(
            cfg,
            student,
            tokenizer,
            judge,
            imitation,
            dreams,
            rng,
            width=widths.prompt,
            reference=reference if surrogate.needs_reference else None,
            timer=timer,
        )
    trunks = trunks or trunk_states(cfg, student, rollouts, shape)
    log_probs, values = score(cfg, student, rollouts, shape, value_head, trunks)
    rollouts = [dataclasses.replace(e, old_log_probs=x) for e, x in zip(rollouts, log_probs)]
    if value_head is not None:
        longest = max(len(e.completion) for e in rollouts)
        rollouts = spread(surrogate, rollouts, values, max(longest, imitation.max_new_tokens))
    states = precompute(
        cfg, student, teachers, rollouts, shape, width=widths.teacher, trunks=trunks
    )
    timer.lap("score")
    return rollouts, states, metrics


def score(
    cfg: DecoderConfig,
    variables,
    exchanges: Sequence[Exchange],
    shape: BatchShape,
    value_head=None,
    trunks: Sequence[np.ndarray | None] | None = None,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """What a student gives every token of the completions: (log-probabilities, values), a list of
    float32 [completion] each; values are 0 without a value head."""
    out: list[np.ndarray] = [None] * len(exchanges)
    states = states_without_teacher(exchanges, trunks or [None] * len(exchanges))
    for packed, batch in batches(exchanges, states, shape):
        scores = to_host(score_rows(cfg, variables, batch, value_head))
        for i, piece in along(exchanges, packed, scores):
            out[i] = piece
    return [x[:, 0] for x in out], [x[:, 1] for x in out]


@jax.jit(static_argnames=("cfg",))
def score_rows(cfg: DecoderConfig, variables, batch: SeedingBatch, value_head):
    """Log-probability and value of every scored token of a batch, [batch, scored, 2]."""
    hidden = scored_hidden(cfg, variables, batch)
    head = lm_head(cfg, variables["params"])
    log_probs = token_log_probs(hidden, flat(batch.targets), flat(batch.mask), head)
    values = jnp.zeros_like(log_probs)
    if value_head is not None:
        values = apply_value_head(value_head, hidden[None])[0]
    return jnp.stack([log_probs, values], axis=-1).reshape(*batch.mask.shape, 2)


def spread(
    surrogate: Surrogate,
    rollouts: Sequence[Exchange],
    values: Sequence[np.ndarray],
    longest: int,
) -> list[Exchange]:
    """Rollouts with the advantages and returns of their tokens (GAE), whitened over the round.

    A completion's reward, `advantage` as it comes in, belongs to its last token, also where it was
    cut off: it was compared with as much of the reference. A k1 penalty is paid token by token.

    Args:
      surrogate: with `gae`.
      rollouts: with `old_log_probs`, and with `reference_log_probs` for a penalty.
      values: of their tokens.
      longest: tokens of the longest completion.
    """
    old, mask = stack([e.old_log_probs for e in rollouts], longest)
    reference, beta = old, 0.0
    if surrogate.needs_reference and surrogate.penalty == "k1":
        beta = surrogate.kl_coef
        reference = stack([e.reference_log_probs for e in rollouts], longest)[0]
    earned = jnp.asarray([e.advantage for e in rollouts])
    rewards = token_rewards(earned, kl_estimate(old, reference, mask, "k1"), mask, beta=beta)
    advantages, returns = gae(rewards, stack(values, longest)[0], mask, lam=surrogate.gae)
    # What learns nothing has no part in the mean and the scale of the others either.
    learns = mask & np.array([e.rewarded for e in rollouts])[:, None]
    parts = map(np.asarray, (whiten(advantages, learns), returns))
    return [
        dataclasses.replace(e, advantage=a[: len(v)], returns=r[: len(v)], old_values=v)
        for e, v, a, r in zip(rollouts, values, *parts)
    ]
