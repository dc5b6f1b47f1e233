"""One consolidation of a level: what its teacher writes about the window, and how the new slot
learns it.

The sequences are the window's text, the teacher's answers to questions about the people in it, and
rehearsal: sentences that the teacher writes unprompted. Nothing from before the window is stored.

The phases of a run (`sleep_jax.phases`) are not used: they read documents through a chat template,
keep a day's context as level 0, and draw sequences from one shuffled stream. Here tokens are words,
level 1 is the fast weights alone, half of every update is rehearsal, and a night is one program.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from base import PAGE
from facts import ASKED, END, SENTENCE, START, STATEMENTS, Fact

from sleep_jax.memory.slots import put_slot, take_slot
from sleep_jax.sampling.generate import generate
from sleep_jax.sampling.sampler import SamplingConfig
from sleep_jax.seeding.objective import Objective, objective_terms
from sleep_jax.seeding.sequences import (
    BatchShape,
    Exchange,
    HiddenStates,
    make_batch,
    pack_exchanges,
    teacher_hidden,
)
from sleep_jax.seeding.step import init_state, seeding_step
from sleep_jax.wake.context import read

OBJECTIVE = Objective(alpha=1.0, lam=0.0, logit_chunk=1024)


@dataclasses.dataclass(frozen=True)
class NightConfig:
    """How a night is spent.

    Attributes:
      steps: updates of a night of level 1, of level 2, whose window is longer.
      batch_size: pages of an update; half of them are about the window, half rehearsal.
      rehearsal: sentences that the teacher writes unprompted.
      learning_rate: Adam's peak; it decays along a cosine to a tenth.
      tuning_rate: the peak rate of plain fine-tuning.
      objective: distillation on teacher-written sequences alone: no rollouts, no imitation.
    """

    steps: tuple[int, int] = (40, 80)
    batch_size: int = 6
    rehearsal: int = 144
    learning_rate: float = 2e-3
    tuning_rate: float = 2e-4
    objective: Objective = OBJECTIVE


@functools.cache  # one object a setting: for any other, all is compiled anew
def optimizer(learning_rate: float, steps: int) -> optax.GradientTransformation:
    """Adam behind a clipped gradient."""
    rate = optax.warmup_cosine_decay_schedule(
        0.0, learning_rate, steps // 10, steps, learning_rate / 10
    )
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))


def numpy_generator(rng) -> np.random.Generator:
    """The same randomness for what is drawn on the host."""
    return np.random.default_rng(np.asarray(jax.random.key_data(rng)))


def statements(window: Sequence[Fact]) -> list[tuple[int, ...]]:
    """The text that states some facts, a page a wording: what was read of them."""
    return [fact.tokens(template) for template in STATEMENTS for fact in window]


def write_exchanges(cfg, teacher, window: Sequence[Fact], rehearsal: int, rng) -> list[Exchange]:
    """The night's sequences, written by the teacher where they are not the window's own text.

    Args:
      cfg, teacher: the decoder and the teacher's collections.
      window: what was read since the sender last slept.
      rehearsal: how many unprompted sentences.
      rng: PRNG key.
    """
    recitations = [((START,), sentence[1:]) for sentence in statements(window)]
    questions = [fact.prompt(question) for question in ASKED for fact in window]
    answers = _write(cfg, teacher, questions, 2, 0.0, rng)
    unprompted = _write(cfg, teacher, [(START,)] * rehearsal, SENTENCE - 1, 1.0, rng)
    pairs = recitations + list(zip(questions, answers))
    pairs += [((START,), words) for words in unprompted]
    kinds = ["recite"] * len(recitations) + ["answer"] * len(questions)
    kinds += ["rehearse"] * len(unprompted)
    return [Exchange(None, p, p, c, kind) for (p, c), kind in zip(pairs, kinds)]


def _write(cfg, variables, prompts, new: int, temperature: float, rng):
    sampling = SamplingConfig(new, (END,), temperature)
    drawn = generate(cfg, sampling, variables, prompts, rng, width=SENTENCE, batch=128)
    return [completion.tokens for [completion] in drawn]


def seed_slot(cfg, night: NightConfig, transaction, params, exchanges: Sequence[Exchange], rng):
    """Seeds the slot of a transaction as `sleep_jax.seeding.consolidate.seed_slot` without rollouts
    does, half of every update being rehearsal, all updates in one program.

    Returns:
      (memory, (before, after)): the student's, and KL(teacher || student) in nats a token on the
      night's sequences.
    """
    teacher, student = transaction.teacher.variables(params), transaction.student.variables(params)
    level, index = transaction.level, transaction.index
    hidden = teacher_hidden(cfg, teacher, read(cfg, teacher, [()])[0], exchanges, budget=4096)
    shape = BatchShape(
        batch_size=-(-len(exchanges) * SENTENCE // PAGE), max_length=PAGE, max_target_length=PAGE
    )
    rows = pack_exchanges(exchanges, shape)
    batch = make_batch(exchanges, list(map(HiddenStates, hidden)), rows, shape)
    steps = night.steps[level - 2]
    adam = optimizer(night.learning_rate, steps)
    state = init_state(take_slot(student["memory"], level, index), adam)
    # Sentences are packed in order: first those about the window, then rehearsal.
    about = [row for row, items in enumerate(rows) if exchanges[items[0]].kind != "rehearse"]
    rehearsed = sorted(set(range(len(rows))) - set(about))
    generator, half = numpy_generator(rng), (steps, night.batch_size // 2)
    order = [generator.choice(about, half), generator.choice(rehearsed, half)]
    before = _divergence(cfg, night.objective, student, batch)
    state = _seed(
        cfg,
        night.objective,
        adam,
        level,
        jnp.int32(index),
        state,
        student,
        batch,
        np.concatenate(order, axis=1),
    )
    memory = put_slot(student["memory"], level, index, state.slot)
    after = _divergence(cfg, night.objective, student | {"memory": memory}, batch)
    return memory, (float(before), float(after))


@functools.partial(jax.jit, static_argnames=("cfg", "objective", "optimizer", "level"))
def _seed(cfg, objective, optimizer, level, index, state, student, batch, order):
    def step(state, rows):
        chosen = jax.tree.map(lambda x: x[rows], batch)
        return seeding_step(cfg, objective, optimizer, level, index, state, student, chosen)

    return jax.lax.scan(step, state, order)[0]


@functools.partial(jax.jit, static_argnames=("cfg", "objective"))
def _divergence(cfg, objective, variables, batch):
    total, count = objective_terms(cfg, objective, variables, batch)[0]["kl_off"]
    return total / count
