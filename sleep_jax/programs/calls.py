"""Programs that several phases call: the sampler, reading into a context, losses of texts, and the
judge.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax

from sleep_jax.data.batches import bucket
from sleep_jax.evals import continuations
from sleep_jax.evals.continuations import sorted_batches
from sleep_jax.evals.recall import sum_nll
from sleep_jax.programs.abstract import AbstractRun
from sleep_jax.programs.program import Program, by_shape
from sleep_jax.rewards import yes_no
from sleep_jax.sampling.generate import (
    BATCH,
    decoding_config,
    prompts_per_call,
    rows_per_call,
)
from sleep_jax.sampling.sampler import SamplingConfig, prefill, sample
from sleep_jax.wake.context import read_shape

END = (0,)  # token 0 stands for the end of a turn


def greedy(new: int) -> SamplingConfig:
    """Replies of at most `new` tokens."""
    return SamplingConfig(new, END, temperature=0.0)


def sampled(
    run: AbstractRun,
    name: str,
    sampling: SamplingConfig,
    prompts: Sequence[int],
    *,
    width: int | None = None,
    context: int = 0,
    adapters: int = 0,
    has_random_expert: bool = False,
    batch: int = BATCH,
) -> list[Program]:
    """The sampler, called for as many prompts at a time as `generate` does; [] without prompts.

    Args:
      run, name, sampling: of the program.
      prompts: tokens of each.
      width, batch: as for `generate`.
      context: tokens of the document that is in view; 0: none is.
      adapters: trial adapters side by side, which the rows belong to; 0: the model as it is.
      has_random_expert: routers add one.
    """
    if not prompts:
        return []
    count = prompts_per_call(len(prompts), sampling.num_generations, batch, bool(adapters))
    rows = rows_per_call(count, bool(adapters))
    width = width or bucket(max(prompts))
    variables = run.variables | ({"lora": run.adapters(adapters)} if adapters else {})
    cfg = decoding_config(run.cfg, run.platform)
    cache = run.cache(rows, context) if context else None
    expert_key = run.key if has_random_expert else None
    args = (cfg, sampling, variables, *run.rows(rows, width), run.key, cache, expert_key)
    group, new = sampling.num_generations, sampling.max_new_tokens
    tokens = rows * (width + group * new)
    keys = context + (rows * width * width / 2 + rows * group * new * (width + new / 2)) / tokens
    calls, knobs = math.ceil(len(prompts) / count), ("data.chunk_tokens",) if context else ()
    return [Program(name, sample, args, calls, tokens, keys, rows * group * new, knobs=knobs)]


def reading(run: AbstractRun, name: str, contexts: Sequence[int]) -> Program:
    """Documents that are read into a context, beside an empty one (`phases.run_state.awake`)."""
    rows, width = read_shape([*contexts, 0])
    args = (run.cfg, run.variables, *run.rows(rows, width))
    return Program(name, prefill, args, 1, rows * width, width / 2, 0)


def losses_of_texts(
    run: AbstractRun, name: str, shapes: Sequence[tuple[int, int]], times: int = 1
) -> list[Program]:
    """The loss of texts in batches of these shapes (texts, width), `times` times each."""
    out = []
    for title, texts, width, calls in by_shape(name, shapes):
        args, tokens = (run.cfg, run.variables, *run.rows(texts, width)), texts * width
        out.append(Program(title, sum_nll, args, times * calls, tokens, width / 2, tokens))
    return out


def scored(run: AbstractRun, name: str, texts: Sequence[int]) -> list[Program]:
    """The likelihood of continuations (`evals.continuations`) in texts of these lengths; [] without
    any."""
    batches = [(rows, width) for _, rows, width in sorted_batches(texts, continuations.BATCH)]
    out = []
    for title, rows, width, calls in by_shape(name, batches):
        args, tokens = (run.cfg, run.variables, run.examples(rows, width)), rows * width
        function = continuations.scored_continuations
        out.append(Program(title, function, args, calls, tokens, width / 2, tokens))
    return out


def judged(run: AbstractRun, name: str, texts: int, width: int) -> Program:
    """The verdicts of the frozen initial model on texts (`rewards.yes_no`)."""
    cfg, rows, width = yes_no.initial_config(run.cfg), yes_no.ROWS, bucket(width, yes_no.SHORTEST)
    slot = jax.eval_shape(lambda: yes_no.zeroed_slot(cfg))
    variables = {"params": run.collections["params"]} | {n: run.tree(x, n) for n, x in slot.items()}
    args = (cfg, variables, *run.rows(rows, width), run.array("tokens/words", 2))
    calls = math.ceil(texts / rows)
    return Program(name, yes_no.logit_gaps, args, calls, rows * width, width / 2, 0)


def repeated(programs: Sequence[Program], times: int) -> list[Program]:
    """Programs with `times` as many calls."""
    return [dataclasses.replace(program, calls=times * program.calls) for program in programs]
