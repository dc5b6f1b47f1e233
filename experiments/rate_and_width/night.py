"""One night of one decoder: what it read in its context is consolidated into a slot.

A night's sequences fit one batch, so every update learns from all of them, and the nights of
several learning rates are one program: `sleep_jax.seeding.consolidate.seed_slot` without rollouts.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from base import next_token
from text import KNOWN, KNOWN_HOMES, NEW, SENTENCES, START, random_homes, sentences

from sleep_jax.data.batches import pad
from sleep_jax.memory.slots import init_memory, put_slot, take_slot
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.seeding.consolidate import mean_divergence
from sleep_jax.seeding.first_order import first_gradient
from sleep_jax.seeding.objective import Objective
from sleep_jax.seeding.seeding_config import SeedingConfig
from sleep_jax.seeding.sequences import (
    BatchShape,
    Exchange,
    Teacher,
    make_batch,
    pack_exchanges,
)
from sleep_jax.seeding.step import init_state, seeding_step
from sleep_jax.seeding.transaction import MemoryState, begin_consolidation
from sleep_jax.seeding.trunk import precompute
from sleep_jax.wake.context import read
from sleep_jax.wake.stream import WakeConfig

DOCUMENTS, PEOPLE = 8, 2  # of a day; people of a document, all of them new
SHAPE = BatchShape(batch_size=2, max_length=40, max_target_length=20)
OBJECTIVE = Objective(alpha=1.0, lam=0.0)
SEEDING = SeedingConfig(steps=100, shape=SHAPE, num_prompts=0, objective=OBJECTIVE)


@dataclasses.dataclass(frozen=True)
class Day:
    """What was read, and what is asked about it.

    Attributes:
      documents: token lists; the teacher has them in view.
      new: a question about each person in them.
      known: one about each person that the base knows, no document in view.
    """

    documents: list[tuple[int, ...]]
    new: list[Exchange]
    known: list[Exchange]


def day_of(seed: int) -> Day:
    """A day; every seed has other people and homes."""
    rng = np.random.default_rng(100 + seed)
    people = rng.permutation(NEW)[: DOCUMENTS * PEOPLE].reshape(DOCUMENTS, PEOPLE)
    homes = random_homes(rng, people.size).reshape(people.shape)
    documents = [(START, *sentences(rng, *row, SENTENCES // 2)) for row in zip(people, homes)]

    def asked(document, name, home, kind):
        student = (START, int(name))
        teacher = student[document is not None :]  # a document begins with START
        return Exchange(document, student, teacher, (int(home),), kind)

    new = [
        asked(i, name, home, "answer")
        for i in range(DOCUMENTS)
        for name, home in zip(people[i], homes[i])
    ]
    known = [asked(None, *row, "rehearse") for row in zip(KNOWN, KNOWN_HOMES)]
    return Day(documents, new, known)


def nights(params, cfg: DecoderConfig, seed: int, rates: Sequence[float]) -> list[dict]:
    """The night of a day at each of several learning rates.

    Returns:
      For each rate a dictionary: rate; kl_before, kl_after, the divergence from the teacher about
      the documents' people, nats a token; known_kl, from the base about known people, after the
      night; open_book, recall_before, recall_after, the share of the documents' people whose home
      is named with the document in view, and without it before and after the night; known_before,
      known_after, of known people; first_order_fall, as for `run_consolidation`.
    """
    day, rng = day_of(seed), jax.random.key(seed)
    memory, slots = init_memory(rng, cfg.memory, layers=cfg.layers, width=cfg.width)
    state = MemoryState(memory, slots)
    awake = state.variables(params)
    teachers = [Teacher(cfg, awake, read(cfg, awake, [*day.documents, ()])[0])]
    transaction = begin_consolidation(cfg, WakeConfig(), state, 0, "commit_then_clear", rng)
    student = transaction.student.variables(params)

    exchanges = [*day.new, *day.known]
    states = precompute(cfg, student, teachers, exchanges, SHAPE)
    about = {"new": (day.new, states[: len(day.new)]), "known": (day.known, states[len(day.new) :])}

    def divergence(variables, kind):
        return mean_divergence(cfg, variables, *about[kind], teachers, SHAPE)

    before = divergence(student, "new")
    gradient = first_gradient(cfg, student, 1, 0, *about["new"], teachers, SEEDING)
    norm = float(optax.tree.norm(gradient, ord=1))
    [*packed] = pack_exchanges(exchanges, SHAPE)
    batch = make_batch(exchanges, states, packed, SHAPE)
    seeded = seed_slots(cfg, SEEDING.steps, student, batch, jnp.asarray(rates, jnp.float32))

    out = []
    for i, rate in enumerate(rates):
        slot = jax.tree.map(lambda x, i=i: x[i], seeded)
        asleep = student | {"memory": put_slot(student["memory"], 1, 0, slot)}
        distance = dataclasses.replace(SEEDING, learning_rate=rate).distance
        out.append(
            {
                "rate": rate,
                "kl_before": before,
                "kl_after": divergence(asleep, "new"),
                "known_kl": divergence(asleep, "known"),
                "first_order_fall": distance * norm / before,
                "open_book": recall(cfg, awake, day.new, day.documents),
                "recall_before": recall(cfg, awake, day.new),
                "recall_after": recall(cfg, asleep, day.new),
                "known_before": recall(cfg, awake, day.known),
                "known_after": recall(cfg, asleep, day.known),
            }
        )
    return out


@functools.partial(jax.jit, static_argnames=("cfg", "steps"))
def seed_slots(cfg: DecoderConfig, steps: int, student, batch, rates):
    """Slot 0 of level 1 after a night at each of the rates, stacked: `SeedingConfig.optimizer`
    whose peak is an array, and every update on the whole batch."""
    unit = dataclasses.replace(SEEDING, steps=steps, learning_rate=1.0).schedule

    adam = optax.inject_hyperparams(
        lambda peak: optax.chain(
            optax.clip_by_global_norm(1.0), optax.adam(lambda step: peak * unit(step))
        )
    )(peak=1.0)

    def night(rate):
        state = init_state(take_slot(student["memory"], 1, 0), adam)
        state = state.replace(opt_state=state.opt_state._replace(hyperparams={"peak": rate}))

        def update(state, _):
            step = (cfg, OBJECTIVE, adam, 1, jnp.int32(0), state, student, batch)
            return seeding_step(*step)[0], None

        return jax.lax.scan(update, state, length=steps)[0].slot

    return jax.lax.map(night, rates)


def recall(cfg: DecoderConfig, variables, exchanges, documents=None) -> float:
    """Share of exchanges whose completion, a home, is the likeliest; with their documents in view
    where these are given."""
    prompts = [
        e.student if documents is None else documents[e.document] + e.teacher for e in exchanges
    ]
    tokens, mask = pad(prompts, max(map(len, prompts)))
    homes = [e.completion[0] for e in exchanges]
    return float(jnp.mean(next_token(cfg, variables, tokens, mask) == jnp.asarray(homes)))
