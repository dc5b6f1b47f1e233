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

from sleep_jax.data.orders import numpy_generator
from sleep_jax.memory.slots import put_slot, take_slot
from sleep_jax.models.decoder import lm_head
from sleep_jax.sampling.generate import Completion, generate
from sleep_jax.sampling.sampler import SamplingConfig
from sleep_jax.seeding.divergence import token_scores
from sleep_jax.seeding.null_space import known_basis, projected
from sleep_jax.seeding.objective import Objective, flat, scored_hidden
from sleep_jax.seeding.sender_units import slot_from_sender
from sleep_jax.seeding.sequences import (
    BatchShape,
    Exchange,
    HiddenStates,
    make_batch,
    teacher_hidden,
)
from sleep_jax.seeding.step import init_state, seeding_step
from sleep_jax.wake.context import read

OBJECTIVE = Objective(alpha=1.0, lam=0.0, logit_chunk=1024)
KNOWN_TEACHERS = ("self", "before")
BATCH = 128  # sentences that are written at a time


@dataclasses.dataclass(frozen=True)
class NightConfig:
    """How a night is spent, or fine-tuning in its place.

    Attributes:
      steps: updates of a night of level 1, of level 2, whose window is longer.
      batch_size: pages of an update.
      known_pages: of these, pages about what was known; of fine-tuning without replay, none are.
      parts: of a night; before each but the first the divergence of all sentences is measured, and
        half of those to come are drawn in proportion to it. 1: all are drawn evenly.
      known: sentences about what was known that a night writes: questions about earlier people, and
        for the rest unprompted ones.
      drafts: unprompted sentences that are written for each one that is kept: of those kept, half
        are the likeliest drafts and half are the first ones. 1: all drafts are kept.
      earlier_facts: people of earlier episodes who are asked about, in two wordings each.
      asks: a night learns the teacher's answers to questions about the window beside its text.
      replays_today: the window of a level that receives slots has today's episode, of which it was
        handed nothing yet: it has read it by Eq. 2 alone.
      known_teacher: who writes and teaches what was known. `self`: the night's teacher, who has
        read; `before`: the model before it read.
      null_space, null_space_spare: as `share` and `spare` of `known_basis`; 0, 0: none.
      begins_as: of a new slot. `nothing`: it adds nothing; `sender`: the sender's largest units.
      ranks: of a slot of level 2, of level 3.
      learning_rate: Adam's peak; it decays along a cosine to a tenth.
      objective: distillation on teacher-written sequences alone: no rollouts, no imitation.
    """

    steps: tuple[int, int] = (40, 80)
    batch_size: int = 6
    known_pages: int = 3
    parts: int = 1
    known: int = 144
    drafts: int = 1
    earlier_facts: int = 0
    asks: bool = True
    replays_today: bool = True
    known_teacher: str = "self"
    null_space: float = 0.0
    null_space_spare: float = 0.0
    begins_as: str = "nothing"
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


def statements(window: Sequence[Fact]) -> list[tuple[int, ...]]:
    """The text that states some facts, a page a wording: what was read of them."""
    return [fact.tokens(template) for template in STATEMENTS for fact in window]


def new_exchanges(cfg, teacher, window: Sequence[Fact], rng, asks: bool = True) -> list[Exchange]:
    """The window's own text, and what the teacher answers to questions about it.

    Args:
      cfg, teacher: the decoder and the teacher's collections.
      window: what was read since the sender last slept.
      rng: PRNG key.
      asks: with these answers.
    """
    recitations = [((START,), sentence[1:]) for sentence in statements(window)]
    answers = _answered(cfg, teacher, "answer", window, rng) if asks else []
    return _exchanges("recite", recitations) + answers


def known_exchanges(
    cfg, model, earlier: Sequence[Fact], count: int, rng, drafts: int = 1
) -> list[Exchange]:
    """What a model says of itself: answers about earlier people, and unprompted sentences.

    Args:
      cfg, model: the decoder and the collections of who writes.
      earlier: who are asked about, in two wordings each.
      count: sentences in all.
      rng: PRNG key.
      drafts: unprompted sentences written for each that is kept (`NightConfig.drafts`).
    """
    answers = _answered(cfg, model, "earlier", earlier, rng) if earlier else []
    kept = count - len(answers)
    written = _write(cfg, model, [(START,)] * (drafts * kept), SENTENCE - 1, 1.0, rng)
    likeliest = sorted(written, key=lambda draft: -np.mean(draft.log_probs))
    chosen = likeliest[: kept // 2] + written[: kept - kept // 2] if drafts > 1 else written
    return _exchanges("rehearse", [((START,), draft.tokens) for draft in chosen]) + answers


def _answered(cfg, model, kind: str, facts: Sequence[Fact], rng) -> list[Exchange]:
    questions = [fact.prompt(question) for question in ASKED for fact in facts]
    answers = _write(cfg, model, questions, 2, 0.0, rng)
    return _exchanges(kind, [(q, answer.tokens) for q, answer in zip(questions, answers)])


def _exchanges(kind: str, pairs) -> list[Exchange]:
    return [Exchange(None, prompt, prompt, completion, kind) for prompt, completion in pairs]


def _write(cfg, variables, prompts, new: int, temperature: float, rng) -> list[Completion]:
    """A completion of each prompt, always BATCH at a time, so that all nights share a program."""
    sampling = SamplingConfig(new, (END,), temperature)
    filled = [*prompts, *[(START,)] * (-len(prompts) % BATCH)]
    width = max(map(len, filled))
    drawn = generate(cfg, sampling, variables, filled, rng, width=width, batch=BATCH)
    return [completion for [completion] in drawn[: len(prompts)]]


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
        batch_size=len(exchanges), max_length=SENTENCE, max_target_length=SENTENCE - 1
    )
    rows = [[i] for i in range(len(exchanges))]
    batch = make_batch(exchanges, list(map(HiddenStates, hidden)), rows, shape)
    steps = night.steps[level - 2]
    adam = optimizer(night.learning_rate, steps)
    basis, figures = known_basis(
        cfg, student, level, exchanges, SENTENCE, night.null_space, night.null_space_spare
    )
    slot = take_slot(student["memory"], level, index)
    if night.begins_as == "sender":
        slot = slot_from_sender(cfg, teacher, level, slot, new, SENTENCE)
    slot = projected(slot, basis)
    about, known = np.arange(len(new)), np.arange(len(new), len(exchanges))

    def learnt(slot):
        return student | {"memory": put_slot(student["memory"], level, index, slot)}

    def divergence(variables) -> float:
        nats, tokens = _divergences(cfg, night.objective, variables, measured)
        return float(nats.sum() / tokens.sum())

    # All that is new, and as many sentences of what was known.
    measured = jax.tree.map(lambda x: x[: 2 * len(new)], batch)
    state, nats = init_state(slot, adam), None
    for number in range(night.parts):
        if number:
            nats, _ = _divergences(cfg, night.objective, learnt(state.slot), batch)
        order = draw_rows(
            night,
            steps // night.parts,
            about,
            known,
            jax.random.fold_in(rng, number),
            PAGE // SENTENCE,
            nats,
        )
        state = _seed(
            cfg, night.objective, adam, level, jnp.int32(index), state, student, batch, order, basis
        )
    variables = learnt(state.slot)
    divergences = {"before": divergence(student), "after": divergence(variables)}
    return variables["memory"], divergences | figures


def draw_rows(
    night: NightConfig, steps: int, new, known, rng, scale: int = 1, nats=None
) -> np.ndarray:
    """Which rows each update learns from, int [steps, scale * batch_size].

    Args:
      night: `known_pages` of its pages are drawn from `known`, the others from `new`.
      steps: updates.
      new, known: the rows.
      rng: PRNG key.
      scale: rows of a page.
      nats: float [rows], the divergence of each; rows are drawn half evenly, half in proportion to
        it. None: all evenly.
    """
    generator = numpy_generator(rng)

    def drawn(rows, pages: int):
        chances = None
        if nats is not None:
            weights = np.maximum(np.asarray(nats, np.float64)[rows], 0)  # rounding: below 0
            chances = 0.5 / len(rows) + 0.5 * weights / weights.sum()
        return generator.choice(rows, (steps, scale * pages), p=chances)

    known_pages = night.known_pages
    return np.concatenate(
        [drawn(new, night.batch_size - known_pages), drawn(known, known_pages)], axis=1
    )


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
def _divergences(cfg, objective, variables, batch):
    """Of each row KL(teacher || student) in nats, summed over its tokens, and their number."""
    scores = token_scores(
        scored_hidden(cfg, variables, batch),
        flat(batch.teacher),
        flat(batch.targets),
        flat(batch.mask),
        lm_head(cfg, variables["params"]),
        **objective.score_options(),
    )
    nats = jnp.where(batch.mask, scores.kl.reshape(batch.mask.shape), 0)
    return jnp.sum(nats, axis=1), jnp.sum(batch.mask, axis=1)
