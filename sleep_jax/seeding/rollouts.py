"""A round of rollouts: the student continues dreams and is rewarded, and all that the coming
updates compare it with is computed while the slot is still the one that sampled.

    sampler     log-probabilities of the tokens when they were sampled
    old         those of the scorer under the same slot: what ratios start from. The sampler is
                another program, over a cache, and differs numerically from the policy that learns
    reference   those of the student before the night, for a KL penalty
    values      of a value head, for PPO: a completion's reward becomes advantages of its tokens
    teachers    hidden states, for the divergence
    trunk       of the student, from which all of these and the updates continue
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sleep_jax.interop.tokenizer import Tokenizer
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.rewards.judge import Judge
from sleep_jax.rl.algorithms import Surrogate
from sleep_jax.rl.kl import kl_estimate
from sleep_jax.rl.ppo import gae, token_rewards, whiten
from sleep_jax.sampling.generate import generate
from sleep_jax.sampling.sampler import SamplingConfig
from sleep_jax.seeding.imitation import (
    ImitationConfig,
    ImitationRewards,
    imitation_rewards,
    prefix_shares,
    split_prefix,
)
from sleep_jax.seeding.rollout_scores import score_completions
from sleep_jax.seeding.sequences import (
    BatchShape,
    Exchange,
    HiddenStates,
    Teacher,
)
from sleep_jax.seeding.trunk import precompute, trunk_states
from sleep_jax.services import NO_TIMER, Figures, StepTimer

# Log-probabilities of completions under a reference policy, float32 [completion] each.
Reference = Callable[[list[Exchange]], list[np.ndarray]]


class PadWidths(NamedTuple):
    """Tokens that rows of a round are padded to: prompts of rollouts, and a teacher's sequences."""

    prompt: int
    teacher: int


def collect_rollouts(
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
    widths: PadWidths,
    value_head=None,
    written: Sequence[Exchange] = (),
    timer: StepTimer = NO_TIMER,
) -> tuple[list[Exchange], list[HiddenStates], Figures]:
    """Samples a round of rollouts and scores it.

    Args:
      cfg, tokenizer, judge, imitation: as for `sample_rollouts`.
      shape: of the batches that rollouts are scored in.
      student: its collections.
      initial: the student's collections before the night.
      teachers: for the divergence.
      dreams: teacher-written sequences to imitate.
      rng: PRNG key.
      widths: of the night.
      value_head: of PPO; None: another estimator.
      written: rollouts with advantages that exist already; then none are sampled.
      timer: is given the laps `rollout`, `reward` and `score`.

    Returns:
      (rollouts, states, metrics): on-policy exchanges, the hidden states of each, and the figures
      of `sample_rollouts`; {} if none were sampled.
    """
    surrogate = imitation.surrogate
    trunks: list[np.ndarray | None] = []

    def reference(rollouts):
        trunks.extend(trunk_states(cfg, initial, rollouts, shape))
        return score_completions(cfg, initial, rollouts, shape, trunks=trunks)[0]

    rollouts, metrics = list(written), {}
    if not written:
        rollouts, metrics = sample_rollouts(
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
    log_probs, values = score_completions(cfg, student, rollouts, shape, value_head, trunks)
    rollouts = [dataclasses.replace(e, old_log_probs=x) for e, x in zip(rollouts, log_probs)]
    if value_head is not None:
        longest = max(len(e.completion) for e in rollouts)
        longest = max(longest, imitation.max_new_tokens)
        rollouts = with_token_advantages(surrogate, rollouts, values, longest)
    states = precompute(
        cfg, student, teachers, rollouts, shape, width=widths.teacher, trunks=trunks
    )
    timer.lap("score")
    return rollouts, states, metrics


def sample_rollouts(
    cfg: DecoderConfig,
    variables,
    tokenizer: Tokenizer,
    judge: Judge,
    imitation: ImitationConfig,
    dreams: Sequence[Exchange],
    rng,
    *,
    width: int,
    reference: Reference | None = None,
    timer: StepTimer = NO_TIMER,
) -> tuple[list[Exchange], Figures]:
    """Lets the student continue prefixes of teacher-written sequences and rewards it.

    Args:
      cfg, variables: the student.
      tokenizer: decodes what the judge reads.
      judge: r_sem.
      imitation: how to cut, sample and reward.
      dreams: sequences to imitate, of two tokens or more.
      rng: PRNG key.
      width: tokens that prompts are padded to: as many as the longest prompt of the night has.
      reference: scores completions under the reference of the KL penalty; None: no penalty.
      timer: is given the laps `rollout` and `reward`.

    Returns:
      (rollouts, metrics): `imitation.num_generations` on-policy exchanges a dream with their
      advantages, next to each other; and the means reward, reward_sem, reward_abs, tied (share of
      groups whose rewards are all equal), rollout_length (tokens) and rollout_unfinished (share of
      those cut off); the lists rollout_rewards and rollout_advantages; rollout, the best and the
      worst of the first dream as markdown.
    """
    cut_key, sample_key = jax.random.split(rng)
    shares = prefix_shares(imitation, cut_key, len(dreams))
    thoughts = [tokenizer.reply_start(d.completion) for d in dreams]
    splits = (split_prefix(d, float(s), n) for d, s, n in zip(dreams, shares, thoughts))
    prompts, references = zip(*splits)
    sampling = SamplingConfig(
        imitation.max_new_tokens,
        tokenizer.eos_ids,
        temperature=imitation.temperature,
        top_p=imitation.top_p,
        num_generations=imitation.num_generations,
    )
    groups = generate(
        cfg, sampling, variables, [e.student for e in prompts], sample_key, width=width
    )
    timer.lap("rollout")
    completions = [c for group in groups for c in group]
    # A completion that ended by itself is compared with the whole reference, one that was cut off
    # with as much of it.
    compared = [
        reference if c.finished else reference[: imitation.max_new_tokens]
        for reference, group in zip(references, groups)
        for c in group
    ]
    candidates = [c.tokens for c in completions]
    rewards = imitation_rewards(imitation, tokenizer, judge, candidates, compared)
    timer.lap("reward")
    rollouts = [
        dataclasses.replace(
            prompts[i // imitation.num_generations],
            completion=c.tokens,
            log_probs=c.log_probs,
            kind="rollout",
            on_policy=True,
        )
        for i, c in enumerate(completions)
    ]
    finished = jnp.asarray([c.finished for c in completions])
    rollouts, tied = _with_advantages(imitation, rollouts, rewards.total, finished, reference)
    metrics = {
        "reward": rewards.total.mean(),
        "reward_sem": rewards.semantic.mean(),
        "reward_abs": rewards.absolute.mean(),
        "tied": np.mean(tied),
        "rollout_length": np.mean([len(c.tokens) for c in completions]),
        "rollout_unfinished": 1 - np.mean(finished),
    }
    prefix = tokenizer.decode(dreams[0].completion[: -len(references[0])])
    details = {
        "rollout_rewards": [float(x) for x in rewards.total],
        "rollout_advantages": [e.advantage for e in rollouts],
        "rollout": _best_and_worst(prefix, rewards, imitation.num_generations),
    }
    return rollouts, {name: float(value) for name, value in metrics.items()} | details


def _with_advantages(
    imitation: ImitationConfig,
    rollouts: list[Exchange],
    reward: np.ndarray,
    finished: jax.Array,
    reference: Reference | None,
) -> tuple[list[Exchange], jax.Array]:
    """Rollouts with the advantages of their completions.

    Args:
      imitation: its surrogate and group size.
      rollouts: those of a dream next to each other.
      reward: float [rollouts].
      finished: bool [rollouts], the completion ended by itself.
      reference: as for `sample_rollouts`.

    Returns:
      (rollouts, tied): tied bool [dreams].
    """
    surrogate, penalised_reward = imitation.surrogate, jnp.asarray(reward)
    if reference is not None:
        scores, length = reference(rollouts), imitation.max_new_tokens
        rollouts = [dataclasses.replace(e, reference_log_probs=x) for e, x in zip(rollouts, scores)]
        log_probs, mask = pad_floats([e.log_probs for e in rollouts], length)
        penalised_reward = surrogate.penalised_reward(
            penalised_reward, log_probs, pad_floats(scores, length)[0], mask
        )
    advantages, tied = surrogate.advantages(penalised_reward.reshape(-1, imitation.num_generations))
    ones = jnp.ones((len(rollouts), 1), bool)
    learnt = np.asarray(surrogate.learning_mask(ones, tied, finished))[:, 0]
    rollouts = [
        dataclasses.replace(e, advantage=float(advantage), rewarded=bool(is_learnt))
        for e, advantage, is_learnt in zip(rollouts, np.ravel(advantages), learnt)
    ]
    return rollouts, tied


def _best_and_worst(prefix: str, rewards: ImitationRewards, count: int) -> str:
    """The best and the worst of the first `count` rollouts, which share a prefix, as markdown."""
    reward = rewards.total[:count]
    lines = [f"> {prefix.strip()} ..."]
    for i in dict.fromkeys((int(np.argmax(reward)), int(np.argmin(reward)))):
        lines.append(f"{reward[i]:.2f} for: {rewards.candidates[i].strip()}")
    return "\n\n".join([*lines, f"reference: {rewards.references[0].strip()}"])


def pad_floats(rows: Sequence[np.ndarray], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Ragged rows of floats as (float32 [rows, length], bool mask of the same shape)."""
    out, mask = np.zeros((len(rows), length), np.float32), np.zeros((len(rows), length), bool)
    for i, row in enumerate(rows):
        out[i, : len(row)], mask[i, : len(row)] = row, True
    return out, mask


def with_token_advantages(
    surrogate: Surrogate,
    rollouts: Sequence[Exchange],
    values: Sequence[np.ndarray],
    longest: int,
) -> list[Exchange]:
    """Rollouts with the advantages and returns of their tokens (GAE), whitened over the round.

    A completion's reward, its `advantage` so far, belongs to its last token, even where it was cut
    off: it was compared with as much of the reference. A k1 penalty is subtracted token by token.

    Args:
      surrogate: with `gae`.
      rollouts: with `old_log_probs`, and with `reference_log_probs` for a penalty.
      values: of their tokens, float32 [completion] each.
      longest: tokens that completions are padded to.
    """
    old, mask = pad_floats([e.old_log_probs for e in rollouts], longest)
    reference, beta = old, 0.0
    if surrogate.needs_reference and surrogate.kl_estimator == "k1":
        beta = surrogate.kl_coef
        reference = pad_floats([e.reference_log_probs for e in rollouts], longest)[0]
    scores = jnp.asarray([e.advantage for e in rollouts])
    rewards = token_rewards(scores, kl_estimate(old, reference, mask, "k1"), mask, beta=beta)
    advantages, returns = gae(rewards, pad_floats(values, longest)[0], mask, lam=surrogate.gae)
    # Rollouts that are not learnt from must not enter the mean and the scale of the others.
    learnt = mask & np.array([e.rewarded for e in rollouts])[:, None]
    rows = map(np.asarray, (whiten(advantages, learnt), returns))
    return [
        dataclasses.replace(e, advantage=a[: len(v)], returns=r[: len(v)], old_values=v)
        for e, v, a, r in zip(rollouts, values, *rows)
    ]
