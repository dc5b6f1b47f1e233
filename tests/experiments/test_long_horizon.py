"""Long horizon: its facts, arms, nights and report, on a random base."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

EXPERIMENT = "long_horizon"
MODULES = (
    "facts",
    "meta_training",
    "base",
    "consolidation",
    "arms",
    "figures",
    "run",
)


def test_fact_sentences_have_one_length_and_prompts_end_before_the_home(lab):
    facts = lab.facts
    [fact] = facts.invent(np.random.default_rng(0), 1)
    for template in facts.STATEMENTS + facts.QUESTIONS:
        assert len(fact.tokens(template)) == facts.SENTENCE
        assert fact.tokens(template)[-1] == facts.END
    for question in facts.QUESTIONS:
        prompt = fact.prompt(question)
        assert fact.tokens(question)[len(prompt)] == facts.INDEX[fact.home]
    assert facts.HELD_OUT not in facts.ASKED + facts.STATEMENTS


def test_episodes_repeat_no_name(lab):
    episodes = lab.run.episodes_of(3, 20)
    names = [fact.name for fact in sum(episodes, lab.base.known_facts())]
    assert len(set(names)) == len(names)
    assert lab.run.episodes_of(3, 4) == episodes[:4]


@pytest.fixture(scope="module")
def params(lab):
    """A random base."""
    rngs = {"params": jax.random.key(0), "memory": jax.random.key(0)}
    decoder, rng = lab.base.Decoder(lab.base.CFG), np.random.default_rng(0)
    shapes = jax.eval_shape(decoder.init, rngs, jnp.zeros((1, 1), jnp.int32))["params"]
    return jax.tree.map(lambda x: jnp.asarray(0.1 * rng.normal(size=x.shape), x.dtype), shapes)


def test_one_slot_arm_seeds_the_first_slot_every_night(lab, params):
    learner = lab.arms.Learner.create(lab.arms.ARMS["one slot"], params, 0)
    for expected in (0, 1):  # slots in use before the night
        assert lab.arms.used(learner.state.slots, 2) == expected
        transaction = lab.arms.begin_consolidation(
            lab.base.CFG, lab.base.WAKE, learner.state, 1, "commit_then_clear", jax.random.key(1)
        )
        transaction = lab.arms.into_first_slot(transaction)
        assert transaction.index == 0
        assert lab.arms.used(transaction.student.slots, 2) == 1
        learner.state = transaction.commit(transaction.student.memory)


@pytest.mark.slow
def test_known_exchanges_ask_about_earlier_people_and_are_as_many_as_asked_for(lab, params):
    learner = lab.arms.Learner.create(lab.arms.LASTING, params, 0)
    earlier = lab.run.episodes_of(0, 1)[0][:2]
    written = lab.consolidation.known_exchanges(
        learner.cfg, learner.variables, earlier, 7, jax.random.key(0)
    )
    assert [e.kind for e in written] == ["rehearse"] * 3 + ["earlier"] * 4
    assert all(e.is_known for e in written)
    asked = [fact.prompt(q) for q in lab.facts.ASKED for fact in earlier]
    assert [e.student for e in written[3:]] == asked


def test_draw_rows_has_as_many_known_pages_as_the_settings_say(lab):
    night = lab.consolidation.NightConfig(batch_size=3, known_pages=1)
    order = lab.consolidation.draw_rows(night, 4, [0, 1], [2, 3], jax.random.key(0), scale=2)
    assert order.shape == (4, 6)
    assert (order[:, :4] < 2).all() and (order[:, 4:] >= 2).all()
    none = lab.consolidation.NightConfig(batch_size=3, known_pages=0)
    assert (lab.consolidation.draw_rows(none, 4, [0, 1], [], jax.random.key(0)) < 2).all()


def test_draw_rows_draws_half_in_proportion_to_the_divergence(lab):
    night = lab.consolidation.NightConfig(batch_size=2, known_pages=1)
    nats = np.array([0.0, 3.0, 1.0, 0.0, 0.0, 5.0])
    order = lab.consolidation.draw_rows(
        night, 4000, np.arange(3), np.arange(3, 6), jax.random.key(0), nats=nats
    )
    shares = np.bincount(order.ravel(), minlength=6) / 4000
    np.testing.assert_allclose(shares, [1 / 6, 13 / 24, 7 / 24, 1 / 6, 1 / 6, 2 / 3], atol=0.03)


def test_known_exchanges_keep_the_likeliest_drafts_and_the_first(lab, monkeypatch):
    def write(cfg, model, prompts, *_):
        scores = [0.0, -4.0, -1.0, -3.0, -2.0, -5.0]
        assert len(prompts) == len(scores)
        return [
            lab.consolidation.Completion((number,), np.full(1, score), True)
            for number, score in enumerate(scores)
        ]

    monkeypatch.setattr(lab.consolidation, "_write", write)
    kept = lab.consolidation.known_exchanges(None, None, [], 3, jax.random.key(0), drafts=2)
    assert [e.completion for e in kept] == [(0,), (0,), (1,)]
    kept = lab.consolidation.known_exchanges(None, None, [], 6, jax.random.key(0))
    assert [e.completion for e in kept] == [(i,) for i in range(6)]


@pytest.mark.parametrize("replays_today, days", [(True, [1, 2, 3, 4, 5]), (False, [1, 2, 3, 4])])
def test_window_of_a_level_with_slots(lab, params, monkeypatch, replays_today, days):
    """On the fifth night it was handed four episodes and has read a fifth."""
    arm = lab.arms.LASTING.without(replays_today=replays_today)
    learner, windows = lab.arms.Learner.create(arm, params, 0), {}

    def consolidate(self, sender, window, earlier, rng):
        windows[sender] = window

    monkeypatch.setattr(lab.arms.Learner, "consolidate", consolidate)
    learner.episodes = lab.run.episodes_of(0, 5)
    learner.sleep()
    assert windows[1] == learner.episodes[4]
    assert windows[2] == [fact for day in days for fact in learner.episodes[day - 1]]


@pytest.mark.slow
def test_learner_updates_stay_pending_until_night_which_clears_the_sender(lab, params):
    small = {"steps": (10, 20), "batch_size": 2, "known_pages": 1, "known": 6}
    arm = lab.arms.ARMS["commit_then_clear"].without(**small)
    learner = lab.arms.Learner.create(arm, params, 0)
    [episode] = lab.run.episodes_of(0, 1)
    awake = learner.read(episode)["memory"]["layers"]["level_1"]["wake"]["down"]
    assert jnp.any(awake != 0)
    assert not jnp.any(learner.variables["memory"]["layers"]["level_1"]["wake"]["down"])
    learner.sleep()
    assert not jnp.any(learner.variables["memory"]["layers"]["level_1"]["wake"]["down"])
    assert lab.arms.used(learner.state.slots, 2) == 1
    [night] = learner.log
    assert night["after"] < night["before"]


def test_report_has_the_means_of_its_runs(lab, tmp_path):
    runs = [
        {
            "arm": "paper",
            "seed": seed,
            "retention": [[1.0, None], [recall, recall]],
            "awake": [1.0, 1.0],
            "anchors": [1.0, 0.9],
            "nights": [],
            "seconds": 1.0,
        }
        for seed, recall in enumerate((0.4, 0.6))
    ]
    readme = tmp_path / "README.md"
    readme.write_text("before\n{}\nold\n{}\nafter\n".format(*lab.figures.MARKS))
    lab.figures.report(tmp_path, runs)
    assert "| paper | 2 | 100 ± 0 | 75 ± 7 | 50 ± 14 |" in readme.read_text()
    assert readme.read_text().startswith("before") and readme.read_text().endswith("after\n")
    for run in runs:  # the figures of nights stay in the workdir
        del run["nights"]
    assert json.loads((tmp_path / "results.json").read_text()) == runs
    assert (tmp_path / "retention.svg").exists() and (tmp_path / "curves.png").exists()


def test_window_length_includes_the_episode_of_the_last_sleep(lab):
    """Level 2 got the fifth episode on the night in which it had handed on the first five."""
    assert [lab.arms.window_length(lab.base.CFG, 1, clock) for clock in (1, 7)] == [1, 1]
    assert [lab.arms.window_length(lab.base.CFG, 2, clock) for clock in (5, 10)] == [5, 6]
