"""What r_sem must accept and refuse: probes written by hand, with and without the real encoder."""

import numpy as np
import pytest

from sleep_jax.rewards.semantic import SemanticJudge, agreement, ungrounded

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


class LetterEncoder:
    """Letter counts as an embedding of norm other than 1; records what it was asked."""

    def __init__(self):
        self.calls = []

    def encode(self, texts):
        self.calls.append(list(texts))
        return np.array([[t.count(c) for c in "abcdefghijklmnopqrstuvwxyz"] for t in texts])


def test_judge_needs_both_cosine_and_agreement():
    judge = SemanticJudge(LetterEncoder(), threshold=0.9)
    candidates = ["the arch is old", "zzz zzz", "7 arches are here", "not here", "same", " ", "x"]
    references = ["old is the arch", "aaa aaa", "8 arches are here", "here", "same ", "", ""]
    got = judge(candidates, references)
    np.testing.assert_array_equal(got, [1, 0, 0, 0, 1, 1, 0])
    assert got.dtype == np.float32
    # Pairs that the rules decide are not worth an embedding.
    assert judge.encoder.calls == [["the arch is old", "zzz zzz", "old is the arch", "aaa aaa"]]


def test_threshold_is_inclusive_and_cosine_ignores_norm():
    class Fixed:
        def encode(self, texts):
            return np.array([[3.0, 4.0] if "first" in t else [10.0, 0.0] for t in texts])

    assert SemanticJudge(Fixed()).cosine(["first"], ["other"]) == pytest.approx(0.6)
    for threshold, expected in ((0.59, 1), (0.61, 0)):
        assert SemanticJudge(Fixed(), threshold)(["first"], ["other"]) == expected


def test_judge_accepts_no_pairs_and_refuses_bad_arguments():
    assert SemanticJudge(LetterEncoder())([], []).shape == (0,)
    with pytest.raises(ValueError, match="1 candidates, 2 references"):
        SemanticJudge(LetterEncoder())(["a"], ["a", "b"])
    with pytest.raises(ValueError, match=r"threshold=1\.5"):
        SemanticJudge(LetterEncoder(), threshold=1.5)


@pytest.mark.slow
def test_default_threshold_with_the_real_encoder():
    from sleep_jax.interop.resolve import resolve
    from sleep_jax.models.encoder import load_encoder

    judge = SemanticJudge(load_encoder(resolve("all-MiniLM-L6-v2")))
    cosine = {
        name: judge.cosine([p[0] for p in pairs], [p[1] for p in pairs])
        for name, pairs in (("same", SAME), ("changed", CHANGED), ("unrelated", UNRELATED))
    }
    assert cosine["changed"].mean() > 0.7  # why the cosine alone is no reward
    assert cosine["unrelated"].max() + 0.2 < judge.threshold < cosine["same"].min()
    for pairs, expected in ((SAME, 1), (CHANGED, 0), (SHORT_CHANGED, 0), (UNRELATED, 0)):
        got = judge([p[0] for p in pairs], [p[1] for p in pairs])
        np.testing.assert_array_equal(got, np.full(len(pairs), expected))
