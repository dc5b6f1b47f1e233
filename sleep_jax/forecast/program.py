"""One jitted function of a run with the shapes that a config implies and nothing allocated; those
that several phases call.

The documents say how many there are, and how long (`Sizes`). What else only they and the tokenizer
could say is assumed and written down here: a line of a dream every `SENTENCE` tokens, prompts of at
most `PROMPT`.
"""

import collections
import dataclasses
import math
from collections.abc import Callable

import jax

from sleep_jax.data.batches import bucket
from sleep_jax.forecast.abstract import Abstract, first_receiver
from sleep_jax.forecast.roofline import model_flops
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.models.sharding import spread_evenly
from sleep_jax.rewards import yes_no
from sleep_jax.sampling.sampler import SamplingConfig, sample
from sleep_jax.seeding.rollouts import score_rows
from sleep_jax.seeding.seeding_config import SeedingConfig
from sleep_jax.seeding.sequences import BatchShape
from sleep_jax.seeding.step import SeedingState, seeding_step

SENTENCE = 24
PROMPT = 128
COMPLETIONS = 64  # sampled at a time (`generate`)
END = (0,)  # token 0 stands for the end of a turn


@dataclasses.dataclass(frozen=True)
class Program:
    """One jitted function with abstract arguments.

    Attributes:
      name: `phase: what it does`.
      function, args: what is compiled; statics are as they are, arrays are abstract.
      calls: how often a day and its night call it.
      tokens: that pass through the decoder in a call.
      keys: tokens that each of them attends to, on average.
      scored: tokens that the LM head is applied to.
      passes: products with the base's weights for each token: 1 forward, 2 with the gradient of
        the activations.
      trips: of a loop whose length only the data say, the most.
      knobs: settings that lower what it needs.
    """

    name: str
    function: Callable
    args: tuple
    calls: int
    tokens: int
    keys: float
    scored: int
    passes: int = 1
    trips: int = 1
    knobs: tuple[str, ...] = ()

    def flops(self, cfg: DecoderConfig) -> float:
        """Those that the model needs for one call."""
        sizes = {k: getattr(self, k) for k in ("tokens", "keys", "scored", "passes")}
        return model_flops(cfg, **sizes)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of the largest day of a run.

    Attributes:
      documents: of the day.
      context: tokens of the longest one as a context.
      sentences: of the day.
    """

    documents: int
    context: int
    sentences: int


def greedy(new: int) -> SamplingConfig:
    """Replies of at most so many tokens."""
    return SamplingConfig(new, END, temperature=0.0)


def sampled(
    it: Abstract, name: str, how: SamplingConfig, prompts: int, width: int, **more
) -> Program:
    """Completions of so many prompts, as `generate` deals them over calls; `more` as for
    `sampled_rows`."""
    most = max(1, COMPLETIONS // how.num_generations)
    calls = math.ceil(prompts / most)
    rows = spread_evenly(math.ceil(prompts / calls))
    return sampled_rows(it, name, how, calls, rows, width, **more)


def sampled_rows(
    it: Abstract,
    name: str,
    how: SamplingConfig,
    calls: int,
    rows: int,
    width: int,
    *,
    context: int = 0,
    adapters: int = 0,
    has_random_expert: bool = False,
) -> Program:
    """Completions of the prompts of one call.

    Args:
      it, name, how, calls: of the program.
      rows, width: prompts and their tokens.
      context: tokens of the document that is in view; 0: none is.
      adapters: trial adapters side by side, which the rows belong to; 0: the model as it is.
      has_random_expert: routers add one.
    """
    variables = it.variables | ({"lora": it.adapters(adapters)} if adapters else {})
    cache = it.cache(rows, context) if context else None
    # On an accelerator layers are scanned here too.
    args = (it.cfg, how, variables, *it.rows(rows, width), it.key, cache)
    args += (it.key,) if has_random_expert else ()
    group, new = how.num_generations, how.max_new_tokens
    tokens = rows * (width + group * new)
    keys = context + (rows * width * width / 2 + rows * group * new * (width + new / 2)) / tokens
    knobs = ("data.chunk_tokens",) if context else ()
    scored = rows * group * new
    return Program(name, sample, args, calls, tokens, keys, scored, knobs=knobs)


def judged(it: Abstract, name: str, texts: int, width: int) -> Program:
    """The verdicts of the frozen initial model on so many texts (`rewards.yes_no`)."""
    cfg, rows, width = yes_no.initial_config(it.cfg), yes_no.ROWS, bucket(width, yes_no.SHORTEST)
    slot = jax.eval_shape(lambda: yes_no.zeroed_slot(cfg))
    variables = {"params": it.held["params"]} | {n: it.tree(x, n) for n, x in slot.items()}
    args = (cfg, variables, *it.rows(rows, width), it.array("tokens/words", 2))
    calls = math.ceil(texts / rows)
    return Program(name, yes_no.logit_gaps, args, calls, rows * width, width / 2, 0)


def rescored(
    it: Abstract, name: str, shape: BatchShape, learner: SeedingState, calls: int
) -> Program:
    """Rollouts under the student as it is, with their values where there is a critic."""
    args = (it.cfg, it.variables, it.batch(shape), learner.value_head)
    return Program(
        name, score_rows, args, calls, *grid(shape), shape.batch_size * shape.max_target_length
    )


def updated(
    it: Abstract, name: str, seeding: SeedingConfig, learner: SeedingState
) -> list[Program]:
    """The updates of a night: a program for each objective that they have."""
    index, level, shape = it.array("tokens/index"), first_receiver(it.cfg), seeding.shape
    steps = collections.Counter(map(seeding.objective_at, range(seeding.steps)))
    stages = {True: " to distil", False: " to imitate"} if seeding.mode == "staged" else {}
    out = []
    for objective, calls in steps.items():
        args = (it.cfg, objective, seeding.optimizer(), level, index, learner, it.variables)
        args += (it.batch(shape), None, it.key if objective.lam_as_probability else None)
        stage, heads = (
            stages.get(objective.alpha == 1, ""),
            4 * shape.batch_size * shape.max_target_length,
        )
        program = Program(f"{name}{stage}", seeding_step, args, calls, *grid(shape), heads, 2)
        out.append(program)
    return out


def grid(shape: BatchShape) -> tuple[int, float]:
    """(tokens, keys of each) of a seeding batch."""
    return shape.batch_size * shape.max_length, shape.max_length / 2
