"""Every program of a run, with the shapes that its config implies and nothing allocated.

What only the documents and the tokenizer could say is assumed and written down here: documents as
long as `data.chunk_tokens`, `DOCUMENTS` a day unless `data.limit` says how many, a sentence every
`SENTENCE` tokens, prompts of at most `PROMPT` tokens.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax

from sleep_jax import config as settings
from sleep_jax.data.batches import bucket
from sleep_jax.data.examples import MAX_ROW
from sleep_jax.dreaming.gradients import gram_matrices
from sleep_jax.dreaming.trial import train_adapters
from sleep_jax.evals.adapted import score_tokens
from sleep_jax.evals.recall import sum_nll
from sleep_jax.models.decoder import run_trunk
from sleep_jax.models.sharding import row_shards, spread_evenly
from sleep_jax.runtime.abstract import Abstract, first_receiver, learner_of
from sleep_jax.sampling.sampler import SamplingConfig, prefill, sample
from sleep_jax.seeding.config import SeedingConfig
from sleep_jax.seeding.consolidate import sum_divergence
from sleep_jax.seeding.rollouts import score_rows
from sleep_jax.seeding.step import seeding_step
from sleep_jax.wake.stream import MAX_STRIDES, read_strides

DOCUMENTS = 8
SENTENCE = 24
PROMPT = 128
COMPLETIONS = 64  # sampled at a time (`generate`)
TAUGHT = 2048  # tokens that a teacher scores at a time on each shard (`teacher_hidden`)
REHEARSED = 40  # general prompts
ANCHORS = (8, 256)  # texts and tokens


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


def programs_of(config, mesh) -> list[Program]:
    """Every program of a run on a mesh, in the order of a day."""
    sizes = _Sizes.of(config)
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        it = Abstract(config, mesh)
        return [p for part in (_day, _seeding, _dreaming) for p in part(config, it, sizes)]


@dataclasses.dataclass(frozen=True)
class _Sizes:
    """What the module's docstring assumes, for one config: documents of a day, their tokens as a
    context, sentences of a day."""

    documents: int
    context: int
    sentences: int

    @classmethod
    def of(cls, config) -> "_Sizes":
        limit = math.ceil(config.data.limit / config.data.episodes)
        documents = limit or DOCUMENTS
        chunk = config.data.chunk_tokens
        return cls(documents, bucket(chunk + 32), documents * math.ceil(chunk / SENTENCE))


def _sampling(it, name, prompts, width, new, *, group=1, temperature=1.0, context=0) -> Program:
    """Completions of `prompts` prompts, as `generate` deals them over calls."""
    most = max(1, COMPLETIONS // group)
    calls = math.ceil(prompts / most)
    rows = spread_evenly(math.ceil(prompts / calls))
    # On an accelerator layers are scanned here too; token 0 stands for the end of a turn.
    how = SamplingConfig(new, eos_ids=(0,), temperature=temperature, group=group)
    cache = it.cache(rows, context) if context else None
    args = (it.cfg, how, it.variables, *it.rows(rows, width), it.key, cache)
    tokens = rows * (width + group * new)
    keys = context + (rows * width * width / 2 + rows * group * new * (width + new / 2)) / tokens
    scored = rows * group * new
    knobs = ("data.chunk_tokens",) if context else ()
    return Program(name, sample, args, calls, tokens, keys, scored, knobs=knobs)


def _day(config, it: Abstract, sizes: _Sizes) -> list[Program]:
    """Reading, answering, and what measures."""
    rows = spread_evenly(sizes.documents + 1)
    args = (it.cfg, it.variables, *it.rows(rows, sizes.context))
    tokens, answer = rows * sizes.context, config.evaluation.max_new_tokens
    found = [Program("wake: read", prefill, args, 3, tokens, sizes.context / 2, 0)]
    if "wake" in it.held:
        wake, stride = settings.wake_config(config), it.cfg.memory.stride
        strides = (it.array("tokens/tokens", MAX_STRIDES, 2, stride),)
        args = (it.cfg, wake, it.variables, it.held["wake"], *strides)
        args += (it.array("tokens/ticks", MAX_STRIDES),)
        read = sizes.documents * config.data.chunk_tokens
        calls, tokens = math.ceil(read / (MAX_STRIDES * stride)), MAX_STRIDES * stride
        learn = Program("wake: learn", read_strides, args, calls, tokens, wake.context / 2, tokens)
        knobs = ("memory.stride", "wake.context")
        found.append(dataclasses.replace(learn, passes=2, trips=MAX_STRIDES, knobs=knobs))
    texts, time = spread_evenly(ANCHORS[0]), ANCHORS[1]
    args = (it.cfg, it.variables, *it.rows(texts, time))
    found.append(
        Program("evaluate: anchors", sum_nll, args, 8, texts * time, time / 2, texts * time)
    )
    asked = functools.partial(_sampling, it, temperature=0.0)
    questions = 4 * sizes.documents
    return [
        *found,
        asked("evaluate: answer", questions, PROMPT, answer),
        asked("evaluate: answer from context", questions, PROMPT, answer, context=sizes.context),
    ]


def _seeding(config, it: Abstract, sizes: _Sizes) -> list[Program]:
    """A consolidation of the context."""
    study, seeding = settings.study_config(config), settings.seeding_config(config)
    questions, new = sizes.sentences * study.questions, study.max_answer_tokens
    imitation, shape = seeding.imitation, seeding.shape
    rounds = math.ceil(
        seeding.steps * (1 - seeding.rollouts_from) / (seeding.updates_per_rollout * seeding.reuse)
    )
    ask = functools.partial(_sampling, it, temperature=study.temperature)
    found = [
        ask(
            "consolidate: ask", sizes.sentences, PROMPT, study.max_question_tokens,
            group=study.questions,
        ),
        _sampling(
            it, "consolidate: answer", questions, PROMPT, new,
            temperature=0.0, context=sizes.context,
        ),
        ask("consolidate: rehearse", REHEARSED, PROMPT, new, group=study.rehearsals),
    ]  # fmt: skip
    columns = bucket(PROMPT + shape.scored)
    rows = spread_evenly(max(1, TAUGHT // columns * row_shards()))
    args = (it.cfg, it.variables, *it.rows(rows, columns), it.cache(rows, sizes.context))
    written = sizes.documents * (1 + study.completions) * config.data.chunk_tokens + questions * new
    calls, tokens = math.ceil(written / (rows * columns)), rows * columns
    keys = sizes.context + columns / 2
    found.append(Program("consolidate: teach", prefill, args, calls, tokens, keys, 0))
    grid, heads = (shape.rows * shape.time, shape.time / 2), shape.rows * shape.scored
    knobs = ("model.remat", "seeding.accumulate", "seeding.rows", "seeding.time")
    if "trunk" in it.cfg.stacks:
        args = (it.cfg, it.variables, *it.rows(shape.rows, shape.time))
        found.append(Program("consolidate: trunk", run_trunk, args, rounds + calls, *grid, 0))
    args = (it.cfg, seeding.objective, it.variables, it.batch(shape), None)
    found.append(Program("consolidate: measure", sum_divergence, args, 2, *grid, 2 * heads))
    if seeding.dreams and rounds:
        dreams = seeding.dreams * seeding.updates_per_rollout
        width = bucket(PROMPT + max(study.max_answer_tokens, SENTENCE))
        roll_out = _sampling(
            it, "consolidate: roll out", dreams, width, imitation.max_new_tokens,
            group=imitation.group,
        )  # fmt: skip
        found.append(dataclasses.replace(roll_out, calls=roll_out.calls * rounds))
        if seeding.is_rescored or it.held["learner"].critic is not None:
            args = (it.cfg, it.variables, it.batch(shape), _value_head(it))
            found.append(Program("consolidate: rescore", score_rows, args, rounds, *grid, heads))
    update = _update("consolidate: update", it, seeding, it.held["learner"], *grid, heads)
    return [*found, dataclasses.replace(update, knobs=knobs)]


def _value_head(it: Abstract):
    critic = it.held["learner"].critic
    return None if critic is None else critic.head


def _update(name, it: Abstract, seeding: SeedingConfig, learner, tokens, keys, scored) -> Program:
    index, level = it.array("tokens/index"), first_receiver(it.cfg)
    args = (it.cfg, seeding.objective, seeding.optimizer(), level, index, learner, it.variables)
    args += (it.batch(seeding.shape),)
    return Program(name, seeding_step, args, seeding.steps, tokens, keys, 4 * scored, 2)


def _dreaming(config, it: Abstract, sizes: _Sizes) -> list[Program]:
    """Dreams: written, selected, tried, learnt."""
    d, trial = config.dreaming, settings.trial_config(config)
    if not d.steps:
        return []
    reinforcing = settings.reinforcing_config(config)
    each, documents = len(d.instructions) * d.count, sizes.documents
    write = _sampling(
        it, "dream: write", documents * len(d.instructions), PROMPT, d.max_new_tokens,
        group=d.count, temperature=d.temperature, context=sizes.context,
    )  # fmt: skip
    page, dream = bucket(PROMPT + config.data.chunk_tokens), bucket(PROMPT + d.max_new_tokens)
    row = min(bucket(page + dream), max(MAX_ROW, page))
    learnt = it.examples(documents * (d.top + d.random), math.ceil((page + dream) / row), row)
    answer = bucket(PROMPT + config.study.max_answer_tokens)
    trials = learnt.tokens.shape[0] * trial.seeds
    asked = it.examples(trials, d.held_out, answer)
    alone = it.examples(documents, spread_evenly(bucket(each, 4)), 1, dream)
    targets = it.examples(documents, 1, page)
    lora, knobs = it.held["lora"], ("dreaming.trial.chunk", "dreaming.trial.rank")

    def tried(name, function, args, calls, examples, passes, times=1):
        count = times * sum(math.prod(e.tokens.shape) for e in examples)
        keys = examples[-1].tokens.shape[-1] / 2
        return Program(name, function, args, calls, count, keys, count, passes, knobs=knobs)

    shape = reinforcing.shape
    grid = (shape.rows * shape.time, shape.time / 2, shape.rows * shape.scored)
    born = jax.eval_shape(functools.partial(learner_of, it.cfg, reinforcing), it.held["memory"])
    learner = it.tree(born, "learner")
    select = (it.cfg, trial.chunk, it.variables, lora, alone, targets)
    learn = (it.cfg, trial, it.variables, [lora] * trial.seeds, learnt)
    score = (it.cfg, it.variables | {"lora": it.adapters(trials)}, asked)
    epochs = trial.epochs * trial.seeds
    return [
        write,
        tried("dream: select", gram_matrices, select, 1, (alone, targets), 2),
        tried("dream: try", train_adapters, learn, 1, (learnt,), 2, epochs),
        tried("dream: reward", score_tokens, score, 2, (asked,), 1),
        _update("dream: learn", it, reinforcing, learner, *grid),
    ]
