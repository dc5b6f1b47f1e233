"""Questions that reward dreams must not be test questions, in any spelling."""

import pytest

from sleep_jax.evals.items import Item, RewardItems


@pytest.mark.parametrize(
    ("test", "reward"),
    [
        ("Who built the mill?", "who built “the mill”"),
        ("How hot is it at 1260 °C?", "How hot is it at 1260°C ?"),
        ("Wer baute die Straße?", "WER BAUTE DIE STRASSE?"),
        ("灯塔是谁建成的？", "灯塔是谁建成的"),
        ("?!", "?!"),
    ],
)
def test_checked_against_rejects_other_spellings(test, reward):
    with pytest.raises(AssertionError, match="is a test question"):
        RewardItems.checked_against([test], [Item(0, reward, ("yes",))])


@pytest.mark.parametrize(
    ("test", "reward"),
    [
        ("What costs $5?", "What costs €5?"),
        ("What came with Release 3.10?", "What came with Release 3.1?"),
        ("谁建成灯塔？", "谁建成桥？"),
        ("?!", "!?"),
    ],
)
def test_checked_against_accepts_other_questions(test, reward):
    assert RewardItems.checked_against([test], [Item(0, reward, ("yes",))]).documents == {0}
