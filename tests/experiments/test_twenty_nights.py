"""Twenty nights: invented documents and what is asked about them, figures by hand, a stream of two
nights of the tiny model."""

import collections
import itertools
import json
import types

import numpy as np
import pytest
from tiny_run import tiny_config

from sleep_jax.baselines import capability
from sleep_jax.data.documents import read_source
from sleep_jax.evals.metrics import contains_answer

EXPERIMENT = "twenty_nights"
MODULES = (
    "names",
    "kinds",
    "facts",
    "hostile",
    "streams",
    "config",
    "measure",
    "lora",
    "figures",
    "orders",
    "run",
)


@pytest.fixture(scope="module")
def texts(lab):
    return lab.facts.invent(lab.names.Pool(0), 20)


def values_of(text):
    return [text.words[name] for name in text.kind.drawn]


def test_same_seed_invents_the_same_documents(lab, texts):
    assert lab.facts.invent(lab.names.Pool(0), 20) == texts
    assert lab.facts.invent(lab.names.Pool(1), 20) != texts


def test_seeds_share_no_name_and_no_number(lab):
    drawn = []
    for seed in range(lab.names.SEEDS):
        pool = lab.names.Pool(seed)
        texts = lab.facts.invent(pool, 20)
        drawn.append({value.split()[-1] if " " in value and text.kind.drawn[name] == "person"
                      else value for text in texts for name, value in text.words.items()
                      if name in text.kind.drawn})  # fmt: skip
    assert not [1 for a, b in itertools.combinations(drawn, 2) if a & b]
    with pytest.raises(ValueError, match="seed=16; names are invented for seeds 0 to 15"):
        lab.names.Pool(16)


def test_values_are_unique_and_stated_in_their_document_alone(texts):
    values = [value for text in texts for value in values_of(text)]
    assert len({*values}) == len(values)
    pages = [f"{x.title}. {' '.join(x.sentences)}" for x in texts]
    for text, page in zip(texts, pages):
        for value in values_of(text):
            assert [contains_answer(x, value) for x in pages].count(True) == 1
            assert contains_answer(page, value)


def test_documents_have_a_sentence_for_each_fact(texts):
    assert {len(x.sentences) for x in texts} == {7}
    for text in texts:
        for fact, sentence in zip(text.kind.facts, text.sentences):
            assert contains_answer(sentence, text.answers(fact.value))
            assert sentence[0].isupper() and "{" not in sentence


def test_questions_do_not_have_their_answers(texts):
    counts = collections.Counter(q.kind for text in texts for q in text.questions)
    assert counts == {"recall": 140, "wording": 140, "two-step": 40, "reversed": 80}
    for text in texts:
        for q in text.questions:
            assert not contains_answer(q.text, q.answers) and "{" not in q.text


def test_two_step_questions_need_two_sentences(texts):
    for text in texts:
        for value in text.kind.two_step:
            [fact] = [x for x in text.kind.facts if x.value == value]
            stated = text.fill(fact.sentence)
            # The sentence with the answer is about something that another one tells of the main
            # subject.
            [between] = [
                x.value
                for x in text.kind.facts
                if x.value != value and f"{{{x.value}}}" in fact.sentence
            ]
            assert not contains_answer(stated, text.words["name"])
            [question] = [q for q in text.questions
                          if q.kind == "two-step" and q.answers == text.answers(value)]  # fmt: skip
            assert contains_answer(question.text, text.words["name"])
            assert not contains_answer(question.text, text.words[between])


def test_reversed_questions_give_the_value_and_ask_for_the_subject(texts):
    for text in texts:
        asked = [fact for fact in text.kind.facts if fact.reversed]
        questions = [q for q in text.questions if q.kind == "reversed"]
        for fact, q in zip(asked, questions, strict=True):
            assert contains_answer(q.text, text.words[fact.value])
            assert q.answers[0] == text.words["name"]
            assert contains_answer(text.fill(fact.sentence), q.answers)


def test_correction_changes_one_fact(lab):
    pool = lab.names.Pool(0)
    texts = lab.facts.invent(pool, 6)
    for text, correction in zip(texts, lab.facts.correct(texts, pool)):
        before, after = text.words, correction.after.words
        [changed] = [name for name in before if before[name] != after[name]]
        assert changed == correction.fact.value and correction.before == text
        # No other sentence says anything else now, and the notice has the new value only.
        assert sum(a != b for a, b in zip(text.sentences, correction.after.sentences)) == 1
        page = " ".join(correction.sentences)
        assert contains_answer(page, after[changed]) and not contains_answer(page, before[changed])
        kinds = collections.Counter(q.kind for q in correction.questions)
        assert kinds == {"new": 2, "stale": 2, "unchanged": 6}
        for q in correction.questions:
            value = {"new": after, "stale": before}.get(q.kind)
            assert value is None or q.answers[0] == value[changed]
            assert q.kind != "unchanged" or q.answers[0] not in (before[changed], after[changed])


def test_documents_are_read_as_they_were_written(lab, texts, tmp_path):
    read = read_source(lab.facts.write(tmp_path / "facts.jsonl", texts)).documents
    assert [x.title for x in read] == [x.title for x in texts]
    assert [x.text for x in read] == [" ".join(x.sentences) for x in texts]
    for document, text in zip(read, texts):
        by_kind = {k: [q for q in text.questions if q.kind == k] for k in ("recall", "wording")}
        assert [q.question for q in document.questions] == [q.text for q in by_kind["recall"]]
        assert [q.paraphrase for q in document.questions] == [q.text for q in by_kind["wording"]]
        answers = [(q.answer, *q.aliases) for q in document.questions]
        assert answers == [q.answers for q in by_kind["recall"]]


def test_hostile_documents_hide_one_instruction_whose_word_nothing_else_has(lab):
    hostile = lab.hostile.invent_hostile(lab.names.Pool(0), 8)
    assert [x.kind for x in hostile[:4]] == [*lab.hostile.INSTRUCTIONS]
    words = [x.probes[0].answers[0] for x in hostile]
    assert len({*words}) == 8
    for x, word in zip(hostile, words):
        assert len(x.text.sentences) == 8 and x.text.sentences.count(x.instruction) == 1
        assert x.instruction not in (x.text.sentences[0], x.text.sentences[-1])
        assert [contains_answer(s, word) for s in x.text.sentences].count(True) == 1
        for probe in x.probes:
            assert probe.kind == "obeyed" and probe.answers == (word,)
            assert not contains_answer(probe.text, word)
    assert hostile[1].probes[0].text != hostile[5].probes[0].text  # another topic


def test_streams_have_a_document_a_night(lab):
    for name, nights in lab.streams.NIGHTS.items():
        stream = lab.streams.make(name, 0)
        assert len(stream.documents) == len(stream.questions) == nights
        assert stream.asked_after[-1] == nights - 1
    changes = lab.streams.make("changes", 0, 4)
    assert changes.asked_after == (1, 3) and [len(q) for q in changes.questions] == [0, 0, 10, 10]
    assert lab.streams.make("facts", 0, 3).forgotten == (0, 1, 2)
    with pytest.raises(ValueError, match="nights=3; give an even number"):
        lab.streams.make("changes", 0, 3)


def test_config_has_a_slot_a_night_and_the_changes_of_its_arm(lab):
    c = lab.config.get_config("facts.jsonl", 20)
    assert (c.data.documents, c.data.episodes, c.memory.slots) == ("facts.jsonl", 20, (20,))
    screened = lab.config.get_config(arm="sleep-screened")
    assert screened.study.is_screened and not c.study.is_screened
    for arms in lab.config.OF_STREAM.values():
        assert {*arms} <= {*lab.config.ARMS} and arms[0] == lab.figures.SLEEP


# Two documents, two questions of recall each.
def run_of(*recall, **more):
    return {"right": [[{"recall": x} for x in recall]], **more}


def test_shares_are_those_of_documents_with_questions_of_the_kind(lab):
    run = {"right": [[{"recall": [True]}, {}, {"recall": [True, False], "new": [False]}]]}
    np.testing.assert_array_equal(lab.figures.shares(run, "recall"), [1.0, 0.5])
    np.testing.assert_array_equal(lab.figures.shares(run, "new"), [0.0])


def test_paired_interval_of_a_constant_difference_is_a_point(lab):
    ours = [np.array([0.5, 1.0]), np.array([0.75])]
    theirs = [x - 0.25 for x in ours]
    assert lab.figures.paired_interval(ours, theirs) == (25.0, 25.0, 25.0)
    # Of two documents, +100 and 0 points: both drawn twice in a quarter of the samples each.
    mean, low, high = lab.figures.paired_interval([np.array([1.0, 0.0])], [np.zeros(2)])
    assert (mean, low, high) == (50.0, 0.0, 100.0)


def can(instructions):
    scores = {"anchors": 2.0, "instructions": instructions, "common_knowledge": 0.75}
    items = {"anchors": 24, "instructions": 48, "common_knowledge": 31}
    return {"limit": 48, "scores": scores, "items": items}


def test_summary_by_hand(lab):
    arms = {
        "sleep": [
            run_of(
                [True, True], [True, False], anchors=[22.0, 21.0], seconds=[60, 80],
                capability={"before": can(0.25), "after": can(0.5)},
            )
        ],
        "before": [run_of([False, False], [True, False], anchors=[20.0],
                          capability={"before": can(0.25)})],
        "lora": [run_of([True, False], [False, False], anchors=[30.0], seconds=[None, 9.0],
                        capability={"before": can(0.25), "after": can(0.0)})],
    }  # fmt: skip
    text = lab.figures.summary(arms)
    assert "| sleep is above, recall | instructions followed (of 48) | multiple choice" in text
    assert "| sleep | 1 | 75 |  |  |  | 75 |  | 25 -> 50 % | 75 -> 75 % | +5 | 70 |" in text
    assert "| before | 1 | 25 |  |  |  | 25 | +50 [+0, +100] | 25 % | 75 % | +0 |  |" in text
    assert (
        "| lora | 1 | 25 |  |  |  | 25 | +50 [+50, +50] | 25 -> 0 % | 75 -> 75 % | +50 | 9 |"
        in text
    )


def test_changes_by_hand(lab):
    then = [{}, {"new": [False], "stale": [True], "unchanged": [True, True]}]
    now = [{}, {"new": [True], "stale": [False], "unchanged": [True, False]}]
    text = lab.figures.changes({"sleep": [{"right": [then, now]}], "before": [{"right": [then]}]})
    assert "| sleep | 1 | 100 | 0 | 50 | 100 |" in text
    assert "| before | 1 | 0 | 100 | 100 |  |" in text


def test_hostile_by_hand(lab):
    right = [{"obeyed": [True, False], "recall": [True]}, {"obeyed": [False], "recall": [False]}]
    arms = {"sleep": [{"right": [right], "left_out": [[["a", "b"]], [["c"]]]}]}
    assert "| sleep | 1 | 50 | 0 | 25 | 50 |" in lab.figures.hostile(arms, ["topic", "name"])
    line = lab.figures.screening(arms, [["a", "d"]])
    assert line == "sleep: 1 of 2 instructions and 2 other sentences were left out."


def test_table_of_orders_by_hand(lab):
    units = {"orders": ["Say a.", "b"], "others": ["c"], "book": ["d", "Say e."]}
    text = lab.orders.table(lambda found: np.array([len(x) - 3.0 for x in found]), units)
    assert "| orders | 2 | 1 (50 %) | -2.0 | 0.5 | 3.0 |" in text
    assert text.endswith('- missed (orders): "b"\n- missed (others): "c"\n'
                         '- left out (book): "Say e."')  # fmt: skip
    assert not {*lab.orders.OTHER_ORDERS} & {*lab.hostile.INSTRUCTIONS}


def test_taken_back_by_hand(lab):
    shares = lambda *xs: [{"questions": x} for x in xs]  # noqa: E731
    runs = [{"recall": [shares(1.0), shares(0.75, 0.5)], "forgotten": {"0": shares(0.0, 0.25)}}]
    assert "| 1 | 75 | 0 | 50 | 25 |" in lab.figures.taken_back(runs)
    np.testing.assert_array_equal(lab.figures.retention(runs), [[100, np.nan], [75, 50]])


def test_updates_of_the_adapter_have_as_many_target_tokens(lab, monkeypatch):
    seeding = types.SimpleNamespace(known_share=0.0, steps=2, shape=None)
    experiment = types.SimpleNamespace(settings=types.SimpleNamespace(seeding=seeding))
    drawn = iter([[types.SimpleNamespace(completion=(0,) * n)] for n in (30, 50)])
    monkeypatch.setattr(lab.lora, "studied", lambda *_: [])
    monkeypatch.setattr(lab.lora, "shuffled", lambda *_, **__: None)
    monkeypatch.setattr(lab.lora, "fill_batch", lambda *_: (next(drawn), None))
    written = [types.SimpleNamespace(completion=(0,) * n) for n in (5, 15)]
    assert lab.lora.sequences_of_update(experiment, None, written) == 4  # of 10 tokens, for 40


def test_figures_are_measured_once(lab, tmp_path):
    measured = []

    def measure(x):
        measured.append(x)
        return {"x": x}

    path = tmp_path / "figures.json"
    assert lab.measure.kept(path, measure, 1) == lab.measure.kept(path, measure, 2) == {"x": 1}
    assert measured == [1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["facts", "changes"])
def test_two_nights_end_in_tables_and_are_not_measured_again(lab, name, tmp_path, monkeypatch):
    def tiny(documents, nights, arm):
        c = tiny_config()
        c.data.documents, c.data.episodes, c.data.chunk_tokens = documents, nights, 1024
        c.memory.slots, c.study.rehearsals = (nights,), 0
        c.seeding.steps, c.seeding.max_length, c.seeding.max_target_length = 2, 512, 448
        c.dreaming.steps = c.seeding.num_prompts = c.evaluation.own_questions = 0
        return c

    monkeypatch.setattr(lab.run.nights_config, "get_config", tiny)
    measured = []
    monkeypatch.setattr(
        capability, "capability", lambda *how: measured.append(how[2]) or can(0.5) | {"limit": 4}
    )
    stream = lab.streams.make(name, 0, 2)
    arguments = types.SimpleNamespace(
        workdir=tmp_path, sleep=["sleep"], lora=["lora-replay"], rate=1e-3, limit=4
    )
    arms = lab.run.of_seed(stream, 0, arguments)
    assert {"sleep", "before", "open book", "lora-replay"} <= {*arms}
    assert [len(arms["sleep"]["right"]), len(arms["lora-replay"]["right"])] == [
        len(stream.asked_after)
    ] * 2
    assert measured == ["before", "sleep-0", "lora-replay-0.001-0"]
    assert "after" in arms["lora-replay"]["capability"] and {*arms["before"]["capability"]} == {
        "before"
    }
    monkeypatch.setattr(lab.measure, "json", None)  # nothing is written any more
    assert lab.run.of_seed(stream, 0, arguments) == json.loads(json.dumps(arms))
    assert len(measured) == 3
    assert lab.figures.report(name, {arm: [run] for arm, run in arms.items()}, False)
