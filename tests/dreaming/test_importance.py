"""Importance: every measure against plain loops over single gradients."""

import dataclasses

import jax
import numpy as np
import pytest
from small_model import batch_of_rows, model

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
from sleep_jax.dreaming.trial import init_lora
from sleep_jax.evals.likelihood import mean_nll

CONTEXTS = [0, 2, 0, 2, 0]  # the second one has no dream
TEXTS = ["a red lamp", "the goat eats", "a lamp is red", "hay", "no"]
PAGES = ["the lamp is red", "nothing", "a goat eats hay"]
STEP = 0.3


@pytest.fixture(scope="module")
def candidates():
    return Candidates(CONTEXTS, TEXTS, batch_of_rows(1, 5), PAGES, batch_of_rows(2, 3))


@pytest.fixture(scope="module")
def tried():
    cfg, variables = model()
    return cfg, variables, init_lora(cfg, variables["params"], jax.random.key(3))


@pytest.fixture(scope="module")
def alone(tried, candidates):
    """(dreams' gradients, targets' gradients), each taken by itself: per stacked leaf an array."""
    cfg, variables, lora = tried
    gradient = jax.jit(jax.grad(lambda a, one: mean_nll(cfg, {**variables, "lora": a}, one)))

    def each(examples, n):
        rows = (jax.tree.map(lambda x, i=i: x[i], examples) for i in range(n))
        return [jax.tree.map(np.asarray, gradient(lora, row)) for row in rows]

    return each(candidates.dreams, 5), each(candidates.targets, 3)


def flat(gradient, last=False):
    """Its numbers in float64; of the last layer alone."""
    leaves = [x[-1] if last else x for x in jax.tree.leaves(gradient)]
    return np.concatenate([x.ravel() for x in leaves]).astype(np.float64)


def only(tree, leaf):
    return [x for path, x in jax.tree_util.tree_leaves_with_path(tree) if path[-1].key == leaf]


def by_hand(measure, alone, last=False):
    """The scores by the definitions of the module, one dream after the other."""
    dreams, targets = ([flat(g, last) for g in part] for part in alone)
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
def test_gradient_measures_equal_single_gradients(measure, tried, candidates, alone):
    got, order = importance(measure, *tried[:1], 2, *tried[1:], candidates, step=STEP, seed=(0, 0))
    want = by_hand(measure, alone, last=measure == "last_layer")
    np.testing.assert_allclose(got, want, rtol=2e-4, atol=1e-6)
    assert order == sorted(range(5), key=lambda i: -want[i])


def test_initial_adapter_has_gradients_of_b_only(alone):
    for gradient in (*alone[0], *alone[1]):
        assert not any(x.any() for x in only(gradient, "a"))
        assert all(x.any() for x in only(gradient, "b"))


def test_greats_matches_its_definition(tried, candidates, alone):
    got, order = importance("greats", *tried[:1], 2, *tried[1:], candidates, step=STEP, seed=(0, 0))
    dreams, targets = ([flat(g) for g in part] for part in alone)
    want = np.zeros(5)
    for context in (0, 2):
        mine = [i for i in range(5) if CONTEXTS[i] == context]
        chosen = []
        while len(chosen) < len(mine):
            gains = {
                i: dreams[i] @ targets[context] - STEP * sum(dreams[i] @ dreams[j] for j in chosen)
                for i in mine
                if i not in chosen
            }
            best = max(gains, key=gains.get)
            want[best] = gains[best]
            chosen.append(best)
        assert [i for i in order if i in mine] == chosen
    np.testing.assert_allclose(got, want, rtol=2e-4, atol=1e-6)


def test_greats_by_hand():
    """t = (2, 1), dreams (1, 0), (1, 0), (0, 1): the second says what the first has said."""
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
    nothing = np.zeros((3, 3))
    assert cosine(nothing).tolist() == [0, 0]


def test_measures_without_a_gradient(tried, candidates):
    def scored(measure, seed=(0, 0)):
        return importance(measure, *tried[:1], 2, *tried[1:], candidates, step=STEP, seed=seed)

    cfg, variables, _ = tried
    rows = [jax.tree.map(lambda x, i=i: x[i], candidates.dreams) for i in range(5)]
    want = [float(jax.jit(mean_nll, static_argnums=0)(cfg, variables, row)) for row in rows]
    np.testing.assert_allclose(scored("loss")[0], want, rtol=1e-5)
    # F1 drops articles: {red, lamp} in {lamp, is, red}: 2 * 2 / (2 + 3), and so on.
    np.testing.assert_allclose(scored("lexical")[0], [4 / 5, 4 / 5, 1, 1 / 2, 0])
    assert scored("lexical")[1][0] == 2
    chinese = dataclasses.replace(
        candidates, texts=["灯是红的。"] * 5, context_texts=["灯，红。"] * 3
    )
    scores, _ = importance("lexical", *tried[:1], 2, *tried[1:], chinese, step=STEP, seed=(0, 0))
    np.testing.assert_allclose(scores, 2 * 2 / (4 + 2))
    drawn, order = scored("random")
    assert drawn.tolist() == scored("random")[0].tolist()
    for other in ((1, 0), (0, 1)):  # of another run, of another night
        assert drawn.tolist() != scored("random", seed=other)[0].tolist()
    assert [drawn[i] for i in order] == sorted(drawn, reverse=True)


def test_unknown_measure_raises(tried, candidates):
    with pytest.raises(ValueError, match=r"dreaming\.measure='cosin'") as error:
        importance("cosin", *tried[:1], 2, *tried[1:], candidates, step=STEP, seed=(0, 0))
    assert all(name in str(error.value) for name in MEASURES)


def test_group_by_context_by_hand():
    present, members = group_by_context(CONTEXTS)
    assert present.tolist() == [0, 2]
    assert members.tolist() == [[0, 2, 4, -1], [1, 3, -1, -1]]


def test_importance_does_not_recompile_for_fewer_dreams(tried, candidates, compilations):
    cfg, variables, lora = tried
    fewer = Candidates([0, 2, 0], TEXTS[:3], batch_of_rows(1, 3), PAGES, candidates.targets)
    importance("inner", cfg, 2, variables, lora, candidates, step=STEP, seed=(0, 0))
    compilations.clear()
    got, _ = importance("inner", cfg, 2, variables, lora, fewer, step=STEP, seed=(0, 0))
    assert not compilations and np.isfinite(got).all()
