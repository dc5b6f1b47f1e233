"""Scores of continuations, against the model's logits and its greedy completions."""

import jax
import numpy as np

from sleep_jax.data.batches import bucket
from sleep_jax.evals.continuations import MOST_TOKENS, continuation_scores, sorted_batches
from sleep_jax.sampling.generate import generate
from sleep_jax.sampling.sampler import SamplingConfig

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13]]


def test_greedy_completions_are_recognised_with_their_log_probabilities(cfg, trained):
    sampling = SamplingConfig(6, (96,), temperature=0.0)
    drawn = [x for [x] in generate(cfg, sampling, trained, PROMPTS, jax.random.key(0))]
    pairs = [(prompt, x.tokens) for prompt, x in zip(PROMPTS, drawn)]
    scores = continuation_scores(cfg, trained, pairs, batch=2)
    for score, completion in zip(scores, drawn):
        assert score.is_greedy.all() and len(score.is_greedy) == len(completion.tokens)
        np.testing.assert_allclose(score.log_probs, completion.log_probs, atol=2e-5)


def test_continuation_scores_are_those_of_the_logits(cfg, trained, log_probs):
    pairs = [([5, 6, 7], [1, 2]), ([8], [3]), ([9, 10], [11, 12, 13, 14])]
    done = []
    scores = continuation_scores(cfg, trained, pairs, batch=2, on_batch=done.append)
    for (before, after), score in zip(pairs, scores):
        log_p = log_probs(trained, [*before, *after])[len(before) - 1 : -1]
        np.testing.assert_allclose(score.log_probs, log_p[range(len(after)), after], atol=2e-5)
        assert score.is_greedy.tolist() == [*(log_p.argmax(-1) == after)]
    assert done == [2, 1]


def test_batches_of_texts_have_few_shapes():
    lengths = [3, 70, 5, 66, 64, 1]
    batches = [*sorted_batches(lengths, 2)]
    assert [chosen for chosen, _, _ in batches] == [[1, 3], [4, 2], [0, 5]]
    assert [(rows, width) for _, rows, width in batches] == [(2, 80), (2, 64), (2, 16)]


def test_long_texts_are_in_smaller_batches():
    long = MOST_TOKENS // 2
    batches = [*sorted_batches([long] * 3 + [2 * MOST_TOKENS] + [10] * 4, 4)]
    assert [(len(chosen), rows) for chosen, rows, _ in batches] == [(1, 1), (2, 2), (2, 2), (3, 4)]
    assert batches[0][2] == bucket(2 * MOST_TOKENS)
