"""The dream contexts of a night: which documents its dreams are about, of this day and of earlier
ones (`dreaming.curriculum`).

A dream names its document by its page, an index: first come the documents of the day, then the weak
ones of the dream contexts, as the model recollects them.
"""

import dataclasses

from sleep_jax.data.answers import canonical
from sleep_jax.data.documents import Document
from sleep_jax.dreaming.curriculum import (
    OLD,
    RECENT,
    ROLES,
    WEAK,
    DreamContext,
    draw_contexts,
    recollected_document,
)
from sleep_jax.dreaming.write import Dream
from sleep_jax.evals.adapted import AdaptedModels
from sleep_jax.evals.items import Item, RewardItems
from sleep_jax.evals.rubric import Rubric
from sleep_jax.evals.scorers import Scorer, make_scorer
from sleep_jax.experiment import Experiment
from sleep_jax.phases.run_state import RunState
from sleep_jax.phases.screened import documents_to_learn
from sleep_jax.seeding.sequences import Exchange
from sleep_jax.study.self_study import Study


def draw_dream_contexts(
    experiment: Experiment, run: RunState, day: int
) -> tuple[RunState, dict[str, float]]:
    """Puts on record what the night dreams about.

    Returns:
      (run, figures): by role, the number of documents and, where it was measured, their mean tau.
    """
    config = experiment.settings.dreaming.curriculum
    today = [(day, i) for i in range(len(experiment.days[day].documents))]
    known = [*_earlier(experiment, run, day), *today]
    answered = dict.fromkeys(known)
    if len(known) > len(today) or 0 < config.recent < len(today):
        answered |= _answered(experiment, run, day, known)
    drawn = draw_contexts(config, answered, day, int(experiment.config.seed))
    figures = {f"contexts_{role}": sum(x.role == role for x in drawn) for role in ROLES}
    for role in ROLES:
        if taus := [x.tau for x in drawn if x.role == role and x.tau is not None]:
            figures[f"tau_{role}"] = sum(taus) / len(taus)
    return run.note_day(day, dream_contexts=[dataclasses.asdict(x) for x in drawn]), figures


def pages(experiment: Experiment, run: RunState, day: int) -> tuple[Document, ...]:
    """The documents of a day and, as they are recollected, the weak ones of its dream contexts."""
    return (
        *documents_to_learn(experiment, run, day),
        *(_recollected(experiment, run, day, x) for x in _contexts(run, day) if x.role == WEAK),
    )


def subjects(experiment: Experiment, run: RunState, day: int) -> dict[int, DreamContext]:
    """What dreams of a night are about, by page."""
    drawn = _contexts(run, day)
    weak = [x for x in drawn if x.role == WEAK]
    recent = {x.document: x for x in drawn if x.role == RECENT}
    return recent | dict(enumerate(weak, len(experiment.days[day].documents)))


def dreamt_before(experiment: Experiment, run: RunState, day: int) -> dict[int, list[str]]:
    """What was dreamt on earlier days about what a night dreams about, by page."""
    dreams = _dreams_before(experiment, run, day)
    return {
        page: [dream.text for dream, _ in dreams.get((x.day, x.document), ())]
        for page, x in subjects(experiment, run, day).items()
    }


def reward_items(experiment: Experiment, run: RunState, day: int) -> RewardItems:
    """The model's own questions that reward dreams of a night, by page; none where it wrote none.

    Raises:
      AssertionError: one of them is a test question.
    """
    about = subjects(experiment, run, day)
    documents = {page: (x.day, x.document) for page, x in about.items()}
    return _items(experiment, run, day, documents)


def tau(experiment: Experiment) -> Scorer:
    """The scorer that measures how well questions are answered."""
    name = experiment.settings.dreaming.reward.scorer
    return make_scorer(
        name, lambda: Rubric(experiment.cfg, experiment.params, experiment.tokenizer)
    )


def model_under_eval(experiment: Experiment, run: RunState) -> AdaptedModels:
    """The model as it is, for scorers."""
    longest = experiment.settings.evaluation.max_new_tokens
    model = run.current.variables(experiment.params)
    return AdaptedModels(experiment.cfg, model, experiment.tokenizer, max_new_tokens=longest)


def rehearsed(experiment: Experiment, run: RunState, day: int) -> list[Exchange]:
    """What was dreamt about the old documents of the dream contexts, closed book; where nothing was
    and their text is kept, the text."""
    out, prompts = [], experiment.prompts
    best = _best(_dreams_before(experiment, run, day))
    for x in (x for x in _contexts(run, day) if x.role == OLD):
        document = documents_to_learn(experiment, run, x.day)[x.document]
        prompt, dreams = prompts.tell_about(document), best.get((x.day, x.document), ())
        replies = [prompts.reply_without_thought(dream.tokens) for dream, _ in dreams]
        replies = replies or [prompts.reply(document.text)]
        out += [Exchange(None, prompt, prompt, reply, "rehearse") for reply in replies]
    return out


def _contexts(run: RunState, day: int) -> list[DreamContext]:
    return [DreamContext(**x) for x in run.day(day).get("dream_contexts", [])]


def _earlier(experiment: Experiment, run: RunState, day: int) -> list[tuple[int, int]]:
    """(day, document) of each earlier document that can be dreamt about: by its text, where that is
    kept, or by earlier dreams. Forgotten days are left out."""
    if experiment.config.dreaming.curriculum.source == "dreams":
        known = list(_dreams_before(experiment, run, day))
    else:
        known = [(d, i) for d in range(day) for i in range(len(experiment.days[d].documents))]
    return [(d, i) for d, i in known if not run.is_forgotten(d)]


def _dreams_before(
    experiment: Experiment, run: RunState, day: int
) -> dict[tuple[int, int], list[tuple[Dream, bool]]]:
    """What was dreamt on earlier days, by (day, document), oldest first, and whether it earned a
    reward."""
    dreams: dict[tuple[int, int], list[tuple[Dream, bool]]] = {}
    for earlier in range(day):
        record, about = run.day(earlier), subjects(experiment, run, earlier)
        rewards = dict(zip((k["dream"] for k in record.get("kept", [])), record.get("rewards", [])))
        for i, dream in enumerate(map(Dream.from_record, record.get("dreams", []))):
            x = about[dream.document]
            dreams.setdefault((x.day, x.document), []).append((dream, rewards.get(i, 0) > 0))
    return {x: dreams[x] for x in sorted(dreams)}


def _best(dreams):
    """Of `_dreams_before`, the rewarded dreams about each document; all where none was rewarded."""
    return {x: [pair for pair in pairs if pair[1]] or pairs for x, pairs in dreams.items()}


def _recollected(experiment: Experiment, run: RunState, day: int, x: DreamContext) -> Document:
    document = documents_to_learn(experiment, run, x.day)[x.document]
    if experiment.config.dreaming.curriculum.source == "text":
        return document
    best = _best(_dreams_before(experiment, run, day))[x.day, x.document]
    return recollected_document(
        document,
        [dream.text for dream, _ in best],
        lambda text: len(experiment.tokenizer.encode(text)),
        int(experiment.config.data.chunk_tokens),
    )


def _items(
    experiment: Experiment, run: RunState, today: int, pages: dict[int, tuple[int, int]]
) -> RewardItems:
    """The model's own questions about documents, given as {page: (day, document)}. One that it
    wrote on an earlier day, and that has become a test question since, is left out.
    """
    items, tests = [], {q.text for q in experiment.questions_until(today)}
    asked = {canonical(text) for text in tests}
    for page, (day, document) in pages.items():
        record = run.day(day)
        held_out = Study.from_record(record["study"]).held_out if "study" in record else ()
        questions = [q for q in held_out if q.document == document]
        if day < today:
            questions = [q for q in questions if canonical(q.question) not in asked]
        items += [Item(page, q.question, (q.answer,)) for q in questions]
    return RewardItems.checked_against(tests, items)


def _answered(
    experiment: Experiment, run: RunState, day: int, known
) -> dict[tuple[int, int], float]:
    """tau of the model as it is after a day, of each of these documents that has questions."""
    items = _items(experiment, run, day, dict(enumerate(known)))
    indices = sorted(items.documents)
    if not indices:
        return {}
    model = model_under_eval(experiment, run)
    scores = tau(experiment)(model, [items.about(i) for i in indices])
    return {known[i]: score.mean for i, score in zip(indices, scores)}
