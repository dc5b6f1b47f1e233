"""Variants of documents: who is asked for what, which texts are kept, and how many."""

import functools
import json

import jax
import pytest
from scripted import scripted

from sleep_jax.data.answers import canonical
from sleep_jax.data.documents import Document
from sleep_jax.data.sentences import sentences
from sleep_jax.dreaming.rejection import RejectionConfig
from sleep_jax.dreaming.templates import read_templates
from sleep_jax.interop.prompts import Prompts
from sleep_jax.interop.tiny import byte_tokenizer
from sleep_jax.study import strategies, variants
from sleep_jax.study.self_study import Study, without_documents
from sleep_jax.study.study_config import StudyConfig
from sleep_jax.study.variants import prompt_lengths, sampled_tokens, write_variants

MILL = Document("mill", "The Mill", "Anna built the mill in 1832. It ground oats for the village.")
LAMP = Document("lamp", "The Lamp", "The lamp on the old quay burns oil all night long.")
PAGE = f"{MILL.title} {MILL.text}"
REQUESTS = {  # of the student, of the teacher
    "paraphrase": (
        "Tell me in your own words about The Mill. Keep every name and number.",
        "Rewrite the text above in different words. Keep every name and number.",
    ),
    "implication": (
        "List several facts about The Mill, one a line.",
        "List several facts that follow from the text above, one a line.",
    ),
    "summary": (
        "Summarise what you know of The Mill in a few sentences.",
        "Summarise the text above in a few sentences.",
    ),
    "strategy": (
        "Do this with what you know of The Mill: Draw the mill by the river.",
        "Do this with the text above, and use only what it says: Draw the mill by the river.",
    ),
}
TEXTS = {
    "paraphrase": "In 1832 a mill was built by Anna.",
    "implication": "The village had oats from the mill.",
    "summary": "Anna's mill ground oats for the village.",
    "strategy": "The mill stands where oats are ground.",
}


@pytest.fixture
def prompts(tokenizer):
    return Prompts(tokenizer)


@pytest.fixture
def script(tokenizer, monkeypatch):
    return functools.partial(scripted, monkeypatch, variants, tokenizer)


def written(tokenizer, documents=(MILL,), excluded=(), min_words=5, **options):
    return write_variants(
        None,
        {},
        tokenizer,
        documents,
        "the context",
        StudyConfig(**options),
        RejectionConfig(min_words=min_words),
        excluded,
        jax.random.key(0),
    )


def room_for(tokenizer, document, *texts):
    """The multiple of a document that these texts fill to the last token."""
    tokens = sum(len(Prompts(tokenizer).reply(text)) for text in texts)
    return tokens / len(tokenizer.encode(document.text))


@pytest.mark.parametrize("kind", [x for x in REQUESTS if x != "strategy"])
def test_exchange_of_each_kind(kind, prompts, tokenizer, script):
    calls = script([[TEXTS[kind]]])
    [exchange], dropped = written(
        tokenizer, variants=(kind,), multiple=room_for(tokenizer, MILL, TEXTS[kind])
    )
    closed_book, open_book = REQUESTS[kind]
    assert exchange.student == prompts.without_context(closed_book)
    assert exchange.teacher == prompts.with_context(open_book)
    assert exchange.completion == prompts.reply(TEXTS[kind])
    assert (exchange.document, exchange.kind, dropped) == (0, kind, {})
    assert calls[0]["context"] == "the context" and calls[0]["documents"] == [0]
    assert calls[0]["prompts"] == [exchange.teacher]
    assert "1832" not in tokenizer.decode(exchange.student)


def test_exchange_of_a_strategy(prompts, tokenizer, script, monkeypatch):
    suggested = scripted(
        monkeypatch, strategies, tokenizer, [["Draw the mill by the river.\nText: x"], ["Go."]]
    )
    script([[TEXTS["strategy"]]])
    [exchange], _ = written(
        tokenizer, variants=("strategy",), multiple=room_for(tokenizer, MILL, TEXTS["strategy"])
    )
    closed_book, open_book = REQUESTS["strategy"]
    assert exchange.student == prompts.without_context(closed_book)
    assert exchange.teacher == prompts.with_context(open_book)
    assert (exchange.kind, exchange.completion) == ("strategy", prompts.reply(TEXTS["strategy"]))
    assert suggested[0]["prompts"] == [prompts.strategy_prompt(s) for s in sentences(MILL.text)]
    assert set(tokenizer.line_end_ids) < set(suggested[0]["sampling"].eos_ids)


def test_strategies_are_about_their_sentence_and_each_kept_once(tokenizer, monkeypatch):
    texts = ["Draw the mill.", "Weigh the oats."]
    scripted(monkeypatch, strategies, tokenizer, [[texts[0]], ["draw the mill"], [texts[0]]])
    document = Document("m", "The Mill", "Anna built the mill. It is a mill. It ground oats.")
    study = StudyConfig(multiple=1)
    found = strategies.suggest_strategies(None, {}, tokenizer, [document], study, jax.random.key(0))
    assert found == [["Draw the mill."]]  # once, and the third is not about the oats


@pytest.mark.parametrize(
    ("text", "claim"),
    [
        ("Draw the mill by the river.", True),
        ("Draw a ship.", False),
        ("Who built the mill?", False),  # might be one that only measures
        ("Draw the mill of Leeds.", False),
        ("Count the 12 wheels of the mill.", False),
        ("", False),
    ],
)
def test_is_strategy(text, claim):
    assert strategies.is_strategy(text, "Anna built the mill in 1832.", PAGE) == claim
    is_invented = "Leeds" in text or "12" in text
    loose = strategies.is_strategy(text, "Anna built the mill in 1832.", PAGE, is_grounded=False)
    assert loose == (claim or is_invented)


def test_templates_are_those_of_dreams():
    templates = read_templates()
    for kind, name in variants.TEMPLATES.items():
        assert templates[name].prompt == REQUESTS[kind][1]
        assert templates[name].closed_book.replace("{title}", "The Mill") == REQUESTS[kind][0]


def test_nothing_is_sampled_with_multiple_0(tokenizer, script):
    calls = script()
    assert written(tokenizer) == ([], {})
    assert calls == []


def test_writing_ends_when_each_document_has_its_multiple(tokenizer, script):
    """The lamp has its share after the first turn, the mill after the second."""
    long = "The lamp on the quay burns oil, and it does so all night long, on the old quay."
    mill = ["Anna built a mill.", "In 1832 the mill was built."]
    multiple = room_for(tokenizer, MILL, *mill) - 0.01
    assert room_for(tokenizer, LAMP, long) > multiple
    calls = script([[mill[0]], [long]], [[mill[1]], ["Oil burns in the lamp."]])
    exchanges, _ = written(
        tokenizer,
        (MILL, LAMP),
        min_words=3,
        variants=("summary",),
        multiple=multiple,
        max_variant_tokens=20,
    )
    assert [(e.document, tokenizer.decode(e.completion)) for e in exchanges] == [
        (0, mill[0]),
        (1, long),
        (0, mill[1]),
    ]
    assert len({len(call["prompts"]) for call in calls}) == 1  # one program


def test_turns_are_bounded(tokenizer, script):
    """Variants of full length would be twice the multiple: 2 * 3 * 60 / (2 * 20) = 9 turns."""
    tokens = len(tokenizer.encode(MILL.text))
    assert tokens == 60
    study = StudyConfig(multiple=3, max_variant_tokens=20, variants=("summary", "paraphrase"))
    assert study.variant_turns(tokens) == 9
    calls = script(*[[["No."], ["No."]]] * 9)
    exchanges, dropped = written(
        tokenizer, multiple=3, max_variant_tokens=20, variants=("summary", "paraphrase")
    )
    assert (len(calls), exchanges, dropped) == (9, [], {"short": 18})
    assert sampled_tokens(study, [tokens, 10], 5) == 2 * 9 * 2 * 20  # no strategy is suggested
    assert sampled_tokens(StudyConfig(), [tokens], 5) == 0


def test_kinds_take_turns_at_the_first_place():
    first = [
        (request.document, request.kind)
        for request in variants.requests_of_turn(
            [MILL, LAMP], ("summary", "paraphrase", "strategy"), [["Sing it aloud."], []], 0
        )
    ]
    assert first == [
        (0, "summary"),
        (0, "paraphrase"),
        (0, "strategy"),
        (1, "paraphrase"),  # without a strategy
        (1, "summary"),
    ]


def test_each_turn_follows_the_next_strategy():
    asked = [
        request.open_book
        for turn in range(3)
        for request in variants.requests_of_turn([MILL], ("strategy",), [["Sing.", "Draw."]], turn)
    ]
    assert ["Sing." in asked[0], "Draw." in asked[1], asked[2]] == [True, True, asked[0]]


@pytest.mark.parametrize(
    ("text", "is_finished", "kept"),
    [
        ("It ground oats.", True, "It ground oats."),
        ("It ground oats. Bert ate the oats of Leeds.", True, "It ground oats."),
        ("It ground oats. The mill is of 1833. It is old.", True, "It ground oats. It is old."),
        ("1. It ground oats.\n2. Made in Leeds.\n3. Anna", True, "1. It ground oats.\n3. Anna"),
        ("- In 1833 it burnt.\n\n- It  ground oats.", True, "- It ground oats."),
        ("It ground oats. Anna bu", False, "It ground oats."),
        ("It ground oats.\n\nIn 18", False, "It ground oats."),
        ("It ground", False, ""),
        ("Who built the mill? Anna built it.", True, "Anna built it."),
        ("", True, ""),
    ],
)
def test_sentences_to_keep(text, is_finished, kept):
    asked = {canonical("Who built the mill?")}
    assert variants.sentences_to_keep(text, is_finished, PAGE, asked) == kept


def test_invented_facts_stay_without_grounding():
    text = "The mill ground oats for Bert of Leeds."
    assert variants.sentences_to_keep(text, True, PAGE, (), is_grounded=False) == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "short"),
        ("Oats for all.", "short"),
        ("The mill ground oats for Bert of Leeds.", "short"),  # nothing is left
        ("Oats oats oats oats oats oats oats oats oats oats.", "loop"),
        (MILL.text, "copy"),
        ("Who built the mill of the village?", "short"),
        ("The village had oats from the mill.", None),
    ],
)
def test_texts_are_dropped_as_dreams_are(text, reason, tokenizer, script):
    script([[text]])
    exchanges, dropped = written(
        tokenizer,
        excluded=["Who built the mill of the village?"],
        variants=("summary",),
        multiple=0.1,
        max_variant_tokens=100,
    )
    assert (len(exchanges), dropped) == ((0, {reason: 1}) if reason else (1, {}))


def test_repeated_texts_are_dropped(tokenizer, script):
    texts = ["No.", TEXTS["summary"], TEXTS["summary"]]
    script(*[[[text]] for text in texts], *[[["No."]]] * 9)
    exchanges, dropped = written(
        tokenizer, variants=("summary",), multiple=3, max_variant_tokens=30
    )
    assert [tokenizer.decode(e.completion) for e in exchanges] == [TEXTS["summary"]]
    assert dropped == {"short": 10, "duplicate": 1}


@pytest.mark.parametrize(
    ("document", "text", "invented"),
    [
        (
            Document("t", "灯塔", "灯塔高五十三米，建于一八七一年。村民用核桃油点灯。"),
            "村民用核桃油点灯，灯塔建于一八七一年。",
            "灯塔建于一八八二年，村民用核桃油点灯。",
        ),
        (
            Document("m", "Мельница", "Мельницу построила Анна в 1832 году. Она молола овёс."),
            "В 1832 году мельницу построила Анна.",
            "В 1832 году мельницу построил Борис.",
        ),
    ],
)
def test_other_languages(document, text, invented, monkeypatch):
    tokenizer = byte_tokenizer()
    prompts = Prompts(tokenizer)
    scripted(monkeypatch, variants, tokenizer, [[text], [invented]])
    exchanges, dropped = written(
        tokenizer,
        (document,),
        variants=("paraphrase", "summary"),
        multiple=room_for(tokenizer, document, text, text),
        max_variant_tokens=3 * len(prompts.reply(text)),
    )
    assert ([tokenizer.decode(e.completion) for e in exchanges], dropped) == (
        [text],
        {"short": 1},
    )
    assert document.title in tokenizer.decode(exchanges[0].student)


def test_thought_is_emptied(tokenizer, script):
    config = StudyConfig(multiple=1, thought_tokens=100)
    assert variants.writing(config, (0,)).max_new_tokens == config.max_variant_tokens + 100


def test_prompt_lengths_bound_those_of_all_requests(prompts):
    study = StudyConfig(multiple=1)
    student, teacher = prompt_lengths(MILL, prompts, study)
    for kind, (closed_book, open_book) in REQUESTS.items():
        is_bound = kind != "strategy"
        assert student >= len(prompts.without_context(closed_book)) * is_bound
        assert teacher >= len(prompts.with_context(open_book)) * is_bound
    empty = strategies.strategy_requests("", "The Mill")
    assert student >= len(prompts.without_context(empty[0])) + study.max_question_tokens
    assert prompt_lengths(MILL, prompts, StudyConfig()) == (0, 0)


def test_study_keeps_variants_through_json(prompts, tokenizer, script):
    script([[TEXTS["summary"]]])
    exchanges, _ = written(
        tokenizer, variants=("summary",), multiple=room_for(tokenizer, MILL, TEXTS["summary"])
    )
    study = Study((), (), (), variants=tuple(exchanges))
    restored = Study.from_record(json.loads(json.dumps(study.to_record())))
    assert restored == study
    config = StudyConfig(recitations=0, completions=0)
    assert restored.exchanges([MILL], prompts, config, 0) == exchanges
    [closed_book] = without_documents(exchanges)
    assert closed_book.teacher == closed_book.student == exchanges[0].student
