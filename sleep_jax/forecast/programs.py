"""Every program of a run, in the order of a day, as its phases choose them by the config.

Left out: the sentence encoder of the judges `embedding` and `cosine` (22M parameters) and the edit
distances of Eq. 4, small beside a decoder; further teachers (`seeding.teachers`); consolidations
between two levels, whose programs are those of the first one at another level; what teaches dreams
that are learnt, which is `teach` at another width.
"""

import dataclasses
import functools
import math

import jax

from sleep_jax.config import read
from sleep_jax.data.batches import bucket
from sleep_jax.evals.recall import sum_nll
from sleep_jax.forecast.abstract import Abstract, first_receiver
from sleep_jax.forecast.dream_programs import dreaming
from sleep_jax.forecast.program import (
    END,
    PROMPT,
    SENTENCE,
    Program,
    Sizes,
    greedy,
    grid,
    judged,
    rescored,
    sampled,
    updated,
)
from sleep_jax.models.decoder import run_trunk
from sleep_jax.models.sharding import row_shards, spread_evenly
from sleep_jax.sampling.sampler import SamplingConfig, prefill
from sleep_jax.seeding.consolidate import sum_divergence
from sleep_jax.seeding.seeding_config import SeedingConfig
from sleep_jax.seeding.transaction import ROWS as REPLAYED
from sleep_jax.seeding.transaction import sum_inputs
from sleep_jax.wake.stream import MAX_STRIDES, read_strides

TAUGHT = 2048  # tokens that a teacher scores at a time on each shard (`teacher_hidden`)
REHEARSED = 40  # general prompts
ANCHORS = (8, 256)  # texts and tokens


def programs_of(config, mesh, sizes: Sizes) -> list[Program]:
    """Every program of a run on a mesh, in the order of a day.

    Args:
      config: of the run.
      mesh: that it is on.
      sizes: of its documents.
    """
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        it = Abstract(config, mesh)
        return [p for part in (_day, _seeding, dreaming) for p in part(config, it, sizes)]


def _day(config, it: Abstract, sizes: Sizes) -> list[Program]:
    """Reading, answering, and what measures."""
    rows = spread_evenly(sizes.documents + 1)
    args = (it.cfg, it.variables, *it.rows(rows, sizes.context))
    tokens = rows * sizes.context
    found = [Program("wake: read", prefill, args, 3, tokens, sizes.context / 2, 0)]
    if "wake" in it.held:
        wake, stride = read(config).wake, it.cfg.memory.stride
        strides = (it.array("tokens/tokens", MAX_STRIDES, 2, stride),)
        args = (it.cfg, wake, it.variables, it.held["wake"], *strides)
        args += (it.array("tokens/ticks", MAX_STRIDES),)
        length = sizes.documents * config.data.chunk_tokens
        calls, tokens = math.ceil(length / (MAX_STRIDES * stride)), MAX_STRIDES * stride
        learn = Program("wake: learn", read_strides, args, calls, tokens, wake.context / 2, tokens)
        knobs = ("memory.stride", "wake.context")
        found.append(dataclasses.replace(learn, passes=2, trips=MAX_STRIDES, knobs=knobs))
    else:
        args, time = (it.cfg, it.variables, *it.rows(1, sizes.context)), sizes.context
        found.append(Program("wake: skim", sum_nll, args, sizes.documents, time, time / 2, time))
    texts, time = spread_evenly(ANCHORS[0]), ANCHORS[1]
    args = (it.cfg, it.variables, *it.rows(texts, time))
    found.append(
        Program("evaluate: anchors", sum_nll, args, 8, texts * time, time / 2, texts * time)
    )
    questions, how = 4 * sizes.documents, greedy(read(config).evaluation.max_new_tokens)
    return [
        *found,
        sampled(it, "evaluate: answer", how, questions, PROMPT),
        sampled(it, "evaluate: answer from context", how, questions, PROMPT, context=sizes.context),
    ]


def _seeding(config, it: Abstract, sizes: Sizes) -> list[Program]:
    """Studying, and a consolidation of what was studied."""
    study, seeding = read(config).study, read(config).seeding
    questions, new = sizes.sentences * study.questions, study.max_chat_tokens
    how = functools.partial(SamplingConfig, eos_ids=END, temperature=study.temperature)
    shape, found = seeding.shape, []
    if config.memory.from_context:
        ask = how(study.max_question_tokens, num_generations=study.questions)
        found += [
            sampled(it, "consolidate: ask", ask, sizes.sentences, PROMPT),
            sampled(
                it, "consolidate: answer", greedy(new), questions, PROMPT, context=sizes.context
            ),
        ]
    if study.rehearsals:
        rehearse = functools.partial(how, num_generations=study.rehearsals)
        calls = [("consolidate: rehearse", new, REHEARSED)]
        if study.thought_tokens:  # every second one is no chat
            half, brief = REHEARSED // 2, study.max_answer_tokens
            calls = [(calls[0][0], new, half), ("consolidate: rehearse texts", brief, half)]
        found += [sampled(it, name, rehearse(n), count, PROMPT) for name, n, count in calls]
    teach = _taught(it, "consolidate: teach", bucket(PROMPT + shape.max_target_length), sizes)
    written = sizes.documents * (1 + study.completions) * config.data.chunk_tokens + questions * new
    calls = math.ceil(written / teach.tokens)
    found.append(dataclasses.replace(teach, calls=calls))
    batches = rounds_of(seeding) * seeding.steps_per_generation
    if "trunk" in it.cfg.stacks:
        args = (it.cfg, it.variables, *it.rows(shape.batch_size, shape.max_length))
        found.append(
            Program("consolidate: trunk", run_trunk, args, batches + calls, *grid(shape), 0)
        )
    if it.cfg.memory.router != "none":
        args = (it.cfg, it.variables, first_receiver(it.cfg), *it.rows(REPLAYED, shape.max_length))
        aimed = sizes.documents * study.recitations + sizes.sentences * study.completions
        calls = math.ceil((aimed + 2 * questions + REHEARSED * study.rehearsals) / REPLAYED)
        tokens = REPLAYED * shape.max_length
        found.append(
            Program("consolidate: aim", sum_inputs, args, calls, tokens, shape.max_length / 2, 0)
        )
    args = (it.cfg, seeding.objective, it.variables, it.batch(shape), None)
    heads = 2 * shape.batch_size * shape.max_target_length
    found.append(Program("consolidate: measure", sum_divergence, args, 2, *grid(shape), heads))
    updates = updated(it, "consolidate: update", seeding, it.held["learner"])
    knobs = ("model.remat", "seeding.accumulate", "seeding.batch_size", "seeding.max_length")
    return [
        *found,
        *(_rollouts(config, it, seeding, sizes) if batches else []),
        *(dataclasses.replace(update, knobs=knobs) for update in updates),
    ]


def _taught(it: Abstract, name: str, columns: int, sizes: Sizes, most: int = 2**31) -> Program:
    """A teacher's pass over rows of so many tokens, as many as `teacher_hidden` takes at a time."""
    rows = spread_evenly(max(1, min(TAUGHT // columns * row_shards(), most)))
    args = (it.cfg, it.variables, *it.rows(rows, columns), it.cache(rows, sizes.context))
    return Program(name, prefill, args, 1, rows * columns, sizes.context + columns / 2, 0)


def rounds_of(seeding: SeedingConfig) -> int:
    """Rounds of rollouts in a night: how often `Rounds.is_due`."""
    if not seeding.num_prompts:
        return 0
    first = round(seeding.rollouts_from * seeding.steps)
    objectives = map(seeding.objective_at, range(first, seeding.steps))
    updates = sum(x.alpha < 1 or x.lam > 0 for x in objectives)
    return math.ceil(updates / (seeding.steps_per_generation * seeding.num_iterations))


def _rollouts(config, it: Abstract, seeding: SeedingConfig, sizes: Sizes) -> list[Program]:
    """The rounds of a night (`rollouts.play`)."""
    imitation, rounds, learner = seeding.imitation, rounds_of(seeding), it.held["learner"]
    dreams = seeding.num_prompts * seeding.steps_per_generation
    width = bucket(PROMPT + max(config.study.max_answer_tokens, SENTENCE))
    how = SamplingConfig(
        imitation.max_new_tokens,
        END,
        imitation.temperature,
        top_p=imitation.top_p,
        num_generations=imitation.num_generations,
    )
    roll_out = sampled(it, "consolidate: roll out", how, dreams, width)
    found = [dataclasses.replace(roll_out, calls=roll_out.calls * rounds)]
    if config.seeding.judge == "model":  # every pair in both orders
        texts, longest = (
            2 * dreams * imitation.num_generations,
            PROMPT + 2 * imitation.max_new_tokens,
        )
        judge = judged(it, "consolidate: judge", texts, longest)
        found.append(dataclasses.replace(judge, calls=judge.calls * rounds))
    # The reference's scores are another call; what an update rolls out fits a batch.
    calls = rounds * seeding.steps_per_generation * (1 + imitation.surrogate.needs_reference)
    found.append(rescored(it, "consolidate: rescore", seeding.shape, learner, calls))
    rollouts, width = dreams * imitation.num_generations, bucket(width + imitation.max_new_tokens)
    teach = _taught(it, "consolidate: teach rollouts", width, sizes, bucket(rollouts, 4))
    calls = rounds * math.ceil(rollouts * width / teach.tokens)
    return [*found, dataclasses.replace(teach, calls=calls)]
