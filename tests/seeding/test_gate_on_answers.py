"""The gate as it judges answers to own questions."""

from sleep_jax.seeding.gate import FEWEST_QUESTIONS, Gate


def test_gate_rejects_too_few_right_answers_with_the_numbers():
    gate = Gate(answers=0.8)
    assert gate.answers_rejection_reason(8, 10) is None
    assert gate.answers_rejection_reason(7, 10) == (
        "7 of 10 own questions that the night's teacher answers right are answered right closed "
        "book, fewer than gate.answers=0.8 of them"
    )


def test_gate_does_not_judge_few_questions_and_says_so():
    gate, few = Gate(answers=1.0), FEWEST_QUESTIONS - 1
    assert gate.answers_rejection_reason(0, few) is None
    assert gate.answers_not_judged(few) == "not judged by gate.answers: 3 questions, fewer than 4"
    assert gate.answers_not_judged(FEWEST_QUESTIONS) is None
    assert gate.answers_rejection_reason(0, FEWEST_QUESTIONS)


def test_gate_that_is_off_accepts_any_answers():
    assert Gate().answers_rejection_reason(0, 100) is None
