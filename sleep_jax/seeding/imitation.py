"""Learning to imitate (paper 3.3, Eq. 3 and 4): the student completes what its teacher began and is
paid for ending alike.

    r = gamma * r_sem + (1 - gamma) * r_abs

The teacher's sequence is cut at a random place; what follows the cut is scored, never the prefix.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from sleep_jax.data.batches import pad
from sleep_jax.interop.tokenizer import Tokenizer
from sleep_jax.models.config import DecoderConfig
from sleep_jax.rewards.judge import Judge
from sleep_jax.rewards.levenshtein import similarity
from sleep_jax.rl.algorithms import Surrogate
from sleep_jax.sampling.generate import generate
from sleep_jax.sampling.sampler import SamplingConfig
from sleep_jax.seeding.sequences import Exchange


@dataclasses.dataclass(frozen=True)
class ImitationConfig:
    """How the student imitates.

    Attributes:
      gamma: share of r_sem in the reward, in [0, 1].
      group: rollouts per prefix.
      cut: range of the share of a sequence that is given as its prefix.
      threshold: z0 of Eq. 4 as a share of the longer continuation.
      max_new_tokens: longest rollout.
      surrogate: says how rewards become advantages and which rollouts learn.
    """

    gamma: float = 0.5
    group: int = 8
    cut: tuple[float, float] = (0.1, 0.9)
    threshold: float = 0.5
    max_new_tokens: int = 32
    surrogate: Surrogate = dataclasses.field(default_factory=Surrogate)

    def __post_init__(self):
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"seeding.gamma={self.gamma}; it must lie in [0, 1]")
        if not 0 <= self.cut[0] <= self.cut[1] <= 1:
            raise ValueError(f"seeding.cut={self.cut}; give 0 <= low <= high <= 1")
        if self.group < 2:
            raise ValueError(f"seeding.group={self.group}; a group is compared, give at least 2")


_similarity = jax.jit(similarity, static_argnames=("threshold", "relative"))


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
    candidates, references, eos_ids, *, threshold: float, max_tokens: int
) -> np.ndarray:
    """r_abs of Eq. 4 for pairs of sequences of at most `max_tokens`: float32 [pairs].

    Ends of turn are stripped; `threshold` is z0 as a share of the longer one.
    """
    strip = functools.partial(filter, lambda t: t not in eos_ids)
    pairs = [[tuple(strip(side)) for side in pair] for pair in zip(candidates, references)]
    a, a_mask = pad([p[0] for p in pairs], max_tokens)
    b, b_mask = pad([p[1] for p in pairs], max_tokens)
    return np.asarray(
        _similarity(a, a_mask.sum(1), b, b_mask.sum(1), threshold=threshold, relative=True)
    )


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
) -> tuple[list[Exchange], dict[str, float]]:
    """Lets the student complete teacher-written sequences and rewards it.

    Args:
      cfg, variables: the student.
      tokenizer: to show the judge words.
      judge: r_sem.
      imitation: how.
      dreams: sequences to imitate, of two tokens or more.
      rng: PRNG key.
      width: tokens that prompts are padded to: those of the longest dream that may come.

    Returns:
      (rollouts, metrics): `imitation.group` on-policy exchanges a dream with their advantages, next
      to each other; and the means reward, reward_sem, reward_abs, tied (share of groups whose
      rewards are all equal) and rollout_length.
    """
    cut_key, sample_key = jax.random.split(rng)
    low, high = imitation.cut
    shares = np.asarray(jax.random.uniform(cut_key, (len(dreams),), minval=low, maxval=high))
    begun, rest = zip(*(split(d, float(s)) for d, s in zip(dreams, shares)))
    sampling = SamplingConfig(
        imitation.max_new_tokens, tokenizer.eos_ids, temperature=1.0, group=imitation.group
    )
    drawn = generate(cfg, sampling, variables, [e.student for e in begun], sample_key, width=width)
    written = [c for group in drawn for c in group]
    # A rollout that ran into its limit is compared with as much of the reference.
    wanted = [r[: imitation.max_new_tokens] for r in rest for _ in range(imitation.group)]
    r_abs = absolute_reward(
        [c.tokens for c in written],
        wanted,
        tokenizer.eos_ids,
        threshold=imitation.threshold,
        max_tokens=imitation.max_new_tokens,
    )
    r_sem = judge(
        [tokenizer.decode(c.tokens) for c in written], [tokenizer.decode(w) for w in wanted]
    )
    reward = imitation.gamma * r_sem + (1 - imitation.gamma) * r_abs
    advantages, tied = imitation.surrogate.advantages(jnp.asarray(reward).reshape(len(dreams), -1))
    finished = jnp.asarray([c.finished for c in written])
    ones = jnp.ones((len(written), 1), bool)
    learns = np.asarray(imitation.surrogate.mask(ones, tied, finished))[:, 0]
    rollouts = [
        dataclasses.replace(
            begun[i // imitation.group],
            completion=c.tokens,
            log_probs=c.log_probs,
            kind="rollout",
            on_policy=True,
            advantage=float(advantage),
            rewarded=bool(learns[i]),
        )
        for i, (c, advantage) in enumerate(zip(written, np.asarray(advantages).reshape(-1)))
    ]
    metrics = {
        "reward": reward.mean(),
        "reward_sem": r_sem.mean(),
        "reward_abs": r_abs.mean(),
        "tied": np.mean(tied),
        "rollout_length": np.mean([len(c.tokens) for c in written]),
    }
    return rollouts, {name: float(value) for name, value in metrics.items()}
