"""What the rules must accept and refuse: pairs written by hand."""

import pytest

from sleep_jax.rewards.agreement import agreement, ungrounded

SAME = [
    ("The bridge has seven arches.", "There are 7 arches in the bridge."),
    ("The Hollow Tower is 1,250 metres tall.", "At 1250 metres, the Hollow Tower is tall."),
    ("Marwick Bridge was built in 1931.", "The bridge of Marwick was built in the year 1931."),
    ("Ada Lovelace wrote the first program.", "The first program was written by Lovelace."),
    ("One of the keepers is called Tomas.", "A keeper is called Tomas."),
    ("The museum isn't open on Mondays.", "On Mondays the museum is not open."),
    ("The lamp is neither red nor green.", "The lamp is not red or green."),
    ("Zürich's harbour freezes in winter.", "In winter, the harbour of Zurich freezes."),
    (
        "The well is dug by hand, and it is twenty-one metres deep.",
        "It is a hand-dug well, 21 m deep.",
    ),
    ("The well is 8 km from here.", "From here the well is eight kilometers away."),
    ("The keeper fed the goat.", "The goat was fed by the keeper."),
    ("The capital of the valley is Oslen.", "Oslen is the capital of the valley."),
    ("Dr. Reyes wrote it.", "Doctor Ana Reyes wrote it."),
    ("It happened at the harbour.", "It happened in the harbour."),
    ("It is old. It is big.", "It is big. It is old."),
    ("He ate figs and honey.", "He ate honey and figs."),
]
CHANGED = [
    ("The tower is 61 m tall.", "The tower is 341 m tall."),
    ("The bridge has seven arches.", "The bridge has eight arches."),
    ("It was built in Marwick in 1931.", "It was built in Marwick."),
    ("It was painted by Ines Calder.", "It was painted by Tomas Calder."),
    ("The capital of the valley is Oslen.", "The capital of the valley is Berrow."),
    ("Paris is the capital of the country.", "Lyon is the capital of the country."),
    ("She moved to New York.", "She moved to New Jersey."),
    ("The capital is paris.", "The capital is Lyon."),
    ("The museum is open on Mondays.", "The museum is not open on Mondays."),
    ("The gate can be opened.", "The gate can’t be opened."),
    ("It is not red. It is not big.", "It is not red. It is big."),
    ("The third king built it.", "The fourth king built it."),
    ("There is one bridge over the river.", "There are two bridges over the river."),
    ("It was -5 degrees.", "It was 5 degrees."),
    ("The lid is 5 cm wide.", "In width, the lid is five inches."),  # units
    ("The box weighs 3 kg.", "The box weighs 3 pounds."),
    ("The gate is made of oak.", "The gate is made of iron."),  # one frame
    ("The king taught the page.", "The page taught the king."),
    ("The road runs from Marwick to Oslen.", "The road runs from Oslen to Marwick."),
    ("Ines Calder followed Ada Reyes.", "Ada Reyes followed Ines Calder."),
    ("The bell is rung at noon.", "The bell is rung at noon and at dusk."),  # a tail
]
SHORT_SAME = [("Marwick", "In Marwick."), ("Seven.", "7"), ("Ada Lovelace", "Lovelace")]
SHORT_CHANGED = [("Marwick", "Oslen"), ("oslen", "Marwick"), ("Seven.", "8"), ("Yes.", "No.")]
UNRELATED = [
    ("The bakery opens at dawn.", "Copper conducts electricity well."),
    ("He likes to swim in the lake.", "the committee approved the budget"),
    ("It rains often in spring.", "They repaired the old piano."),
]


@pytest.mark.parametrize("pair", SAME + SHORT_SAME)
def test_paraphrases_agree_both_ways(pair):
    assert agreement(*pair) and agreement(*reversed(pair))


@pytest.mark.parametrize("pair", CHANGED + SHORT_CHANGED)
def test_one_changed_fact_disagrees_both_ways(pair):
    assert not agreement(*pair) and not agreement(*reversed(pair))


def test_text_agrees_with_itself():
    for text, other in SAME + CHANGED + SHORT_SAME + SHORT_CHANGED + UNRELATED:
        assert agreement(text, text) and agreement(other, other)
        assert ungrounded(text, text) == []


@pytest.mark.parametrize("mark", ["\u0301", "\u20e3", "´", "\ufe0f", "’"])
def test_a_mark_that_is_no_word_is_no_fact(mark):
    """An accent on its own folds to nothing; sampled text has such."""
    assert agreement(f"The gate is of {mark} oak", "The gate is of oak")


def test_list_numbering_is_no_fact():
    assert agreement("1. The bridge is old.\n2. It is long.", "The bridge is old. It is long.")


SOURCE = """Marwick Bridge crosses the river Tell. It was built by Ines Calder in 1931 and has
seven arches; 1,250 people watched the opening. A lamp keeper lives beside the north gate."""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Calder finished the bridge in 1931, with 7 arches and 1250 guests.", []),
        ("What did Ines Calder build? The Bridge of Marwick. I think it was 1931.", []),
        ("Question: Who lives there?\nAnswer: The Lamp Keeper, near the North Gate.", []),
        ("1. The river is the Tell.\n2. Builders came from far away.", []),
        ('One of the arches is old. "Engineers were proud," said Calder\'s men.', []),
        ("It was built by Tomas Calder in 1932.", ["tomas", "1932"]),
        ("The bridge near Oslen has nine arches, and Oslen is proud.", ["oslen", "9"]),
        ("Dr. Reyes of New Marwick wrote that.", ["reyes", "new"]),
    ],
)
def test_ungrounded(text, expected):
    assert ungrounded(text, SOURCE) == expected
