"""The teachers of a night, of what is new and of what was known before (`Exchange.is_known`).

    seeding.teacher        what teaches the day, with its documents in context
    self                   the model that has read, as it was when the day ended
    base                   the model without any memory
    ema                    self with the night's slot, which follows the student's

    seeding.known_teacher  what writes and teaches what was known, closed book
    before                 the memory before what is handed over was learnt
    self                   the night's teacher, which the day has moved
    base                   the model without any memory

    seeding.rehearsal_teacher  what writes and teaches rehearsals among it
    known                      as seeding.known_teacher
    base                       the model without any memory

A level that hands over to the next one teaches what is new itself, whatever `seeding.teacher` is.
"""

import dataclasses
from collections.abc import Sequence

from sleep_jax.data.documents import Document
from sleep_jax.experiment import Experiment
from sleep_jax.memory.slots import put_slot, put_wake, take_wake, zeroed_wake
from sleep_jax.phases.run_state import RunState, reader
from sleep_jax.seeding.sequences import Teacher
from sleep_jax.seeding.taught_states import TeacherWithSlot
from sleep_jax.seeding.transaction import MemoryState, Transaction
from sleep_jax.wake.context import read


def teacher_of_day(experiment: Experiment, run: RunState, documents: Sequence[Document]) -> Teacher:
    """The teacher of a day: a model with documents in context; what was known has its own."""
    has_read = run.before_sleep
    base, before = has_read.without_memory(), has_read
    if run.current.wake is not None:
        # Of levels that have slept since, nothing is left that they learnt by day; what others did
        # is in the student, too.
        before = has_read.replace(memory=put_wake(has_read.memory, take_wake(run.current.memory)))
    state = base if experiment.settings.seeding.teacher == "base" else has_read
    teacher = reader(experiment, experiment.cfg, state.variables(experiment.params), documents)
    known = {"self": has_read, "before": before, "base": base}
    return _with_known(experiment, teacher, state, known)


def teacher_of_level(experiment: Experiment, transaction: Transaction) -> Teacher:
    """The teacher of what a level holds, closed book; what was known has its own: the level before
    the transaction without what its wake weights have learnt. A merge hands over nothing new."""
    state = before = transaction.teacher
    if transaction.before.wake is not None and not transaction.is_merge:
        memory = zeroed_wake(transaction.before.memory, [transaction.level - 1])
        before = transaction.before.replace(memory=memory)
    variables = state.variables(experiment.params)
    teacher = Teacher(experiment.cfg, variables, read(experiment.cfg, variables, [()])[0])
    known = {"self": state, "before": before, "base": state.without_memory()}
    return _with_known(experiment, teacher, state, known)


def _with_known(
    experiment: Experiment, teacher: Teacher, state: MemoryState, known: dict[str, MemoryState]
) -> Teacher:
    """A teacher with the teachers of what was known and of rehearsals, chosen by their names;
    `state` is its memory."""
    seeding = experiment.settings.seeding
    chosen, rehearsing = known[seeding.known_teacher], known["base"]
    if chosen is not state:
        known_variables = chosen.variables(experiment.params)
        teacher = dataclasses.replace(teacher, known_variables=known_variables)
    if seeding.rehearsal_teacher == "known" or rehearsing is chosen:
        return teacher
    is_its_own = rehearsing is state
    variables = teacher.variables if is_its_own else rehearsing.variables(experiment.params)
    return dataclasses.replace(teacher, rehearsal_variables=variables)


def with_other_teachers(
    experiment: Experiment, teacher: Teacher, documents: Sequence[Document]
) -> list[Teacher]:
    """The teacher of a day and, in general Knowledge Seeding, other checkpoints that have read the
    same documents, by their weights."""
    weight, *weights = experiment.settings.seeding.teacher_weights
    others = [
        dataclasses.replace(reader(experiment, cfg, {"params": params}, documents), weight=other)
        for (cfg, params), other in zip(experiment.others, weights)
    ]
    return [dataclasses.replace(teacher, weight=weight), *others]


def teacher_with_slot(
    experiment: Experiment,
    teacher: Teacher,
    transaction: Transaction,
    documents: Sequence[Document],
) -> TeacherWithSlot | None:
    """What makes the teacher of a day that has a slot, for `seeding.teacher='ema'`: the student of
    the transaction with documents in its context, which it reads with the slot. None: another
    teacher, which stays as it is."""
    if experiment.settings.seeding.teacher != "ema":
        return None
    student, known = transaction.student, teacher.of_known.variables
    rehearsal = teacher.of_rehearsals.variables

    def teacher_with(slot) -> Teacher:
        memory = put_slot(student.memory, transaction.level, transaction.index, slot)
        variables = student.replace(memory=memory).variables(experiment.params)
        follower = reader(experiment, experiment.cfg, variables, documents)
        return dataclasses.replace(
            follower,
            weight=teacher.weight,
            known_variables=known,
            rehearsal_variables=rehearsal,
        )

    return teacher_with
