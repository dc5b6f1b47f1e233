"""The programs of dreams: what many of them go through together, and their reward."""

import math
from collections.abc import Callable, Sequence

from sleep_jax.data.batches import bucket
from sleep_jax.data.examples import Examples
from sleep_jax.evals.adapted import AdaptedModels, score_tokens
from sleep_jax.programs.abstract import AbstractRun
from sleep_jax.programs.calls import greedy, judged, repeated, sampled
from sleep_jax.programs.program import Program
from sleep_jax.programs.sizes import Lengths

KNOBS = ("dreaming.trial.microbatch", "dreaming.trial.rank")


def shape_of(lay_out: Callable[..., Examples], sequences) -> tuple[int, ...]:
    """The shape that a function lays sequences out in, of which only the lengths are known: any
    nesting of (tokens given, tokens scored).
    """

    def stand_in(x):
        if isinstance(x[0], int):
            return tuple((0,) * n for n in x)
        return [*map(stand_in, x)]

    return lay_out(stand_in(sequences)).tokens.shape


def over_examples(
    name: str,
    function: Callable,
    args: tuple,
    examples: Sequence[Examples],
    passes: int,
    epochs: int = 1,
    calls: int = 1,
) -> Program:
    """A program that many dreams go through at once, as `examples`."""
    tokens = epochs * sum(math.prod(e.tokens.shape) for e in examples)
    keys = examples[-1].tokens.shape[-1] / 2
    return Program(name, function, args, calls, tokens, keys, tokens, passes, knobs=KNOBS)


def scored(
    run: AbstractRun,
    name: str,
    items: Sequence[Sequence[Lengths]],
    has_adapters: bool,
) -> list[Program]:
    """tau of models, each on items of its own: as many models at a time as `AdaptedModels` batches.

    Args:
      run: of the program.
      name: of the program.
      items: per model its questions and answers, of which only the lengths are known.
      has_adapters: each model is the base under a trial adapter; else it is the base itself.
    """
    scorer, rows = run.settings.dreaming.reward.scorer, max(map(len, items))
    models = AdaptedModels(run.cfg, run.variables, None)
    blocks, width = models.blocks(len(items), rows), max(q for pairs in items for q, _ in pairs)
    together = blocks.shape[1]
    if scorer == "likelihood":
        pieces = models.row_blocks(together, rows)
        time = bucket(max(q + a for pairs in items for q, a in pairs))
        examples = run.examples(together, pieces.shape[1], time)
        variables = run.variables | ({"lora": run.adapters(together)} if has_adapters else {})
        args, calls = (run.cfg, variables, examples), len(blocks) * len(pieces)
        return [over_examples(name, score_tokens, args, (examples,), 1, calls=calls)]
    replies = sampled(
        run,
        name,
        greedy(run.settings.evaluation.max_new_tokens),
        (width,) * together * rows,
        width=bucket(width),
        adapters=together if has_adapters else 0,
        batch=models.batch,
    )
    return repeated(replies, len(blocks))


def rubric(run: AbstractRun, name: str, items: Sequence[Sequence[Lengths]]) -> list[Program]:
    """The verdicts of the judge on the replies to these items; none for another scorer."""
    if run.settings.dreaming.reward.scorer != "judge":
        return []
    longest = max(q + a for pairs in items for q, a in pairs)
    question = run.config.study.max_question_tokens
    width = longest + question + run.settings.evaluation.max_new_tokens
    return [judged(run, name, sum(map(len, items)), width)]
