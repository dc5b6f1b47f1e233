"""A finished run as the forecast is given it: its sizes, and the programs that it called."""

import functools
import sys

import jax

from sleep_jax.data.sentences import sentences
from sleep_jax.dreaming.write import Dream
from sleep_jax.experiment import Experiment
from sleep_jax.interop.prompts import answer_request
from sleep_jax.phases.consolidate import held_out
from sleep_jax.phases.dream_contexts import pages, rehearsed, reward_items, subjects
from sleep_jax.phases.evaluate import question_prompt, questions_of
from sleep_jax.phases.learn import lessons_of
from sleep_jax.phases.own_questions import longest_prompt, own_questions
from sleep_jax.phases.run_state import RunState
from sleep_jax.phases.study import studied
from sleep_jax.phases.trial import kept_dreams, trials
from sleep_jax.programs.program import signature
from sleep_jax.programs.sizes import Sizes


def jitted() -> dict[str, list[tuple[object, str]]]:
    """Every jitted function of the package, with the modules and names that hold it."""
    kind, places = type(jax.jit(lambda: None)), {}
    for name, module in list(sys.modules.items()):
        if name.startswith("sleep_jax"):
            for attribute, value in list(vars(module).items()):
                if isinstance(value, kind):
                    places.setdefault(value, []).append((module, attribute))
    return places


def record_calls(patch) -> list:
    """A list to which every call of a jitted function adds its signature, (name, arguments); a call
    within another program is part of that one.
    """
    calls = []

    def recorder(function):
        @functools.wraps(function)
        def call(*args, **named):
            if not any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves((args, named))):
                calls.append(signature(function, *args, **named))
            return function(*args, **named)

        return call

    for function, places in jitted().items():
        recording = recorder(function)
        for module, attribute in places:
            patch.setattr(module, attribute, recording)
    return calls


def sizes_of(experiment: Experiment, run: RunState, self_asked: list[str], learn_updates: int):
    """The sizes of the first day of a finished run.

    Args:
      experiment: that was run.
      run: what it left.
      self_asked: questions of the model's own that it answered in the study.
      learn_updates: that its dreams took.
    """
    prompts, day = experiment.prompts, experiment.days[0]
    documents, templates = pages(experiment, run, 0), experiment.settings.dreaming.writing.templates
    about = [len(prompts.tell_about(page)) for page in documents]
    items, dreams = reward_items(experiment, run, 0), map(Dream.from_record, run.day(0)["dreams"])
    kept = kept_dreams(run, 0)
    learnt, passages = trials(experiment, run, 0, kept)
    _, lessons, written = lessons_of(experiment, run, 0, documents)
    written_about = sorted(subjects(experiment, run, 0))
    return Sizes(
        contexts=tuple(len(prompts.context(x)) for x in day.documents),
        stream=len(experiment.stream(0)),
        ask=tuple(
            len(prompts.question_prompt(s)) for d in day.documents for s in sentences(d.text)
        ),
        answer=tuple(len(prompts.with_context(answer_request(q))) for q in self_asked),
        rehearse=tuple(
            len((prompts.plain if i % 2 else prompts.without_context)(topic))
            for i, topic in enumerate(experiment.topics)
        ),
        earlier=tuple(len(e["student"]) for e in run.day(0)["study"]["earlier"]),
        suggest=(),  # without variants
        vary=(),
        exchanges=tuple(studied(experiment, run, 0)),
        probe=tuple(held_out(experiment, run, 0)),
        pages=tuple(len(prompts.context(page)) for page in documents),
        write={
            form: tuple(
                len(t.tokens(prompts, documents[i]))
                for i in written_about
                for t in templates
                if t.form == form
            )
            for form in {t.form for t in templates}
        },
        dreams=tuple(
            (x.document, (about[x.document], len(prompts.reply_without_thought(x.tokens))))
            for x in dreams
            if x.document in items.documents
        ),
        targets=tuple((n, len(prompts.reply(page.text))) for n, page in zip(about, documents)),
        kept=tuple(x.document for x in kept),
        trials=tuple(
            tuple((len(given), len(scored)) for given, scored in trial)
            for trial in (*learnt, *passages.values())
        ),
        passages=tuple(passages),
        items=tuple(
            tuple(
                (len(prompts.without_context(q.question)), len(prompts.reply(q.answers[0])))
                for q in (items.about(i) if i in items.documents else ())
            )
            for i in range(len(documents))
        ),
        lessons=(*lessons, *rehearsed(experiment, run, 0)),
        written=tuple(written),
        learn_updates=learn_updates,
        questions=tuple(
            tuple(len(question_prompt(experiment, text, in_view)) for in_view in (False, True))
            for _, text in questions_of(experiment, run, 0)
        ),
        anchors=tuple(anchors.tokens.shape for anchors in experiment.anchors.values()),
        own_question=tuple(
            longest_prompt(experiment, own_questions(experiment, run, 0), in_view)
            for in_view in (False, True)
        ),
    )
