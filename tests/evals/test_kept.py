"""What a night kept, in a line."""

from sleep_jax.evals.kept import KeptAnswers, kept_line


def test_line_begins_with_the_night_s_own_day_and_leaves_out_days_without_questions():
    days = [KeptAnswers(4, 5, 6), KeptAnswers(0, 0, 0), KeptAnswers(5, 6, 7)]
    assert kept_line(days) == "day 3: 5 of 6 (7 asked), day 1: 4 of 5"


def test_record_gives_the_same_back():
    kept = KeptAnswers(4, 5, 6)
    assert KeptAnswers.from_record(kept.to_record()) == kept
