"""InCA: its Gaussians are those of all data at once, distances those of scipy, and the flow."""

import numpy as np
import pytest
import scipy.spatial

from sleep_jax.baselines import inca as module
from sleep_jax.baselines.inca import ClassGaussians, InCA, InCAConfig, tags_in
from sleep_jax.baselines.model import Model
from sleep_jax.data.class_sets import Labelled
from sleep_jax.interop.tiny import byte_tokenizer

RNG = np.random.default_rng(0)
DATA = {label: RNG.normal(loc=i, size=(n, 4)) for i, (label, n) in enumerate(
    {"pin": 5, "card": 8, "loan": 3}.items())}  # fmt: skip


def incremental():
    """Each class in parts of two vectors, the classes in turn."""
    gaussians = ClassGaussians.empty(4)
    for start in range(0, 8, 2):
        for label, vectors in DATA.items():
            if start < len(vectors):
                gaussians = gaussians.add(label, vectors[start : start + 2])
    return gaussians


def test_incremental_means_and_covariance_are_those_of_all_at_once():
    gaussians = incremental()
    assert gaussians.labels == ("pin", "card", "loan") and gaussians.counts.tolist() == [5, 8, 3]
    np.testing.assert_allclose(gaussians.means, [x.mean(0) for x in DATA.values()], rtol=1e-12)
    centred = np.concatenate([x - x.mean(0) for x in DATA.values()])
    want = np.cov(centred.T, bias=True)
    np.testing.assert_allclose(gaussians.covariance(0.0), want, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(gaussians.covariance(0.5), want + 0.5 * np.eye(4), rtol=1e-10)


def test_adding_leaves_what_was_there_as_it_was():
    before = ClassGaussians.empty(4).add("pin", DATA["pin"])
    counts, means = before.counts.copy(), before.means.copy()
    before.add("pin", DATA["card"]).add("loan", DATA["loan"])
    np.testing.assert_array_equal(before.counts, counts)
    np.testing.assert_array_equal(before.means, means)


def test_distances_equal_those_of_scipy():
    gaussians, vectors = incremental(), RNG.normal(size=(3, 4))
    inverse = np.linalg.inv(gaussians.covariance(0.1))
    want = [
        [scipy.spatial.distance.mahalanobis(x, mean, inverse) for mean in gaussians.means]
        for x in vectors
    ]
    np.testing.assert_allclose(gaussians.distances(vectors, 0.1), want, rtol=1e-9)


class WordCounts:
    """An encoder: how often a tag has each of three words."""

    def encode(self, texts):
        return np.array([[x.count(w) for w in ("code", "plastic", "money")] for x in texts], float)


@pytest.fixture
def scripted(monkeypatch):
    """A model that replies by rule; asked for a class, it names the last one in view."""
    views = []

    def replies(cfg, variables, tokenizer, prompts, *, max_new_tokens):
        asked = [tokenizer.decode(x) for x in prompts]
        is_summary = ["belong to the class" in x for x in asked]
        texts = [x.partition("Text: ")[2].partition("\n")[0] for x in asked]
        return ["In short." if s else f"1. {x}, {x} {x}." for s, x in zip(is_summary, texts)]

    def choose(model, shown, requests, config):
        views.extend(shown)
        return [f"I say {view[-1].title}" if len(view) > 1 else "?" for view in shown]

    monkeypatch.setattr(module, "greedy_replies", replies)
    monkeypatch.setattr(module, "replies_in_view", choose)
    return views


def test_inca_shows_the_nearest_classes_and_takes_the_models_choice(scripted):
    inca = InCA.create(Model(None, {}, byte_tokenizer()), WordCounts(), InCAConfig(classes=2))
    with pytest.raises(ValueError, match="no class was learnt"):
        inca.classify(["code"])
    first = inca.learn([Labelled("code", "pin"), Labelled("code code", "pin")])
    later = first.learn([Labelled("plastic", "card"), Labelled("money plastic", "loan")])
    assert first.summaries == {"pin": "In short."} and set(later.summaries) == {*DATA}
    assert later.nearest(["plastic"])[0][0] == "card"
    nearest = later.nearest(["code", "plastic"])
    assert later.classify(["code", "plastic"]) == [x[1] for x in nearest]
    assert [[d.title for d in view] for view in scripted] == nearest
    assert scripted[0][0].text == "In short."
    # A reply without a label counts as the nearest.
    assert first.classify(["plastic"]) == ["pin"]


def test_tags_in_a_reply_are_cut_out_and_named_once():
    reply = "1. lost card, banking\n- PIN code; banking."
    assert tags_in(reply) == ["lost card", "banking", "PIN code"]
    assert tags_in(" ,.") == []
