"""The gate as it judges answers to own questions."""

from sleep_jax.seeding.early_stopping import FEWEST_QUESTIONS, OwnAnswers
from sleep_jax.seeding.gate import Gate


def test_gate_rejects_too_few_right_answers_with_the_numbers():
    gate = Gate(answers=0.8)
    assert gate.answers_rejection_reason(8, 10) is None
    assert Gate(answers=0.1).answers_rejection_reason(3, 30) is None
    assert gate.answers_rejection_reason(7, 10) == (
        "7 of 10 own questions that the night's teacher answers right are answered right closed "
        "book, fewer than gate.answers=0.8 of them"
    )


def test_gate_that_is_off_accepts_any_answers():
    assert Gate().answers_rejection_reason(0, 100) is None


def test_few_questions_are_not_judged_and_say_so():
    few, enough = (OwnAnswers(lambda student: 0, FEWEST_QUESTIONS - n) for n in (1, 0))
    assert few.too_few == "not judged: the teacher answers 3 own questions right, fewer than 4"
    assert enough.too_few is None
