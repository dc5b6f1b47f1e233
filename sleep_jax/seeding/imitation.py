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
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.rewards.judge import Judge
from sleep_jax.rewards.levenshtein import similarity
from sleep_jax.rl.algorithms import Surrogate, surrogate
from sleep_jax.sampling.generate import generate
from sleep_jax.sampling.sampler import MIN_TEMPERATURE, SamplingConfig
from sleep_jax.seeding.sequences import Exchange
from sleep_jax.seeding.update_log import NO_TIMER, Figures, StepTimer
from sleep_jax.settings import Settings, part, setting

UNITS = ("tokens", "characters")


@dataclasses.dataclass(frozen=True)
class ImitationConfig(Settings, section="seeding"):
    """How the student imitates.

    Attributes:
      surrogate: says how rewards become advantages and which rollouts learn.

    Raises:
      ValueError: a field has no such value.
    """

    gamma: float = setting(0.5, "share of r_sem in the reward (Eq. 3)", least=0, most=1)
    num_generations: int = setting(8, "rollouts per prefix, which are compared", least=2)
    cut: tuple[float, float] = setting(
        (0.1, 0.9), "range of the share of a sequence that is given as its prefix", least=0, most=1
    )
    cut_beta: tuple[float, float] = setting(
        (1.0, 1.0), "the Beta law of that share over its range; (1, 1) is uniform",
        least=1e-3, most=1e6,
    )  # fmt: skip
    threshold: float = setting(0.5, "z0 of Eq. 4: distance beyond which r_abs is 0", least=0)
    is_relative: bool = setting(True, "z0 is a share of the longer continuation, not edits")
    unit: str = setting("tokens", "what r_abs counts", choices=UNITS)
    max_new_tokens: int = setting(32, "longest rollout, in tokens", least=1)
    temperature: float = setting(
        1.0,
        "temperature of rollouts; a group needs chance",
        least=MIN_TEMPERATURE,
        name="rollout_temperature",
    )
    top_p: float = setting(
        1.0,
        "mass of the likeliest tokens that rollouts are drawn from",
        least=1e-6,
        most=1,
        name="rollout_top_p",
    )
    surrogate: Surrogate = part(Surrogate, surrogate)

    def check(self) -> None:
        if self.cut[0] > self.cut[1]:
            raise ValueError(f"seeding.cut={self.cut}; give the lower share first")


_similarity = jax.jit(similarity, static_argnames=("threshold", "relative"))


def shares(imitation: ImitationConfig, rng, count: int) -> np.ndarray:
    """Where sequences are cut: `count` shares of their lengths."""
    low, high = imitation.cut
    if imitation.cut_beta == (1, 1):
        return np.asarray(jax.random.uniform(rng, (count,), minval=low, maxval=high))
    return low + (high - low) * np.asarray(jax.random.beta(rng, *imitation.cut_beta, (count,)))


def split(dream: Exchange, share: float, thought: int = 0) -> tuple[Exchange, tuple[int, ...]]:
    """A sequence cut at a share of its length, at least one token on each side; its first `thought`
    tokens, what is thought before the reply, are given and do not count.

    Returns:
      (begun, rest): the exchange with the prefix moved into both prompts and no completion, and the
      tokens after the cut.
    """
    n = len(dream.completion)
    at = min(thought + max(1, round(share * (n - thought))), n - 1)
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
    timer: StepTimer = NO_TIMER,
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
      timer: is told what was `rollout` and what `reward`.

    Returns:
      (rollouts, metrics): `imitation.num_generations` on-policy exchanges a dream with their
      advantages, next to each other; and the means reward, reward_sem, reward_abs, tied (share of
      groups whose rewards are all equal), rollout_length and rollout_unfinished (share of those cut
      off); the lists rollout_rewards and rollout_advantages; rollout, the best and the worst of the
      first dream in words.
    """
    cut_key, sample_key = jax.random.split(rng)
    at = shares(imitation, cut_key, len(dreams))
    thoughts = [tokenizer.reply_start(d.completion) for d in dreams]
    begun, rest = zip(*(split(d, float(s), n) for d, s, n in zip(dreams, at, thoughts)))
    sampling = SamplingConfig(
        imitation.max_new_tokens,
        tokenizer.eos_ids,
        temperature=imitation.temperature,
        top_p=imitation.top_p,
        num_generations=imitation.num_generations,
    )
    drawn = generate(cfg, sampling, variables, [e.student for e in begun], sample_key, width=width)
    timer.lap("rollout")
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
    timer.lap("reward")
    rollouts = [
        dataclasses.replace(
            begun[i // imitation.num_generations],
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
        "rollout": sample(prefix, *texts, reward[: imitation.num_generations]),
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
