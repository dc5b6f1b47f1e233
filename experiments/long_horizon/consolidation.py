"""One consolidation of a level: what is written for it, and how the new slot learns it.

What is new: the window's text, and the teacher's answers to questions about the people in it. What
was known: sentences written unprompted and, where a night asks for them, questions about people of
earlier episodes. `NightConfig.known_teacher` says who writes and teaches these.

The phases of a run (`sleep_jax.phases`) are not used: they read documents through a chat template,
keep a day's context as level 0, and draw sequences from one shuffled stream. Here tokens are words,
level 1 is the fast weights alone, a share of every update is about what was known, and a night is
one program.
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
from sleep_jax.seeding.null_space import known_basis, projected
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
KNOWN_TEACHERS = ("self", "before")


@dataclasses.dataclass(frozen=True)
class NightConfig:
    """How a night is spent, or fine-tuning in its place.

    Attributes:
      steps: updates of a night of level 1, of level 2, whose window is longer.
      batch_size: pages of an update.
      known_pages: of these, pages about what was known; of fine-tuning without replay, none are.
      known: sentences about what was known that a night writes: questions about earlier people, and
        for the rest unprompted ones.
      earlier_facts: people of earlier episodes who are asked about, in two wordings each.
      replays_today: the window of a level that receives slots has today's episode, of which it was
        handed nothing yet: it has read it by Eq. 2 alone.
      known_teacher: who writes and teaches what was known. `self`: the night's teacher, who has
        read; `before`: the model before it read.
      null_space, null_space_spare: as `share` and `spare` of `known_basis`; 0, 0: none.
      ranks: of a slot of level 2, of level 3.
      learning_rate: Adam's peak; it decays along a cosine to a tenth.
      objective: distillation on teacher-written sequences alone: no rollouts, no imitation.
    """

    steps: tuple[int, int] = (40, 80)
    batch_size: int = 6
    known_pages: int = 3
    known: int = 144
    earlier_facts: int = 0
    replays_today: bool = True
    known_teacher: str = "self"
    null_space: float = 0.0
    null_space_spare: float = 0.0
    ranks: tuple[int, int] = (16, 32)
    learning_rate: float = 2e-3
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


def new_exchanges(cfg, teacher, window: Sequence[Fact], rng) -> list[Exchange]:
    """The window's own text, and what the teacher answers to questions about it.

    Args:
      cfg, teacher: the decoder and the teacher's collections.
      window: what was read since the sender last slept.
      rng: PRNG key.
    """
    recitations = [((START,), sentence[1:]) for sentence in statements(window)]
    return _exchanges("recite", recitations) + _answered(cfg, teacher, "answer", window, rng)


def known_exchanges(cfg, model, earlier: Sequence[Fact], count: int, rng) -> list[Exchange]:
    """What a model says of itself: answers about earlier people, and unprompted sentences.

    Args:
      cfg, model: the decoder and the collections of who writes.
      earlier: who are asked about, in two wordings each.
      count: sentences in all.
      rng: PRNG key.
    """
    answers = _answered(cfg, model, "earlier", earlier, rng) if earlier else []
    prompts = [(START,)] * (count - len(answers))
    unprompted = _write(cfg, model, prompts, SENTENCE - 1, 1.0, rng)
    return _exchanges("rehearse", zip(prompts, unprompted)) + answers


def _answered(cfg, model, kind: str, facts: Sequence[Fact], rng) -> list[Exchange]:
    questions = [fact.prompt(question) for question in ASKED for fact in facts]
    return _exchanges(kind, zip(questions, _write(cfg, model, questions, 2, 0.0, rng)))


def _exchanges(kind: str, pairs) -> list[Exchange]:
    return [Exchange(None, prompt, prompt, completion, kind) for prompt, completion in pairs]


def _write(cfg, variables, prompts, new: int, temperature: float, rng):
    sampling = SamplingConfig(new, (END,), temperature)
    drawn = generate(cfg, sampling, variables, prompts, rng, width=SENTENCE, batch=128)
    return [completion.tokens for [completion] in drawn]


def seed_slot(
    cfg, night: NightConfig, transaction, params, exchanges: Sequence[Exchange], known_teacher, rng
):
    """Seeds the slot of a transaction as `sleep_jax.seeding.consolidate.seed_slot` without rollouts
    does, a fixed share of every update being about what was known, all updates in one program.

    Args:
      cfg, night: the decoder and the settings.
      transaction: that has begun.
      params: the base.
      exchanges: first what is new, then what was known.
      known_teacher: collections of who teaches what was known.
      rng: PRNG key.

    Returns:
      (memory, figures): the student's; before and after, KL(teacher || student) in nats a token on
      what is new and as much of what was known, and those of `known_basis`.
    """
    teacher, student = transaction.teacher.variables(params), transaction.student.variables(params)
    level, index = transaction.level, transaction.index
    new = [e for e in exchanges if not e.is_known]
    hidden = _hidden(cfg, teacher, new) + _hidden(cfg, known_teacher, exchanges[len(new) :])
    shape = BatchShape(
        batch_size=-(-len(exchanges) * SENTENCE // PAGE), max_length=PAGE, max_target_length=PAGE
    )
    rows = pack_exchanges(exchanges, shape)
    batch = make_batch(exchanges, list(map(HiddenStates, hidden)), rows, shape)
    steps = night.steps[level - 2]
    adam = optimizer(night.learning_rate, steps)
    basis, figures = known_basis(
        cfg, student, level, exchanges, SENTENCE, night.null_space, night.null_space_spare
    )
    slot = projected(take_slot(student["memory"], level, index), basis)
    # Sentences are packed in order: first those about the window, then what was known.
    about = [row for row, items in enumerate(rows) if not exchanges[items[0]].is_known]
    known = sorted(set(range(len(rows))) - set(about))
    order = draw_rows(night, steps, about, known, rng)
    # All that is new, and as many rows of what was known.
    measured = jax.tree.map(lambda x: x[about + known[: len(about)]], batch)
    before = _divergence(cfg, night.objective, student, measured)
    state = _seed(
        cfg,
        night.objective,
        adam,
        level,
        jnp.int32(index),
        init_state(slot, adam),
        student,
        batch,
        order,
        basis,
    )
    memory = put_slot(student["memory"], level, index, state.slot)
    after = _divergence(cfg, night.objective, student | {"memory": memory}, measured)
    return memory, {"before": float(before), "after": float(after)} | figures


def draw_rows(night: NightConfig, steps: int, new, known, rng, scale: int = 1) -> np.ndarray:
    """Which rows each update learns from, int [steps, scale * batch_size]: `known_pages` of its
    pages are drawn from `known`, the others from `new`; a page is `scale` rows."""
    generator = numpy_generator(rng)
    pages = night.batch_size - night.known_pages, night.known_pages
    drawn = [
        generator.choice(rows, (steps, scale * count)) for rows, count in zip((new, known), pages)
    ]
    return np.concatenate(drawn, axis=1)


def _hidden(cfg, variables, exchanges: Sequence[Exchange]) -> list[np.ndarray]:
    """The hidden states of a closed-book teacher along each completion."""
    return teacher_hidden(cfg, variables, read(cfg, variables, [()])[0], exchanges, budget=4096)


@functools.partial(jax.jit, static_argnames=("cfg", "objective", "optimizer", "level"))
def _seed(cfg, objective, optimizer, level, index, state, student, batch, order, basis):
    def step(state, rows):
        chosen = jax.tree.map(lambda x: x[rows], batch)
        return seeding_step(
            cfg,
            objective,
            optimizer,
            level,
            index,
            state,
            student,
            chosen,
            null_space=basis,
        )

    return jax.lax.scan(step, state, order)[0]


@functools.partial(jax.jit, static_argnames=("cfg", "objective"))
def _divergence(cfg, objective, variables, batch):
    total, count = objective_terms(cfg, objective, variables, batch)[0]["kl_off"]
    return total / count
