"""How an export is compared with its run, by hand."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from sleep_jax.export.questions import questions_of
from sleep_jax.export.verify import MOST_SCORED, Answers, compare, reversed_units, scored
from sleep_jax.interop.tiny import tiny_model

PROMPTS, REPLIES = [[1, 2], [3]], [[5, 6], [7, 8]]
RUN = Answers(
    "ours", PROMPTS, REPLIES, [np.array([-1.0, -2.0]), np.array([-3.0, -4.0])],
    [np.array([-5.0, -5.0]), np.array([-6.0, -6.0])],
)  # fmt: skip


def other(shift=0.0, noise=0.0, prompts=PROMPTS, replies=REPLIES):
    """Answers whose log-probabilities are off by these numbers, of the model and of its base."""
    log_probs = [x + shift for x in RUN.log_probs]
    return Answers("theirs", prompts, replies, log_probs, [x + noise for x in RUN.base_log_probs])


def test_compare_by_hand():
    export = other(0.25, 0.125, prompts=[[1, 2], [4]], replies=[[5, 6], [7, 9]])
    found = compare(RUN, export, "the run", "float32")
    assert (found.questions, found.prompts_equal, found.replies_equal) == (2, 1, 1)
    assert (found.tokens, found.distance, found.floor) == (4, 0.25, 0.125)
    assert found.limit == pytest.approx(2 * 0.125 + 1e-5)


def test_compare_with_an_export_that_is_read_again_by_hand():
    run = dataclasses.replace(RUN, base_log_probs=[x + 0.0625 for x in RUN.log_probs])
    export = dataclasses.replace(other(0.25), base_log_probs=None)
    found = compare(run, export, "both computed in float32", "bfloat16")
    assert (found.distance, found.floor, found.limit) == (0.25, 0.0625, 0.125 + 1e-5)
    assert "the run beside itself" in found.lines()[1]


def test_reversed_units_change_the_order_of_sums_alone(logits):
    cfg, params, _ = tiny_model(dtype=jnp.float32, seed=0)
    turned = reversed_units(params)
    mlp, mlp_turned = params["layers"]["mlp"], turned["layers"]["mlp"]
    for name, axis in (("gate", 2), ("up", 2), ("down", 1)):
        kernel = np.flip(mlp[name]["kernel"], axis)
        np.testing.assert_array_equal(mlp_turned[name]["kernel"], kernel)
    tokens = np.arange(24, dtype=np.int32).reshape(2, 12)
    got, want = (logits(cfg, {"params": x}, tokens) for x in (turned, params))
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize(
    ("export", "precision", "words"),
    [
        (other(0.25, 0.125), "bfloat16", []),
        (other(0.26, 0.125), "bfloat16", ["0.26 nats a token from the run's, more than 0.25"]),
        (other(0.26, 0.125), "BF16", ["0.26 nats a token from the run's, more than 0.25"]),
        (other(0.26, 0.125), "Q8_0", []),
        (other(0.6, 0.125), "Q4_0", ["0.6 nats a token from the run's, more than 0.5"]),
        (other(float("nan")), "float32", ["nan nats a token"]),
        (other(prompts=[[1, 2], [4]]), "float32", ["1 of 2 prompts have other tokens"]),
        (other(replies=[[5, 6], [9]]), "float32", ["only 1 of 2 replies are equal"]),
        (other(replies=[[5, 6], [9]]), "bfloat16", []),
        (other(replies=[[9], [9]]), "bfloat16", ["only 0 of 2 replies are equal"]),
    ],
)
def test_verification_says_why_an_export_is_refused(export, precision, words):
    problems = compare(RUN, export, "the run", precision).problems
    assert len(problems) == len(words)
    assert all(word in problem for word, problem in zip(words, problems))


def test_scored_replies_are_spread_evenly():
    assert scored(["a", "b"]) == ["a", "b"]
    assert scored(range(2 * MOST_SCORED)) == [*range(0, 2 * MOST_SCORED, 2)]


def test_questions_of_a_run_come_before_general_ones():
    own = {"document": 0, "sentence": "s", "question": "Why?", "answer": None}
    study = {"held_out": [own], "learnt": [own | {"question": "How?"}, own]}
    record = {"days": [{"asked": [{"question": " Who? "}]}, {"study": study}]}
    assert questions_of(record, 3) == ["Who?", "Why?", "How?"]
    more = questions_of(record, 60)
    assert len(more) == len(set(more)) > 20
