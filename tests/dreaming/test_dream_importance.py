"""Importance: every measure against plain loops over separate gradients."""

import dataclasses

import jax
import numpy as np
import pytest
from small_model import batch_of_rows, model

from sleep_jax.dreaming.adapters import init_lora
from sleep_jax.dreaming.importance import (
    MEASURES,
    Candidates,
    cosine,
    greats,
    group_by_context,
    importance,
    inner,
    norm,
)
from sleep_jax.evals.likelihood import mean_nll

CONTEXTS = [0, 2, 0, 2, 0]  # context 1 has no dream
TEXTS = ["a red lamp", "the goat eats", "a lamp is red", "hay", "no"]
CONTEXT_TEXTS = ["the lamp is red", "nothing", "a goat eats hay"]
STEP = 0.3


@pytest.fixture(scope="module")
def candidates():
    return Candidates(CONTEXTS, TEXTS, batch_of_rows(1, 5), CONTEXT_TEXTS, batch_of_rows(2, 3))


@pytest.fixture(scope="module")
def model_and_adapter():
    cfg, variables = model()
    return cfg, variables, init_lora(cfg, variables["params"], jax.random.key(3))


@pytest.fixture(scope="module")
def single_gradients(model_and_adapter, candidates):
    """(gradients of the dreams, gradients of the targets), each computed separately."""
    cfg, variables, lora = model_and_adapter
    gradient = jax.jit(jax.grad(lambda a, row: mean_nll(cfg, {**variables, "lora": a}, row)))

    def each(examples, n):
        rows = (jax.tree.map(lambda x, i=i: x[i], examples) for i in range(n))
        return [jax.tree.map(np.asarray, gradient(lora, row)) for row in rows]

    return each(candidates.dreams, 5), each(candidates.targets, 3)


def rank(measure, model_and_adapter, candidates, seed=(0, 0)):
    cfg, variables, lora = model_and_adapter
    return importance(measure, cfg, 2, variables, lora, candidates, step=STEP, seed=seed)


def flat(gradient, last=False):
    """A gradient as one float64 vector; `last`: of the last layer only."""
    leaves = [x[-1] if last else x for x in jax.tree.leaves(gradient)]
    return np.concatenate([x.ravel() for x in leaves]).astype(np.float64)


def leaves_named(tree, leaf):
    return [x for path, x in jax.tree_util.tree_leaves_with_path(tree) if path[-1].key == leaf]


def by_hand(measure, single_gradients, last=False):
    """The scores by the definitions in the docstring of the module."""
    dreams, targets = ([flat(g, last) for g in part] for part in single_gradients)
    scores = []
    for g, context in zip(dreams, CONTEXTS):
        t = targets[context]
        if measure == "inner":
            scores.append(g @ t)
        elif measure == "norm":
            scores.append(np.sqrt((g**2).sum()))
        else:
            scores.append(g @ t / np.sqrt((g**2).sum() * (t**2).sum()))
    return scores


@pytest.mark.parametrize("measure", ["cosine", "inner", "norm", "last_layer"])
def test_gradient_measures_equal_single_gradients(
    measure, model_and_adapter, candidates, single_gradients
):
    got, order = rank(measure, model_and_adapter, candidates)
    want = by_hand(measure, single_gradients, last=measure == "last_layer")
    np.testing.assert_allclose(got, want, rtol=2e-4, atol=1e-6)
    assert order == sorted(range(5), key=lambda i: -want[i])


def test_initial_adapter_has_gradients_of_b_only(single_gradients):
    for gradient in (*single_gradients[0], *single_gradients[1]):
        assert not any(x.any() for x in leaves_named(gradient, "a"))
        assert all(x.any() for x in leaves_named(gradient, "b"))


def test_greats_matches_its_definition(model_and_adapter, candidates, single_gradients):
    got, order = rank("greats", model_and_adapter, candidates)
    dreams, targets = ([flat(g) for g in part] for part in single_gradients)
    want = np.zeros(5)
    for context in (0, 2):
        indices = [i for i in range(5) if CONTEXTS[i] == context]
        chosen = []
        while len(chosen) < len(indices):
            gains = {
                i: dreams[i] @ targets[context] - STEP * sum(dreams[i] @ dreams[j] for j in chosen)
                for i in indices
                if i not in chosen
            }
            best = max(gains, key=gains.get)
            want[best] = gains[best]
            chosen.append(best)
        assert [i for i in order if i in indices] == chosen
    np.testing.assert_allclose(got, want, rtol=2e-4, atol=1e-6)


def test_greats_by_hand():
    """t = (2, 1), dreams (1, 0), (1, 0), (0, 1): the second dream repeats the first."""
    vectors = np.array([[2, 1], [1, 0], [1, 0], [0, 1]], np.float32)
    gram = vectors @ vectors.T
    gains, order = greats(gram, step=1.5)
    assert order == [0, 2, 1] and gains.tolist() == [2.0, 0.5, 1.0]
    assert greats(gram, step=0.0)[1] == [0, 1, 2]  # without interactions: by inner product
    np.testing.assert_allclose(inner(gram), [2, 2, 1])
    np.testing.assert_allclose(norm(gram), [1, 1, 1])
    np.testing.assert_allclose(cosine(gram), np.array([2, 2, 1]) / np.sqrt(5), rtol=1e-6)


def test_nan_ranks_last_and_leaves_others_unchanged():
    gram = np.array([[1, np.nan, 1, 2], [np.nan] * 4, [1, np.nan, 1, 0], [2, np.nan, 0, 1]])
    gains, order = greats(gram, step=1.0)
    assert order == [2, 1, 0] and gains[1:].tolist() == [1.0, 2.0]
    assert not np.isnan(cosine(gram)[1:]).any()
    zeros = np.zeros((3, 3))
    assert cosine(zeros).tolist() == [0, 0]


def test_measures_without_a_gradient(model_and_adapter, candidates):
    def scored(measure, seed=(0, 0)):
        return rank(measure, model_and_adapter, candidates, seed)

    cfg, variables, _ = model_and_adapter
    rows = [jax.tree.map(lambda x, i=i: x[i], candidates.dreams) for i in range(5)]
    want = [float(jax.jit(mean_nll, static_argnums=0)(cfg, variables, row)) for row in rows]
    np.testing.assert_allclose(scored("loss")[0], want, rtol=1e-5)
    # F1 drops articles: {red, lamp} in {lamp, is, red}: 2 * 2 / (2 + 3), and so on.
    np.testing.assert_allclose(scored("lexical")[0], [4 / 5, 4 / 5, 1, 1 / 2, 0])
    assert scored("lexical")[1][0] == 2
    chinese = dataclasses.replace(
        candidates, texts=["灯是红的。"] * 5, context_texts=["灯，红。"] * 3
    )
    scores, _ = rank("lexical", model_and_adapter, chinese)
    np.testing.assert_allclose(scores, 2 * 2 / (4 + 2))
    drawn, order = scored("random")
    assert drawn.tolist() == scored("random")[0].tolist()
    for other in ((1, 0), (0, 1)):  # of another run, of another night
        assert drawn.tolist() != scored("random", seed=other)[0].tolist()
    assert [drawn[i] for i in order] == sorted(drawn, reverse=True)


def test_unknown_measure_raises(model_and_adapter, candidates):
    with pytest.raises(ValueError, match=r"dreaming\.measure='cosin'") as error:
        rank("cosin", model_and_adapter, candidates)
    assert all(name in str(error.value) for name in MEASURES)


def test_group_by_context_by_hand():
    present, members = group_by_context(CONTEXTS)
    assert present.tolist() == [0, 2]
    assert members.tolist() == [[0, 2, 4, -1], [1, 3, -1, -1]]


def test_importance_does_not_recompile_for_fewer_dreams(
    model_and_adapter, candidates, compilations
):
    cfg, variables, lora = model_and_adapter
    fewer = Candidates([0, 2, 0], TEXTS[:3], batch_of_rows(1, 3), CONTEXT_TEXTS, candidates.targets)
    importance("inner", cfg, 2, variables, lora, candidates, step=STEP, seed=(0, 0))
    compilations.clear()
    got, _ = importance("inner", cfg, 2, variables, lora, fewer, step=STEP, seed=(0, 0))
    assert not compilations and np.isfinite(got).all()
