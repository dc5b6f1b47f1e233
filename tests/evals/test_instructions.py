"""Checks of instructions, by replies that pass and that do not."""

import pytest

from sleep_jax.evals.instructions import CHECKS, paragraphs, passes, sentences, words
from sleep_jax.tasks.items import packaged

PASSES = {
    "at_most_words 3": ["One two three.", "It's well-known."],
    "at_least_words 3": ["one two three", "1 2 3 4"],
    "exactly_words 2": ["A dog.", " mother-in-law's house\n"],
    "exactly_sentences 2": ["It rains. It is 3.5 degrees", 'He said "no!" And left?'],
    "exactly_lines 2": ["a\n\nb", "\na\nb\n"],
    "exactly_paragraphs 2": ["a\nb\n\nc", "a\n \n\nb"],
    "exactly_bullets 2": ["- a\n- b", "Here:\n* a\n\n  * b", "\u2022 a\n\u2022 b"],
    "numbered 2": ["1. a\n2. b", "Steps:\n 1) a\nso\n 2) b"],
    "comma_separated 3": ["a, b, c", "a,b,and c"],
    "in_alphabetical_order 3": ["apple, Fig, pear.", "Anna\nBen\nTom"],
    "upper_case": ["HELLO, 3 TIMES!"],
    "lower_case": ["hello, 3 times!"],
    "contains old harbour": ["The Old Harbour.", "an old harbour, too"],
    "contains_times 2 salt": ["Salt, and salt."],
    "omits dog": ["A cat, and dogma."],
    "omits_letter e": ["It is rainy."],
    "no_comma": ["All good; fine."],
    "no_digit": ["eight"],
    "starts_with Yes": ["Yes, it does.", "\nYes"],
    "ends_with The end.": ["So. The end.", "The end.\n"],
    "in_quotes": ['"A friend."'],
    "number_only": ["12", "-3.5\n"],
    "one_of yes|no": ["yes", "No.", "YES!"],
    "json_object name, age": ['{"age": 3, "name": "Eva"}', '```json\n{"name": 1, "age": 2}\n```'],
    "json_list 2": ["[1, 2]", '```\n["a", "b"]\n```'],
}
FAILS = {
    "at_most_words 3": ["one two three four"],
    "at_least_words 3": ["one two", "- , ."],
    "exactly_words 2": ["A big dog."],
    "exactly_sentences 2": ["It rains.", "One. Two. Three."],
    "exactly_lines 2": ["a", "a\nb\nc"],
    "exactly_paragraphs 2": ["a\nb"],
    "exactly_bullets 2": ["- a", "- a\n- b\n- c", "-a\n-b"],
    "numbered 2": ["1. a", "1. a\n3. b", "1. a\n2. b\n3. c"],
    "comma_separated 3": ["a, b"],
    "in_alphabetical_order 3": ["pear, apple, fig", "apple, fig"],
    "upper_case": ["HELLo", "123"],
    "lower_case": ["Hello", "123"],
    "contains old harbour": ["old harbours", "the harbour is old"],
    "contains_times 2 salt": ["Salt and salty."],
    "omits dog": ["A Dog."],
    "omits_letter e": ["Every day."],
    "no_comma": ["a, b"],
    "no_digit": ["8 legs"],
    "starts_with Yes": ["Oh, Yes"],
    "ends_with The end.": ["The end. Really."],
    "in_quotes": ['He said "no".', '"'],
    "number_only": ["It is 12.", "12 days"],
    "one_of yes|no": ["yes and no", "maybe"],
    "json_object name, age": ['{"name": 1}', "[1]", 'Here: {"name": 1, "age": 2}', "{name: 1}"],
    "json_list 2": ["[1]", '{"a": 1, "b": 2}'],
}


@pytest.mark.parametrize("check", PASSES)
def test_check_by_hand(check):
    assert [passes(reply, check) for reply in PASSES[check]] == [True] * len(PASSES[check])
    assert [passes(reply, check) for reply in FAILS[check]] == [False] * len(FAILS[check])
    assert not passes(" \n", check)


def test_every_kind_of_check_is_tested_and_used():
    used = {check.split()[0] for x in packaged("instructions.jsonl") for check in x["checks"]}
    assert used == {*CHECKS} == {check.split()[0] for check in PASSES}


def test_counts_by_hand():
    assert words("It's a well-known fact, 3 times: \u00e9t\u00e9.") == [
        "It's", "a", "well-known", "fact", "3", "times", "\u00e9t\u00e9",
    ]  # fmt: skip
    assert [sentences(x) for x in ("", "A b", "A b. C? D!", 'He said "Go." Then left.')] == [
        0, 1, 3, 2,
    ]  # fmt: skip
    assert paragraphs("\n\na\n\n\nb\n") == 2


@pytest.mark.parametrize("check", ["at_most_wrods 3", "at_most_words", "no_comma 3"])
def test_wrong_check_is_an_error(check):
    with pytest.raises(ValueError, match=check):
        passes("a", check)


def test_items_are_distinct_and_well_formed():
    items = packaged("instructions.jsonl")
    assert len(items) >= 100 and len({x["prompt"] for x in items}) == len(items)
    for file in ("common_knowledge.jsonl", "sample_documents.jsonl"):
        items = packaged(file)
        assert len(items) >= 30 and len({x["question"] for x in items}) == len(items)
        for item in items:
            assert len({*item["choices"]}) == 4 and item["label"] in range(4)
        counts = [sum(x["label"] == label for x in items) for label in range(4)]
        assert max(counts) - min(counts) <= 1  # a fixed answer is right as often as by chance
