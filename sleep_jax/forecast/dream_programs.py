"""The programs of dreams: written, selected, tried, learnt, as the phases choose them by
`dreaming`."""

import dataclasses
import functools
import math

import jax

from sleep_jax.config import read
from sleep_jax.data.batches import bucket, equal_batches, pack
from sleep_jax.data.examples import Examples, make_examples
from sleep_jax.dreaming.gradients import dream_losses, gram_matrices
from sleep_jax.dreaming.importance import BY_MODEL, WITHOUT_MODEL
from sleep_jax.dreaming.trial import train_adapters
from sleep_jax.evals.adapted import AdaptedModels, score_tokens
from sleep_jax.forecast.abstract import Abstract, learner_of
from sleep_jax.forecast.program import (
    END,
    PROMPT,
    SENTENCE,
    Program,
    Sizes,
    greedy,
    judged,
    rescored,
    sampled,
    sampled_rows,
    updated,
)
from sleep_jax.models.sharding import spread_evenly
from sleep_jax.seeding.mixture import EPOCHS
from sleep_jax.seeding.sequences import BatchShape


def dreaming(config, it: Abstract, sizes: Sizes) -> list[Program]:
    """Those of a night, in their order; none where no slot holds a day to dream about."""
    if not config.dreaming.steps or not config.memory.from_context:
        return []
    return [
        *_writing(config, it, sizes),
        *_selecting(config, it, sizes),
        *_trying(config, it, sizes),
        *_learning(config, it, sizes),
    ]


def _pages(config) -> tuple[int, int]:
    """Tokens of a row with a prompt and a passage, or a dream, after it."""
    return (
        bucket(PROMPT + config.data.chunk_tokens),
        bucket(PROMPT + config.dreaming.max_new_tokens),
    )


def _kept(config, sizes: Sizes) -> tuple[int, int]:
    """Dreams of a document that are written, and those of all documents that are kept."""
    d = config.dreaming
    each = len(read(config).dreaming.writing.templates) * d.count
    return each, sizes.documents * min(d.top + d.random, each)


def _writing(config, it: Abstract, sizes: Sizes) -> list[Program]:
    """Dreams as `dreaming.write` samples them: with the document in the context, or in the
    prompt."""
    writing = read(config).dreaming.writing
    write = functools.partial(sampled, it, has_random_expert=writing.random_expert)
    found = []
    for forms in writing.sampling_calls:
        prompts = sum(t.form in forms for t in writing.templates) * sizes.documents
        how = writing.sampling(END, forms[0])
        if prompts and "with_context" in forms:
            found.append(write("dream: write", how, prompts, PROMPT, context=sizes.context))
        elif prompts:
            name = "dream: write texts" if forms == ("plain",) else "dream: write from prompts"
            prompted = write(name, how, prompts, _pages(config)[0])
            found.append(dataclasses.replace(prompted, knobs=("data.chunk_tokens",)))
    return found


def _compared(name: str, function, args, examples, passes: int, epochs: int = 1, calls: int = 1):
    """A program of many dreams at once, which go through it as `examples`."""
    tokens = epochs * sum(math.prod(e.tokens.shape) for e in examples)
    knobs = ("dreaming.trial.microbatch", "dreaming.trial.rank")
    keys = examples[-1].tokens.shape[-1] / 2
    return Program(name, function, args, calls, tokens, keys, tokens, passes, knobs=knobs)


def _selecting(config, it: Abstract, sizes: Sizes) -> list[Program]:
    """What `dreaming.importance` runs for its measure: nothing where that reads no model."""
    measure, microbatch = read(config).dreaming.selection.measure, config.dreaming.trial.microbatch
    (each, _), (page, dream) = _kept(config, sizes), _pages(config)
    if measure in WITHOUT_MODEL:
        return []
    if measure in BY_MODEL:
        dreams = it.examples(sizes.documents * each, 1, dream)
        args = (it.cfg, microbatch, it.variables, dreams)
        return [_compared("dream: select", dream_losses, args, (dreams,), 1)]
    alone = it.examples(sizes.documents, spread_evenly(bucket(each, 4)), 1, dream)
    targets, is_last_only = it.examples(sizes.documents, 1, page), measure == "last_layer"
    args = (it.cfg, microbatch, it.variables, it.held["lora"], alone, targets, is_last_only)
    passes = 1 if is_last_only else 2
    return [_compared("dream: select", gram_matrices, args, (alone, targets), passes)]


def _trying(config, it: Abstract, sizes: Sizes) -> list[Program]:
    """The trials, and what measures by how much each of them made the model better."""
    dreaming, (_, tried) = read(config).dreaming, _kept(config, sizes)
    trial = dreaming.trial
    if dreaming.reward.baseline == "passage":
        tried += sizes.documents  # each passage alone
    learnt = _learnt(config, it, tried)
    trials = tried * trial.seeds
    args = (it.cfg, trial, it.variables, [it.held["lora"]] * trial.seeds, learnt, None, it.key)
    epochs = trial.epochs * trial.seeds
    trained = _compared("dream: try", train_adapters, args, (learnt,), 2, epochs)
    return [trained, *_rewarding(config, it, sizes.documents, trials)]


def _learnt(config, it: Abstract, dreams: int) -> Examples:
    """What trials learn from: the lines of a dream, or all of it, and its passage."""
    d = config.dreaming
    lines = math.ceil(d.max_new_tokens / SENTENCE) if d.trial.split else 1
    replies = [math.ceil(d.max_new_tokens / lines)] * lines + [config.data.chunk_tokens]
    laid = make_examples(
        [[((0,) * PROMPT, (0,) * n) for n in replies]], is_packed=not d.trial.batch_size
    )
    return it.examples(dreams, *laid.tokens.shape[1:])


def _rewarding(config, it: Abstract, documents: int, trials: int) -> list[Program]:
    """tau of the models that the trials made, as many at a time as `AdaptedModels` batches; and of
    the model as it is, by calls that are no larger."""
    scorer, asked = read(config).dreaming.reward.scorer, config.dreaming.held_out
    question, reply = config.study.max_question_tokens, config.study.max_answer_tokens
    blocks = [
        equal_batches(count, max(1, AdaptedModels.batch // asked)) for count in (trials, documents)
    ]
    calls, models = sum(map(len, blocks)), blocks[0].shape[1]
    if scorer == "likelihood":
        pieces, rows = equal_batches(asked, max(1, AdaptedModels.batch // models)).shape
        scored = it.examples(models, rows, bucket(PROMPT + reply))
        args = (it.cfg, it.variables | {"lora": it.adapters(models)}, scored)
        calls *= pieces
        return [_compared("dream: reward", score_tokens, args, (scored,), 1, calls=calls)]
    how = greedy(read(config).evaluation.max_new_tokens)
    rows, adapted = models * asked, {"adapters": models}
    found = [sampled_rows(it, "dream: reward", how, calls, rows, PROMPT, **adapted)]
    if scorer == "judge":
        texts, width = (documents + trials) * asked, PROMPT + question + reply
        found.append(judged(it, "dream: judge", texts, width + how.max_new_tokens))
    return found


def _learning(config, it: Abstract, sizes: Sizes) -> list[Program]:
    """Updates on the dreams that were tried, which a policy gradient scores before the first."""
    settings = read(config)
    reinforcing, writing = settings.reinforcing, settings.dreaming.writing
    born = jax.eval_shape(functools.partial(learner_of, it.cfg, reinforcing), it.held["memory"])
    learner, shape = it.tree(born, "learner"), reinforcing.shape
    steps = max(reinforcing.steps, _updates_to_learn(config, sizes, shape))
    found = updated(it, "dream: learn", dataclasses.replace(reinforcing, steps=steps), learner)
    if reinforcing.num_prompts:
        (_, kept), new = (
            _kept(config, sizes),
            min(writing.max_dream_tokens, shape.max_target_length),
        )
        size = min(PROMPT + config.data.chunk_tokens + new, shape.max_length), new
        rows = len(pack([size] * kept, (shape.max_length, shape.max_target_length)))
        calls = math.ceil(rows / shape.batch_size)
        found = [rescored(it, "dream: rescore", shape, learner, calls), *found]
    return found


def _updates_to_learn(config, sizes: Sizes, shape: BatchShape) -> int:
    """Updates until every dream that was tried, if all are rewarded, was drawn as often as
    `updates_to_draw` has it: in turn with what was studied, by which a row is filled as well."""
    d, (_, kept) = config.dreaming, _kept(config, sizes)
    dreams = min(kept, d.cap * sizes.documents) if d.cap else kept
    dreams *= EPOCHS * (1 + (d.estimator == "rest_em"))  # how to write it, and what it says
    new, page = read(config).dreaming.writing.max_new_tokens, config.data.chunk_tokens
    sized = [
        (min(PROMPT + n, shape.max_length), min(n, shape.max_target_length)) for n in (new, page)
    ]
    rows = len(pack(sized * dreams, (shape.max_length, shape.max_target_length)))
    return math.ceil(rows / shape.batch_size)
