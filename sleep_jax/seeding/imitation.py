"""The imitation reward (paper 3.3, Eq. 3 and 4): the student continues a prefix of its teacher's
sequence and is rewarded for continuing it alike.

    r = gamma * r_sem + (1 - gamma) * r_abs

The teacher's sequence is cut at a random place; only what follows the cut is compared.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from sleep_jax.data.batches import bucket, pad
from sleep_jax.interop.tokenizer import Tokenizer
from sleep_jax.rewards.judge import Judge
from sleep_jax.rewards.levenshtein import similarity
from sleep_jax.rl.algorithms import Surrogate, surrogate
from sleep_jax.sampling.sampler import MIN_TEMPERATURE
from sleep_jax.seeding.sequences import Exchange
from sleep_jax.settings import Settings, part, setting

UNITS = ("tokens", "characters")


@dataclasses.dataclass(frozen=True)
class ImitationConfig(Settings, section="seeding"):
    """How rollouts are sampled and rewarded.

    Attributes:
      surrogate: says how rewards become advantages and which rollouts are learnt from.

    Raises:
      ValueError: a field is out of range.
    """

    gamma: float = setting(0.5, "share of r_sem in the reward (Eq. 3)", least=0, most=1)
    num_generations: int = setting(8, "rollouts per prefix, which are compared", least=2)
    prefix_range: tuple[float, float] = setting(
        (0.1, 0.9), "range of the share of a sequence that is given as its prefix", least=0, most=1
    )
    prefix_beta: tuple[float, float] = setting(
        (1.0, 1.0), "(a, b) of the Beta distribution of that share over its range; (1, 1): uniform",
        least=1e-3, most=1e6,
    )  # fmt: skip
    threshold: float = setting(0.5, "z0 of Eq. 4: distance beyond which r_abs is 0", least=0)
    is_relative: bool = setting(True, "z0 is a share of the longer continuation, not edits")
    unit: str = setting("tokens", "what r_abs counts", choices=UNITS)
    max_new_tokens: int = setting(32, "longest rollout, in tokens", least=1)
    temperature: float = setting(
        1.0,
        "temperature of rollouts; above 0, since rollouts of a group must differ",
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
        if self.prefix_range[0] > self.prefix_range[1]:
            raise ValueError(
                f"seeding.prefix_range={self.prefix_range}; give the lower share first"
            )


def prefix_shares(imitation: ImitationConfig, rng, count: int) -> np.ndarray:
    """Shares of their sequences that prefixes have, drawn at random: float [count]."""
    low, high = imitation.prefix_range
    if imitation.prefix_beta == (1, 1):
        return np.asarray(jax.random.uniform(rng, (count,), minval=low, maxval=high))
    return low + (high - low) * np.asarray(jax.random.beta(rng, *imitation.prefix_beta, (count,)))


def split_prefix(
    dream: Exchange, share: float, thought: int = 0
) -> tuple[Exchange, tuple[int, ...]]:
    """Cuts a completion at a share of its length, at least one token on each side.

    Args:
      dream: with a completion of two tokens or more.
      share: of the completion without its thought, in [0, 1].
      thought: tokens of the completion before the reply; they belong to the prefix.

    Returns:
      (prompt, reference): the exchange with the prefix moved into both prompts and no completion,
      and the tokens after the cut.
    """
    n = len(dream.completion)
    cut = min(thought + max(1, round(share * (n - thought))), n - 1)
    prefix, reference = dream.completion[:cut], dream.completion[cut:]
    prompt = dataclasses.replace(
        dream, student=dream.student + prefix, teacher=dream.teacher + prefix, completion=()
    )
    return prompt, reference


_similarity = jax.jit(similarity, static_argnames=("threshold", "relative"))


def absolute_reward(
    candidates, references, eos_ids, *, threshold: float, max_tokens: int, relative: bool = True
) -> np.ndarray:
    """r_abs of Eq. 4.

    Args:
      candidates, references: pairs of token sequences of at most `max_tokens`.
      eos_ids: end-of-turn tokens, which are left out of both.
      threshold: z0; with `relative` a share of the longer sequence, else edits.
      max_tokens: that sequences are padded to.
      relative: see `threshold`.

    Returns:
      float32 [pairs] in [0, 1].
    """

    def padded(sequences):
        return pad([tuple(t for t in x if t not in eos_ids) for x in sequences], max_tokens)

    (a, a_mask), (b, b_mask) = padded(candidates), padded(references)
    return np.asarray(
        _similarity(a, a_mask.sum(1), b, b_mask.sum(1), threshold=threshold, relative=relative)
    )


class ImitationRewards(NamedTuple):
    """Rewards of rollouts, [rollouts] each, and the texts that they come from.

    Attributes:
      total, semantic, absolute: r, r_sem and r_abs of Eq. 3.
      candidates, references: decoded.
    """

    total: np.ndarray
    semantic: np.ndarray
    absolute: np.ndarray
    candidates: list[str]
    references: list[str]


def imitation_rewards(
    imitation: ImitationConfig,
    tokenizer: Tokenizer,
    judge: Judge,
    candidates: Sequence[Sequence[int]],
    references: Sequence[Sequence[int]],
) -> ImitationRewards:
    """Eq. 3 for pairs of token sequences.

    Args:
      imitation: its gamma, threshold and unit.
      tokenizer: decodes what the judge reads.
      judge: r_sem of pairs of texts.
      candidates: what the student wrote.
      references: what its teacher wrote, as far as it is compared.
    """
    texts = [[tokenizer.decode(tokens) for tokens in side] for side in (candidates, references)]
    if imitation.unit == "characters":
        pairs, eos_ids = [[tuple(map(ord, text)) for text in side] for side in texts], ()
    elif imitation.unit == "tokens":
        pairs, eos_ids = (candidates, references), tokenizer.eos_ids
    else:
        raise ValueError(f"seeding.unit={imitation.unit!r}; choose from {', '.join(UNITS)}")
    longest = max(len(sequence) for side in pairs for sequence in side)
    absolute = absolute_reward(
        *pairs,
        eos_ids,
        threshold=imitation.threshold,
        max_tokens=bucket(max(longest, imitation.max_new_tokens)),
        relative=imitation.is_relative,
    )
    semantic = judge(*texts)
    total = imitation.gamma * semantic + (1 - imitation.gamma) * absolute
    return ImitationRewards(total, semantic, absolute, *texts)
