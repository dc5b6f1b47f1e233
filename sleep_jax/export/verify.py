"""Compares an export with its run: the same prompts, greedy replies and log-probabilities.

The distance is the mean of |log p - log p'| over the tokens of the run's replies. Two programs
never round alike, and the export may be in another precision than the run. So the same distance is
measured for the base, which no export has touched: the model without memory in this program, and
the export with its added units set to zero in the other, on the same tokens. That is the noise
floor. An export is refused whose distance is more than twice the floor, unless it was quantized:
then what that costs is said, and refused where it is more than a coarse type ever costs.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from sleep_jax.export.programs import OwnProgram, Program
from sleep_jax.export.run_model import RunModel

FACTOR = 2.0  # of the noise floor
TINY = 1e-5  # nats a token: the rounding of log-probabilities themselves
QUANTIZED = 0.5  # nats a token
EQUAL_REPLIES = {"float32": 0.99}  # share; a tie may break otherwise in another program
MOST_SCORED = 40  # replies whose tokens are scored
SOME_REPLIES = 0.25  # in other precisions, where a reply goes on otherwise after its first tie


@dataclasses.dataclass(frozen=True)
class Answers:
    """What a model answers.

    Attributes:
      name: of the program.
      prompts, replies: token ids, a reply with the token that ended it.
      log_probs, base_log_probs: of the tokens of `scored` of the run's replies, by the model and
        by its base.
    """

    name: str
    prompts: list[list[int]]
    replies: list[list[int]]
    log_probs: list[np.ndarray]
    base_log_probs: list[np.ndarray]


@dataclasses.dataclass(frozen=True)
class Verification:
    """An export beside its run.

    Attributes:
      program, reference: names of the programs, and their precisions.
      questions: that were asked.
      prompts_equal, replies_equal: how many prompts have the same tokens, replies likewise.
      tokens: of the run's replies that were scored.
      distance, floor: of the export, and of the base, in nats a token.
      precision: of the export.
    """

    program: str
    reference: str
    questions: int
    prompts_equal: int
    replies_equal: int
    tokens: int
    distance: float
    floor: float
    precision: str

    @property
    def is_quantized(self) -> bool:
        """Whether the export has less than 16 bits a weight."""
        return self.precision not in ("float32", "bfloat16", "float16", "F16")

    @property
    def limit(self) -> float:
        """The largest distance that is accepted."""
        limit = FACTOR * self.floor + TINY
        return max(limit, QUANTIZED) if self.is_quantized else limit

    @property
    def problems(self) -> list[str]:
        """Why the export is refused; empty where it is accepted."""
        problems = []
        if self.prompts_equal < self.questions:
            different = self.questions - self.prompts_equal
            problems.append(f"{different} of {self.questions} prompts have other tokens")
        if not self.distance <= self.limit:  # also NaN
            problems.append(
                f"log-probabilities are {self.distance:.3g} nats a token from the run's, more than "
                f"{self.limit:.3g}"
            )
        least = EQUAL_REPLIES.get(self.precision, SOME_REPLIES)
        if self.replies_equal < least * self.questions:
            problems.append(f"only {self.replies_equal} of {self.questions} replies are equal")
        return problems

    def lines(self) -> list[str]:
        """What was found, in words."""
        return [
            f"{self.replies_equal} of {self.questions} greedy replies as the run's, "
            f"{self.prompts_equal} of {self.questions} prompts ({self.program}, {self.precision}; "
            f"{self.reference})",
            f"log-probabilities {self.distance:.3g} nats a token from the run's; noise floor "
            f"{self.floor:.3g} (the base without memory in the same two programs); "
            f"{self.tokens:,} tokens",
        ]


def answers_of(
    program: Program,
    questions: Sequence[str],
    max_new_tokens: int,
    run: Answers | None,
    on_step: Callable[[], None],
) -> Answers:
    """Asks a program.

    Args:
      program: with the model loaded.
      questions: to ask.
      max_new_tokens: longest reply.
      run: the answers of the run; None: this is the run.
      on_step: called after each of `STEPS` steps.
    """
    prompts = program.prompts(questions)
    asked = prompts if run is None else run.prompts
    replies = program.replies(asked, max_new_tokens)
    on_step()
    given = scored(asked), scored(replies if run is None else run.replies)
    log_probs = program.log_probs(*given)
    on_step()
    base_log_probs = program.base_log_probs(*given)
    on_step()
    return Answers(program.name, prompts, replies, log_probs, base_log_probs)


STEPS = 3


def scored(items: Sequence) -> list:
    """Those of all prompts, or of all replies, whose tokens are scored: `MOST_SCORED`, spread
    evenly, at most.
    """
    count = min(MOST_SCORED, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def compare(run: Answers, export: Answers, reference: str, precision: str) -> Verification:
    """The export's answers beside those of the run, which was asked in `reference`."""
    return Verification(
        program=export.name,
        reference=reference,
        questions=len(run.prompts),
        prompts_equal=_equal(run.prompts, export.prompts),
        replies_equal=_equal(run.replies, export.replies),
        tokens=sum(map(len, scored(run.replies))),
        distance=_distance(run.log_probs, export.log_probs),
        floor=_distance(run.base_log_probs, export.base_log_probs),
        precision=precision,
    )


def _equal(one: Sequence[Sequence[int]], other: Sequence[Sequence[int]]) -> int:
    return sum([*x] == [*y] for x, y in zip(one, other))


def _distance(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> float:
    return float(np.abs(np.concatenate(one) - np.concatenate(other)).mean())


def run_program(model: RunModel, dtype: str) -> OwnProgram:
    """The run itself in this program.

    Args:
      model: the run.
      dtype: to compute in.

    Raises:
      ValueError: the base has other weights than the run began with.
    """
    cfg = model.base.cfg.replace(dtype=np.dtype(dtype).type)
    params = model.base.params(dtype, model.base_fingerprint)
    variables = {"params": params, **model.memory()}
    bare = model.without_memory()
    return OwnProgram(cfg, variables, (cfg, {"params": params, **bare}), model.base.tokenizer)
