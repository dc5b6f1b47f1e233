"""Compares an export with its run: the same prompts, greedy replies and log-probabilities.

The distance is the mean of |log p - log p'| over the tokens of the run's replies. Two programs
never round alike, and the export may be in another precision than the run. So a distance is
measured in which no export has a part, on the same tokens, the noise floor:

  - where another program reads the export, between the bases: the model without memory in this
    program, and the export with its added units set to zero in the other;
  - where this program reads it again, for want of the other, the bases would be equal to the bit.
    Both compute in float32 then, so that nothing but weights is compared. What is left is that the
    export has rounded them, and sums in another order. The floor is what this costs the run
    (`exact_run` beside `rounded_run`). Where slots were added to the base's own matrices, these
    were rounded anew, and the floor is what that costs the export (`rounded_anew`): it is the same
    for a wrong one.

An export is refused whose distance is more than twice the floor, unless it was quantized: then what
that costs is said, and refused where it is more than a coarse type ever costs.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from sleep_jax.export.programs import OwnProgram, Program
from sleep_jax.export.run_model import RunModel

FACTOR = 2.0  # of the noise floor
TINY = 1e-5  # nats a token: the rounding of log-probabilities themselves
QUANTIZED = 0.5  # nats a token
EQUAL_REPLIES = {"float32": 0.99}  # share; a tie may break otherwise in another program
FLOATS = {  # by the names of NumPy and of GGUF
    **{"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16},
    **{"F32": jnp.float32, "BF16": jnp.bfloat16, "F16": jnp.float16},
}
ANEW = 1.1  # no power of two: what is scaled by it is rounded otherwise
MOST_SCORED = 40  # replies whose tokens are scored
BASES = "the base without memory in the same two programs"
REROUNDED = "the run beside itself, rounded as stored and summed in another order"
ROUNDED_ANEW = "the export beside itself, rounded once more at another scale"
SOME_REPLIES = 0.25  # in other precisions, where a reply goes on otherwise after its first tie


@dataclasses.dataclass(frozen=True)
class Answers:
    """What a model answers.

    Attributes:
      name: of the program.
      prompts, replies: token ids, a reply with the token that ended it.
      log_probs, base_log_probs: of the tokens of `scored` of the run's replies, by the model and
        by its base. Where this program reads the export again, of one of both, by itself rounded
        otherwise, and of the other None.
    """

    name: str
    prompts: list[list[int]]
    replies: list[list[int]]
    log_probs: list[np.ndarray]
    base_log_probs: list[np.ndarray] | None


@dataclasses.dataclass(frozen=True)
class Verification:
    """An export beside its run.

    Attributes:
      program, reference: names of the programs, and their precisions.
      questions: that were asked.
      prompts_equal, replies_equal: how many prompts have the same tokens, replies likewise.
      tokens: of the run's replies that were scored.
      distance, floor: of the export, and of what `floor_of` says, in nats a token.
      floor_of: what the noise floor was measured on.
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
    floor_of: str
    precision: str

    @property
    def is_quantized(self) -> bool:
        """Whether the export has less than 16 bits a weight."""
        return self.precision not in FLOATS

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
            f"{self.floor:.3g} ({self.floor_of}); {self.tokens:,} tokens",
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


def with_rounding(run: Answers, rounded: OwnProgram) -> Answers:
    """The answers of an `exact_run` with what `rounded_run` makes of the same tokens."""
    noise = rounded.log_probs(scored(run.prompts), scored(run.replies))
    return dataclasses.replace(run, base_log_probs=noise)


def scored(items: Sequence) -> list:
    """Those of all prompts, or of all replies, whose tokens are scored: `MOST_SCORED`, spread
    evenly, at most.
    """
    count = min(MOST_SCORED, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def compare(run: Answers, export: Answers, reference: str, precision: str) -> Verification:
    """The export's answers beside those of the run, which was asked in `reference`."""
    one = export.log_probs if run.base_log_probs is None else run.base_log_probs
    other = run.log_probs if export.base_log_probs is None else export.base_log_probs
    floor_of = REROUNDED if other is run.log_probs else ROUNDED_ANEW
    is_of_bases = one is run.base_log_probs and other is export.base_log_probs
    return Verification(
        program=export.name,
        reference=reference,
        questions=len(run.prompts),
        prompts_equal=_equal(run.prompts, export.prompts),
        replies_equal=_equal(run.replies, export.replies),
        tokens=sum(map(len, scored(run.replies))),
        distance=_distance(run.log_probs, export.log_probs),
        floor=_distance(one, other),
        floor_of=BASES if is_of_bases else floor_of,
        precision=precision,
    )


def _equal(one: Sequence[Sequence[int]], other: Sequence[Sequence[int]]) -> int:
    return sum([*x] == [*y] for x, y in zip(one, other))


def _distance(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> float:
    return float(np.abs(np.concatenate(one) - np.concatenate(other)).mean())


def run_program(model: RunModel, dtype: str) -> OwnProgram:
    """The run itself in this program, to be compared with an export in another.

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


def exact_run(model: RunModel, dtype: str) -> OwnProgram:
    """The run in this program, computing in float32, to be compared with an export that is read
    again; arguments and errors as of `run_program`, `dtype` being of the base's weights.
    """
    params = model.base.params(dtype, model.base_fingerprint)
    return _in_float32(model, {"params": params, **model.memory()})


def rounded_run(model: RunModel, precision: str) -> OwnProgram:
    """What rounding costs `exact_run`: every weight is rounded to the precision of an export
    (quantized ones are not), and widened FFNs sum over their hidden units in reverse order.
    """
    variables = {"params": model.base.params("float32", None), **model.memory()}
    changed = jax.tree.map(lambda x: _rounded(x, precision), variables)
    if model.base.cfg.memory.expert != "lora":  # whose terms belong to hidden units of the base
        changed["params"] = reversed_units(changed["params"])
    return _in_float32(model, changed)


def rounded_anew(params: dict, precision: str) -> dict:
    """`params` with the matrices of its FFNs rounded once more, otherwise: at another scale."""

    def of_stack(stack):
        return stack | {"mlp": jax.tree.map(lambda x: _rounded(x, precision, ANEW), stack["mlp"])}

    return {name: of_stack(x) if "mlp" in x else x for name, x in params.items()}


def reversed_units(params: dict) -> dict:
    """`params` of a decoder with the hidden units of its FFNs in reverse order: the same function,
    but for the order of sums.
    """

    def of_stack(stack):
        mlp = {name: stack["mlp"][name]["kernel"] for name in ("gate", "up", "down")}
        turned = {name: x[:, ::-1] if name == "down" else x[..., ::-1] for name, x in mlp.items()}
        return stack | {"mlp": {name: {"kernel": x} for name, x in turned.items()}}

    return {name: of_stack(x) if "mlp" in x else x for name, x in params.items()}


def _rounded(x, precision: str, scale: float = 1.0):
    is_rounded = precision in FLOATS and jnp.issubdtype(x.dtype, jnp.floating)
    return (x * scale).astype(FLOATS[precision]).astype(x.dtype) / scale if is_rounded else x


def _in_float32(model: RunModel, variables: dict) -> OwnProgram:
    cfg = model.base.cfg.replace(dtype=jnp.float32)
    return OwnProgram(cfg, widened(variables), None, model.base.tokenizer)


def widened(variables: dict) -> dict:
    """Collections of a decoder with all weights in float32, on the device."""

    def wide(x):
        return jnp.asarray(x, jnp.float32 if jnp.issubdtype(x.dtype, jnp.floating) else None)

    return jax.tree.map(wide, variables)
