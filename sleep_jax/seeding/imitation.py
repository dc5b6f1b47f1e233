"""Learning to imitate (paper 3.3, Eq. 3 and 4): the student completes what its teacher began and is
paid for ending alike.

    r = gamma * r_sem + (1 - gamma) * r_abs

The teacher's sequence is cut at a random place; what follows the cut is scored, never the prefix.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from sleep_jax.data.batches import bucket, pad
from sleep_jax.interop.tokenizer import Tokenizer
from sleep_jax.models.config import DecoderConfig
from sleep_jax.rewards.judge import Judge
from sleep_jax.rewards.levenshtein import similarity
from sleep_jax.rl.algorithms import Surrogate
from sleep_jax.sampling.generate import generate
from sleep_jax.sampling.sampler import SamplingConfig
from sleep_jax.seeding.record import UNMEASURED, Figures, Meter
from sleep_jax.seeding.sequences import Exchange

UNITS = ("tokens", "characters")


@dataclasses.dataclass(frozen=True)
class ImitationConfig:
    """How the student imitates.

    Attributes:
      gamma: share of r_sem in the reward, in [0, 1].
      group: rollouts per prefix.
      cut: range of the share of a sequence that is given as its prefix.
      cut_beta: the two parameters of the Beta law of that share over its range; (1, 1) is uniform.
      threshold: z0 of Eq. 4.
      is_relative: z0 is a share of the longer continuation, not a number of edits.
      unit: what r_abs compares: tokens or characters.
      max_new_tokens: longest rollout.
      temperature, top_p: of the sampling.
      surrogate: says how rewards become advantages and which rollouts learn.
    """

    gamma: float = 0.5
    group: int = 8
    cut: tuple[float, float] = (0.1, 0.9)
    cut_beta: tuple[float, float] = (1.0, 1.0)
    threshold: float = 0.5
    is_relative: bool = True
    unit: str = "tokens"
    max_new_tokens: int = 32
    temperature: float = 1.0
    top_p: float = 1.0
    surrogate: Surrogate = dataclasses.field(default_factory=Surrogate)

    def __post_init__(self):
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"seeding.gamma={self.gamma}; it must lie in [0, 1]")
        if not 0 <= self.cut[0] <= self.cut[1] <= 1:
            raise ValueError(f"seeding.cut={self.cut}; give 0 <= low <= high <= 1")
        if not min(self.cut_beta) > 0:
            raise ValueError(
                f"seeding.cut_beta={self.cut_beta}; give two numbers above 0: (1, 1) is uniform"
            )
        if not self.threshold >= 0:
            raise ValueError(f"seeding.threshold={self.threshold}; z0 is 0 or above")
        if self.unit not in UNITS:
            raise ValueError(f"seeding.unit={self.unit!r}; choose from {', '.join(UNITS)}")
        if not self.temperature > 0:
            raise ValueError(
                f"seeding.rollout_temperature={self.temperature}; a group needs chance: give more "
                "than 0"
            )
        if self.group < 2:
            raise ValueError(f"seeding.group={self.group}; a group is compared, give at least 2")


_similarity = jax.jit(similarity, static_argnames=("threshold", "relative"))


def shares(imitation: ImitationConfig, rng, count: int) -> np.ndarray:
    """Where sequences are cut: `count` shares of their lengths."""
    low, high = imitation.cut
    if imitation.cut_beta == (1, 1):
        return np.asarray(jax.random.uniform(rng, (count,), minval=low, maxval=high))
    return low + (high - low) * np.asarray(jax.random.beta(rng, *imitation.cut_beta, (count,)))


def split(dream: Exchange, share: float) -> tuple[Exchange, tuple[int, ...]]:
    """A sequence cut at a share of its length, at least one token on each side.

    Returns:
      (begun, rest): the exchange with the prefix moved into both prompts and no completion, and the
      tokens after the cut.
    """
    n = len(dream.completion)
    at = min(max(1, round(share * n)), n - 1)
    prefix, rest = dream.completion[:at], dream.completion[at:]
    begun = dataclasses.replace(
        dream, student=dream.student + prefix, teacher=dream.teacher + prefix, completion=()
    )
    return begun, rest


def absolute_reward(
    candidates, references, eos_ids, *, threshold: float, max_tokens: int, relative: bool = True
) -> np.ndarray:
    """r_abs of Eq. 4 for pairs of sequences of at most `max_tokens`: float32 [pairs].

    Ends of turn are stripped; `threshold` is z0, if `relative` as a share of the longer one.
    """
    strip = functools.partial(filter, lambda t: t not in eos_ids)
    pairs = [[tuple(strip(side)) for side in pair] for pair in zip(candidates, references)]
    a, a_mask = pad([p[0] for p in pairs], max_tokens)
    b, b_mask = pad([p[1] for p in pairs], max_tokens)
    return np.asarray(
        _similarity(a, a_mask.sum(1), b, b_mask.sum(1), threshold=threshold, relative=relative)
    )


def _absolute(imitation: ImitationConfig, tokens, texts, eos_ids) -> np.ndarray:
    """r_abs of what was written against what was wanted, in the unit that the config names."""
    match imitation.unit:
        case "tokens":
            pairs = tokens
        case "characters":
            pairs, eos_ids = [[tuple(map(ord, text)) for text in side] for side in texts], ()
        case unit:
            raise ValueError(f"seeding.unit={unit!r}; choose from {', '.join(UNITS)}")
    longest = max(len(sequence) for side in pairs for sequence in side)
    return absolute_reward(
        *pairs,
        eos_ids,
        threshold=imitation.threshold,
        max_tokens=bucket(max(longest, imitation.max_new_tokens)),
        relative=imitation.is_relative,
    )


def stack(rows: Sequence[np.ndarray], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Ragged rows of floats as (float32 [rows, length], bool mask of the same shape)."""
    out, mask = np.zeros((len(rows), length), np.float32), np.zeros((len(rows), length), bool)
    for i, row in enumerate(rows):
        out[i, : len(row)], mask[i, : len(row)] = row, True
    return out, mask


def roll_out(
    cfg: DecoderConfig,
    variables,
    tokenizer: Tokenizer,
    judge: Judge,
    imitation: ImitationConfig,
    dreams: Sequence[Exchange],
    rng,
    *,
    width: int,
    reference: Callable[[list[Exchange]], list[np.ndarray]] | None = None,
    meter: Meter = UNMEASURED,
) -> tuple[list[Exchange], Figures]:
    """Lets the student complete teacher-written sequences and rewards it.

    Args:
      cfg, variables: the student.
      tokenizer: to show the judge words.
      judge: r_sem.
      imitation: how.
      dreams: sequences to imitate, of two tokens or more.
      rng: PRNG key.
      width: tokens that prompts are padded to: those of the longest dream that may come.
      reference: log-probabilities of completions under the reference of `surrogate.penalty`.
      meter: is told what was `rollout` and what `reward`.

    Returns:
      (rollouts, metrics): `imitation.group` on-policy exchanges a dream with their advantages, next
      to each other; and the means reward, reward_sem, reward_abs, tied (share of groups whose
      rewards are all equal), rollout_length and rollout_unfinished (share of those cut off); the
      lists rollout_rewards and rollout_advantages; rollout, the best and the worst of the first
      dream in words.
    """
    cut_key, sample_key = jax.random.split(rng)
    at = shares(imitation, cut_key, len(dreams))
    begun, rest = zip(*(split(d, float(s)) for d, s in zip(dreams, at)))
    sampling = SamplingConfig(
        imitation.max_new_tokens,
        tokenizer.eos_ids,
        temperature=imitation.temperature,
        top_p=imitation.top_p,
        group=imitation.group,
    )
    drawn = generate(cfg, sampling, variables, [e.student for e in begun], sample_key, width=width)
    meter.lap("rollout")
    written = [c for group in drawn for c in group]
    # What ended by itself is compared with the whole reference, what ran into its limit with as
    # much of it.
    wanted = [
        r if c.finished else r[: imitation.max_new_tokens]
        for r, group in zip(rest, drawn)
        for c in group
    ]
    spoken = [c.tokens for c in written]
    texts = [[tokenizer.decode(tokens) for tokens in side] for side in (spoken, wanted)]
    r_abs = _absolute(imitation, (spoken, wanted), texts, tokenizer.eos_ids)
    r_sem = judge(*texts)
    reward = imitation.gamma * r_sem + (1 - imitation.gamma) * r_abs
    meter.lap("reward")
    rollouts = [
        dataclasses.replace(
            begun[i // imitation.group],
            completion=c.tokens,
            log_probs=c.log_probs,
            kind="rollout",
            on_policy=True,
        )
        for i, c in enumerate(written)
    ]
    paid, surrogate = jnp.asarray(reward), imitation.surrogate
    if reference is not None:
        known = reference(rollouts)
        rollouts = [dataclasses.replace(e, reference_log_probs=x) for e, x in zip(rollouts, known)]
        log_probs, mask = stack([e.log_probs for e in rollouts], imitation.max_new_tokens)
        paid = surrogate.rewards(paid, log_probs, stack(known, imitation.max_new_tokens)[0], mask)
    advantages, tied = surrogate.advantages(paid.reshape(len(dreams), -1))
    finished = jnp.asarray([c.finished for c in written])
    ones = jnp.ones((len(written), 1), bool)
    learns = np.asarray(surrogate.mask(ones, tied, finished))[:, 0]
    rollouts = [
        dataclasses.replace(e, advantage=float(advantage), rewarded=bool(is_rewarded))
        for e, advantage, is_rewarded in zip(rollouts, np.ravel(advantages), learns)
    ]
    metrics = {
        "reward": reward.mean(),
        "reward_sem": r_sem.mean(),
        "reward_abs": r_abs.mean(),
        "tied": np.mean(tied),
        "rollout_length": np.mean([len(c.tokens) for c in written]),
        "rollout_unfinished": 1 - np.mean(finished),
    }
    prefix = tokenizer.decode(dreams[0].completion[: -len(rest[0])])
    shown = {
        "rollout_rewards": [float(x) for x in reward],
        "rollout_advantages": [float(x) for x in np.ravel(advantages)],
        "rollout": sample(prefix, *texts, reward[: imitation.group]),
    }
    return rollouts, {name: float(value) for name, value in metrics.items()} | shown


def sample(
    prefix: str, spoken: Sequence[str], wanted: Sequence[str], reward: Sequence[float]
) -> str:
    """The best and the worst of the rollouts of one prefix, as markdown.

    Args:
      prefix: what they complete.
      spoken, wanted: what the student and its teacher wrote after it, the teacher's as far as it
        was compared.
      reward: of each.
    """
    lines = [f"> {prefix.strip()} ..."]
    for i in dict.fromkeys((int(np.argmax(reward)), int(np.argmin(reward)))):
        lines.append(f"{reward[i]:.2f} for: {spoken[i].strip()}")
    return "\n\n".join([*lines, f"wanted: {wanted[0].strip()}"])
