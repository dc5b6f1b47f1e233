"""A finished run as the forecast is given it: its sizes, and the programs that it called."""

import dataclasses
import functools
import sys

import jax

from sleep_jax.data.sentences import sentences
from sleep_jax.dreaming.write import Dream
from sleep_jax.experiment import Experiment
from sleep_jax.forecast.programs import programs_of
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
from sleep_jax.runtime.mesh import make_mesh
from sleep_jax.runtime.metrics import read_metrics
from sleep_jax.sampling.sampler import SamplingConfig

# Jitted functions of a run that no phase lists, and why.
NOT_LISTED = {
    "_take_rows": "copies rows of a context; no product",
    "_sums": "the fingerprint of the weights, once a run",
    "_differs": "compares what a checkpoint would hold twice; no product",
    "similarity": "the edit distances of Eq. 4, small beside a decoder",
}


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
        screen=(),  # without screening
        ask=tuple(
            len(prompts.question_prompt(s)) for d in day.documents for s in sentences(d.text)
        ),
        answer=tuple(len(prompts.with_context(answer_request(q))) for q in self_asked),
        rehearse=tuple(
            len((prompts.plain if i % 2 else prompts.without_context)(topic))
            for i, topic in enumerate(experiment.topics)
        ),
        free_texts=(),
        ask_again=(),  # without questions about rehearsals
        read_again=(),
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


def check_programs(programs, calls) -> None:
    """Every call of a program that counts is of one that was listed, and none is listed in vain."""
    called = {_comparable(x) for x in calls if x[0] not in NOT_LISTED}
    listed = {_comparable(program.signature): program.name for program in programs}
    assert not [_shapes_of(x) for x in called - listed.keys()]
    assert not [(listed[x], _shapes_of(x)) for x in listed.keys() - called]


def check_programs_of_a_run(experiment: Experiment, run: RunState, workdir, calls) -> None:
    """`check_programs` of a finished run of one day whose every phase had something to do."""
    assert not [x for x in run.record["phases"].values() if "skipped" in x]
    study = run.day(0)["study"]
    articulated = {f"What is said about {x.title}?" for x in experiment.documents}
    self_asked = [q["question"] for q in (*study["held_out"], *study["learnt"])]
    self_asked = [question for question in self_asked if question not in articulated]
    updates = sum(x["phase"] == "learn" and "loss" in x for x in read_metrics(workdir))
    sizes, config = sizes_of(experiment, run, self_asked, updates), experiment.config
    check_programs(programs_of(config, make_mesh(config), sizes, jax.default_backend()), calls)


def _comparable(signature):
    """Without the ends of turns: token 0 stands for those of any tokenizer."""
    name, leaves = signature
    return name, tuple(
        (path, dataclasses.replace(x, eos_ids=()) if isinstance(x, SamplingConfig) else x)
        for path, x in leaves
    )


def _shapes_of(signature):
    """A signature without the collections of the model, to be read."""
    name, leaves = signature
    skipped = ("params", "memory", "slots", "lora", "cfg")
    return name, [(p, x) for p, x in leaves if not any(word in p for word in skipped)]
