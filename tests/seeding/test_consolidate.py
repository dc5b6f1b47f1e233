"""Seeding of one slot: small runs from end to end."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sample_exchanges import EXCHANGES, SHAPE, exchange, tokens

from sleep_jax.memory.memory_config import MemoryConfig
from sleep_jax.memory.slots import take_slot, unlock
from sleep_jax.models.decoder import Decoder
from sleep_jax.rl.algorithms import surrogate
from sleep_jax.seeding import consolidate, rollouts
from sleep_jax.seeding.consolidate import mean_divergence, seed_slot
from sleep_jax.seeding.early_stopping import OwnAnswers
from sleep_jax.seeding.imitation import ImitationConfig
from sleep_jax.seeding.objective import Objective
from sleep_jax.seeding.rollout_buffer import rollout_widths
from sleep_jax.seeding.running_norm import clip_by_running_norm
from sleep_jax.seeding.seeding_config import SeedingConfig
from sleep_jax.seeding.sequences import Exchange, Teacher, pack_exchanges
from sleep_jax.seeding.step import seeding_step
from sleep_jax.seeding.trunk import precompute
from sleep_jax.wake.context import read


def seeding(**changes):
    """Settings of four quick updates, with a round of rollouts for two of them."""
    settings = {
        "steps": 4,
        "learning_rate": 0.02,
        "warmup": 0,
        "shape": SHAPE,
        "num_prompts": 1,
        "steps_per_generation": 2,
        "rollout_start": 0.0,
        "objective": Objective(),
        "imitation": ImitationConfig(num_generations=2, max_new_tokens=4),
    }
    return SeedingConfig(**settings | changes)


@pytest.fixture(scope="module")
def night(cfg, variables, trained):
    """Arguments of `seed_slot`: a teacher with other slots and documents, a new slot 0."""
    context, _, _ = read(cfg, trained, [tokens(12), tokens(5), ()])
    slots, index = unlock(variables["slots"], 1)
    student = variables | {"slots": slots}
    return {
        "student": student,
        "teachers": [Teacher(cfg, trained, context)],
        "level": 1,
        "index": index,
        "exchanges": EXCHANGES,
        "rng": jax.random.key(0),
    }


def distance(cfg, student, teachers):
    """`mean_divergence` over all exchanges."""
    states = precompute(cfg, student, teachers, EXCHANGES, SHAPE)
    return mean_divergence(cfg, student, EXCHANGES, states, teachers, SHAPE)


def judge(candidates, references):
    return np.array([float(len(c) % 2) for c in candidates], np.float32)


class RecordingTimer:
    """A timer that records its calls."""

    def __init__(self):
        self.calls = []

    def begin(self, step):
        self.calls.append(f"begin {step}")

    def lap(self, part):
        self.calls.append(part)

    def end(self, sequences):
        self.calls.append("end")
        return {"time/tokens": float(sum(tokens for _, tokens, _ in sequences))}

    def finished(self, step):
        self.calls.append(f"finished {step}")


def test_seed_slot_changes_only_the_slot_and_logs_every_step(cfg, tokenizer, night):
    before = jax.tree.map(np.array, night["student"])
    logged, timer = [], RecordingTimer()
    got = seed_slot(
        cfg,
        tokenizer,
        judge,
        seeding(rollout_start=0.5),
        **night,
        log=lambda *entry: logged.append(entry),
        timer=timer,
    )
    jax.tree.map(np.testing.assert_array_equal, night["student"], before)
    for name in ("params", "slots"):
        jax.tree.map(np.testing.assert_array_equal, got[name], before[name])
    for index in range(3):
        old, new = (take_slot(m, 1, index) for m in (before["memory"], got["memory"]))
        for part in old:
            assert (new[part] != old[part]).any() == (index == 0)
            assert np.isfinite(new[part]).all()
    assert [step for step, _ in logged] == [0, 1, 2, 3]
    for step, metrics in logged:
        shown = {name for name, v in metrics.items() if not isinstance(v, float)}
        # Both updates of a round have its means, the first one shows its rollouts.
        of_round = {"rollout", "rollout_rewards", "rollout_advantages"}
        assert shown == (of_round if step == 2 else set())
        assert all(np.isfinite(v) for name, v in metrics.items() if name not in shown)
        assert 0 < metrics["time/tokens"] <= SHAPE.batch_size * SHAPE.max_length
        assert metrics["kl_off"] > 0 and metrics["gradient_norm"] > 0
        # Rollouts join after half of the steps.
        for name in ("kl_on", "policy_loss", "reward", "tied"):
            assert (name in metrics) == (step >= 2)
    # They were sampled with the slot of that update: the sampler's log-probs are the scorer's.
    np.testing.assert_allclose(logged[2][1]["policy_ratio"], 1, atol=1e-4)
    # An update is known to have finished while the next one runs.
    want = "begin 0|end|begin 1|finished 0|end|begin 2|rollout|reward|score|finished 1|end|begin 3"
    assert "|".join(timer.calls) == f"{want}|finished 2|end|finished 3"


def test_seed_slot_with_alpha_1_distils_without_rollouts(cfg, tokenizer, night, monkeypatch):
    monkeypatch.setattr(consolidate, "collect_rollouts", pytest.fail)
    config = seeding(steps=30, objective=Objective(alpha=1.0, lam=0.0))
    losses = []
    got = seed_slot(
        cfg, tokenizer, judge, config, **night, log=lambda _, m: losses.append(m["kl_off"])
    )
    before, after = (distance(cfg, x, night["teachers"]) for x in (night["student"], got))
    assert after < 0.5 * before
    assert losses[-1] < 0.7 * losses[0]


def test_seed_slot_in_the_null_space_changes_nothing_that_was_known(
    cfg, tokenizer, night, log_probs
):
    """The one sequence that was known has fewer tokens than directions are kept out, so all of it
    is; what is new is learnt nevertheless."""
    [known] = [e for e in EXCHANGES if e.is_known]
    new = [e for e in EXCHANGES if not e.is_known]
    sequence = known.student + known.completion
    config = seeding(steps=30, objective=Objective(alpha=1.0, lam=0.0))
    before = log_probs(night["student"], sequence)
    change, figures = {}, []
    for share in (0.0, 1.0):
        got = seed_slot(
            cfg,
            tokenizer,
            judge,
            dataclasses.replace(config, null_space=share),
            **night,
            log=lambda _, m: figures.append(m),
        )
        change[share] = np.abs(log_probs(got, sequence) - before).max()
    assert change[1.0] < 1e-3 < 0.1 < change[0.0]
    states = precompute(cfg, got, night["teachers"], new, SHAPE)
    divergences = [
        mean_divergence(cfg, student, new, states, night["teachers"], SHAPE)
        for student in (night["student"], got)
    ]
    assert divergences[1] < 0.9 * divergences[0]
    # The first update of the second night alone says what is kept out.
    assert [i for i, m in enumerate(figures) if "null_space_rank" in m] == [30]
    assert len(figures[30]["null_space_left"]) == cfg.layers


WRITTEN = [
    Exchange(0, tokens(3), tokens(4), tokens(5), "write", True, a, np.full(5, -3.0, np.float32))
    for a in (1.0, -1.0)
]


@pytest.mark.parametrize("name", ["grpo", pytest.param("ppo", marks=pytest.mark.slow)])
def test_seed_slot_learns_written_rollouts_by_their_advantages(
    cfg, tokenizer, night, log_probs, monkeypatch, name
):
    monkeypatch.delattr(rollouts, "sample_rollouts")  # to call it would be an error
    policy = surrogate(name, importance_cap=2.0)
    config = seeding(
        steps=10,
        num_iterations=10,
        objective=Objective(alpha=0.0, lam=0.0, surrogate=policy),
        imitation=ImitationConfig(num_generations=2, max_new_tokens=4, surrogate=policy),
        num_prompts=2,
    )
    logged = []
    got = seed_slot(
        cfg,
        tokenizer,
        judge,
        config,
        **night,
        log=lambda _, metrics: logged.append(metrics),
        written=WRITTEN,
    )

    def likelihood(variables, e):
        scores = log_probs(variables, e.student + e.completion[:-1])[len(e.student) - 1 :]
        return scores[np.arange(len(e.completion)), e.completion].sum()

    gains = [likelihood(got, e) - likelihood(night["student"], e) for e in WRITTEN]
    assert gains[0] > gains[1] + 0.5  # advantages are 1 and -1
    np.testing.assert_allclose(logged[0]["policy_ratio"], 1, atol=1e-4)  # both by the scorer
    assert logged[0]["policy_sampler_gap"] > 0.1 and "reward" not in logged[0]
    assert logged[0]["policy_round_gap"] < 1e-4 < 1e-3 < logged[-1]["policy_round_gap"]


class Stopped(Exception):
    pass


class MemoryCheckpoint:
    """A mid-phase checkpoint in memory; the first attempt is stopped at its `stop`-th save."""

    def __init__(self, stop):
        self.kept, self.stop = [], stop

    def find(self, abstract_state):
        return self.kept[-1] if self.kept else None

    def is_due(self, done):
        return True

    def keep(self, done, state, facts):
        self.kept.append((done, jax.tree.map(np.array, state), json.loads(json.dumps(facts))))
        if len(self.kept) == self.stop:
            raise Stopped


# Rollouts join in the third of six updates, a round for two of them; the third save is after it.
REJOINED = {"rollout_start": 0.34, "rollout_warmup": 3, "max_grad_norm_ratio": 1.5}


@pytest.mark.parametrize(
    "estimator, changes, written, stop, done",
    [
        ("group", REJOINED, (), 3, 4),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("group", {"steps_per_generation": 2, "null_space": 0.9}, (), 1, 2),
                ("group", {"steps_per_generation": 2}, (), 1, 2),
                ("group", {"num_iterations": 3, "steps_per_generation": 1}, (), 1, 3),
                ("group", {"num_iterations": 6, "num_prompts": 1}, WRITTEN, 3, 3),
                ("ppo", {"steps_per_generation": 2}, (), 1, 2),
                ("ppo", {"num_iterations": 6, "num_prompts": 1}, WRITTEN, 3, 3),
                ("grpo", {"num_iterations": 6, "num_prompts": 1}, WRITTEN, 3, 3),
            )
        ),
    ],
)
def test_seed_slot_resumes_to_the_same_bits(
    cfg, tokenizer, night, estimator, changes, written, stop, done
):
    policy = surrogate(estimator)
    imitation = ImitationConfig(num_generations=2, max_new_tokens=4, surrogate=policy)
    objective = Objective(surrogate=policy)
    config = seeding(steps=6, objective=objective, imitation=imitation, **changes)

    def run(mid_phase):
        logged = []
        log = lambda *entry: logged.append(entry)  # noqa: E731
        options = {"log": log, "written": written, "mid_phase": mid_phase}
        return seed_slot(cfg, tokenizer, judge, config, **night, **options), logged

    uninterrupted, logged = run(None)
    checkpoint = MemoryCheckpoint(stop)
    with pytest.raises(Stopped):
        run(checkpoint)
    assert checkpoint.kept[-1][0] == done
    resumed, logged_again = run(checkpoint)
    jax.tree.map(np.testing.assert_array_equal, resumed, uninterrupted)
    assert logged_again == logged
    assert all(("policy_value" in figures) == (estimator == "ppo") for _, figures in logged)


@pytest.mark.slow
def test_seed_slot_whose_rate_rises_anew_compiles_one_update(cfg, tokenizer, night):
    config = seeding(steps=6, objective=Objective(on_policy_weight="tokens"), **REJOINED)
    compiled, logged = seeding_step._cache_size(), []
    seed_slot(cfg, tokenizer, judge, config, **night, log=lambda _, x: logged.append(x))
    assert seeding_step._cache_size() == compiled + 1
    assert ["kl_on" in figures for figures in logged] == 2 * [False] + 4 * [True]
    for figures in logged:
        off, on = figures["tokens_off"], figures["tokens_on"]
        kl = (off * figures["kl_off"] + on * figures.get("kl_on", 0.0)) / (off + on)
        loss = 0.5 * kl + 0.5 * figures.get("policy_loss", 0.0)
        np.testing.assert_allclose(figures["loss"], loss, rtol=1e-4)


def test_seed_slot_rejects_written_rollouts_that_do_not_fit_an_update(cfg, tokenizer, night):
    config = seeding(num_prompts=9, imitation=ImitationConfig(num_generations=2, max_new_tokens=4))
    with pytest.raises(ValueError, match=r"dreaming\.batch_size=9 .* may need 3 rows"):
        seed_slot(cfg, tokenizer, judge, config, **night, log=lambda *_: None, written=WRITTEN * 5)


def slot_size(student):
    """A count of "right answers" that grows as the slot does."""
    return int(1e4 * np.abs(take_slot(student["memory"], 1, 0)["down"]).mean())


DISTIL = {"objective": Objective(alpha=1.0, lam=0.0), "num_prompts": 0}


def test_night_asks_without_a_trace_and_ends_early_once_all_is_right(cfg, tokenizer, night):
    def run(answers=None, **changes):
        logged = []
        got = seed_slot(
            cfg,
            tokenizer,
            judge,
            seeding(**DISTIL, **changes),
            **night,
            log=lambda *entry: logged.append(entry),
            answers=answers,
        )
        return got, logged

    plain, logged = run()
    assert len(logged) == 4 and not any("answers_right" in figures for _, figures in logged)
    asked, logged = run(OwnAnswers(lambda student: 0, 5), eval_steps=2)
    jax.tree.map(np.testing.assert_array_equal, asked, plain)
    assert [figures.get("answers_right") for _, figures in logged] == [None, 0, None, 0]
    early, logged = run(OwnAnswers(lambda student: 5, 5), eval_steps=3)
    assert [step for step, _ in logged] == [0, 1, 2] and logged[2][1]["answers_right"] == 5
    assert slot_size(early) != slot_size(plain)


@pytest.mark.slow
def test_night_that_goes_on_resumes_to_the_same_bits(cfg, tokenizer, night):
    def run(mid_phase):
        logged, night_answers = [], OwnAnswers(slot_size, 10**9)
        config = seeding(**DISTIL, steps=2, eval_steps=2, max_steps=7)
        options = {"log": lambda *entry: logged.append(entry), "mid_phase": mid_phase}
        options["answers"] = night_answers
        return seed_slot(cfg, tokenizer, judge, config, **night, **options), logged

    uninterrupted, logged = run(None)
    assert [step for step, _ in logged] == [*range(7)]  # it grew at every evaluation
    checkpoint = MemoryCheckpoint(stop=5)
    with pytest.raises(Stopped):
        run(checkpoint)
    assert [done for done, _ in checkpoint.kept[-1][2]["answers"]] == [2, 4]
    resumed, logged_again = run(checkpoint)
    jax.tree.map(np.testing.assert_array_equal, resumed, uninterrupted)
    assert logged_again == logged


def test_nights_of_different_length_share_one_program(cfg, tokenizer, night, compilations):
    lengths = []
    for epochs in (1.0, 2.0):
        config = seeding(**DISTIL, epochs=epochs, warmup=1).sized_for(EXCHANGES)
        lengths.append(config.steps)
        compilations.clear()
        seed_slot(cfg, tokenizer, judge, config, **night, log=lambda *_: None)
    assert lengths == [2, 3]  # three rows, two an update: ceil(1.5), ceil(3)
    assert not compilations  # by the second night


def test_mean_divergence_is_the_mean_over_tokens_of_all_batches(cfg, night, log_probs):
    all_states = precompute(cfg, night["student"], night["teachers"], EXCHANGES, SHAPE)
    head = night["student"]["params"]["head"]["kernel"]
    total = 0.0
    for e, states in zip(EXCHANGES, all_states):
        s = log_probs(night["student"], e.student + e.completion[:-1])[len(e.student) - 1 :]
        t = np.asarray(jax.nn.log_softmax(jnp.asarray(states.teacher) @ head))
        total += (np.exp(t) * (t - s)).sum()
    # Five exchanges of 36 tokens do not fit one batch of two rows.
    assert len(pack_exchanges(EXCHANGES, SHAPE)) > SHAPE.batch_size
    got = distance(cfg, night["student"], night["teachers"])
    np.testing.assert_allclose(got, total / 36, rtol=1e-3)


def test_rollout_widths_hold_every_dream():
    # Prompts of 3 and 4 tokens; the longest dream has 8, the recitation of 10 is not a dream.
    dreams = [e for e in EXCHANGES if e.is_imitable]
    assert rollout_widths(dreams, ImitationConfig(max_new_tokens=7)) == (16, 20)
    longer = [*dreams, exchange(20)]
    assert rollout_widths(longer, ImitationConfig(max_new_tokens=9)) == (24, 40)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"warmup": 4}, "seeding.steps=4 does not exceed seeding.warmup=4"),
        ({"rollout_start": 1.5}, r"seeding.rollout_start=1.5; give a number from 0 to 1"),
    ],
)
def test_seeding_config_rejects_invalid_settings(change, message):
    with pytest.raises(ValueError, match=message):
        seeding(**change)


def test_optimizer_clips_the_gradient_before_adam():
    optimizer = seeding(steps=10, learning_rate=0.5, warmup=0).optimizer()
    state = optimizer.init(jnp.zeros(2))
    # Adam's first update is the learning rate against the sign, whatever the norm.
    updates, _ = optimizer.update(jnp.array([3e6, -4e6]), state)
    np.testing.assert_allclose(updates, [-0.5, 0.5], rtol=1e-4)


def test_optimizer_limits_norms_absolutely_and_by_earlier_ones():
    by_hand = optax.chain(
        optax.clip_by_global_norm(0.5), clip_by_running_norm(2.0), optax.scale_by_adam()
    )
    config = seeding(
        steps=9, learning_rate=0.5, warmup=4, max_grad_norm=0.5, max_grad_norm_ratio=2.0
    )
    optimizer = config.optimizer()
    state, want = optimizer.init(jnp.zeros(2)), by_hand.init(jnp.zeros(2))
    for rate, norm in zip((0.1, 0.2, 0.3), (0.01, 0.02, 3.0)):
        grads = jnp.array([0.6, -0.8]) * norm
        update, state = optimizer.update(grads, state)
        direction, want = by_hand.update(grads, want)
        np.testing.assert_allclose(update, -rate * direction, rtol=1e-4)
    assert len(seeding(max_grad_norm=0.0).optimizer().init(jnp.zeros(2))) == 1  # Adam's alone
    # The last norm is 3, of which the absolute limit leaves 0.5.
    mean = 0.9 * (0.9 * 0.01 + 0.1 * 0.02) + 0.1 * 0.5
    np.testing.assert_allclose(state[1].mean, mean, rtol=1e-5)


def test_optimizer_without_options_has_the_state_of_clipped_adam():
    plain = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.constant_schedule(0.1)))
    for changes in ({}, {"rollout_warmup": 2, "rollout_start": 0.5}):
        state = seeding(**changes).optimizer().init(jnp.zeros(2))
        jax.tree.map(np.testing.assert_array_equal, state, plain.init(jnp.zeros(2)))
    assert seeding().optimizer() is seeding().optimizer()  # another one would be compiled anew


def rates(config, updates):
    """Rates of updates: of one gradient, each of Adam's updates is the rate."""
    optimizer = config.optimizer()
    state, out = optimizer.init(jnp.zeros(1)), []
    for _ in range(updates):
        update, state = optimizer.update(jnp.ones(1), state)
        out.append(-float(update[0]))
    return np.array(out)


def test_rate_rises_anew_when_rollouts_join():
    config = seeding(steps=12, learning_rate=0.5, warmup=2, rollout_start=0.5)
    before, after = (rates(dataclasses.replace(config, rollout_warmup=n), 12) for n in (0, 3))
    factors = [1] * 6 + [0.25, 0.5, 0.75, 1, 1, 1]
    np.testing.assert_allclose(after, before * factors, rtol=1e-5)
    for changes in ({"rollout_start": 0.0}, {"num_prompts": 0}):
        same = dataclasses.replace(config, rollout_warmup=3, **changes)
        np.testing.assert_allclose(rates(same, 12), before, rtol=1e-5)


def test_optimizer_schedule_starts_above_0_and_peaks_after_the_warmup():
    got = rates(seeding(steps=9, learning_rate=0.5, warmup=4), 10)
    np.testing.assert_allclose(got[:5], [0.1, 0.2, 0.3, 0.4, 0.5], rtol=1e-4)
    assert np.all(np.diff(got[4:]) < 0)
    np.testing.assert_allclose(got[-1], 0.05, rtol=1e-4)


@pytest.mark.slow
def test_several_teachers_are_weighted_in_divergence_and_seeding(cfg, variables, night, tokenizer):
    """The divergence from two teachers is the weighted mean of that from each, and so is what the
    slot learns from; the second teacher is another checkpoint of another width."""
    wide = cfg.replace(width=40, heads=5, kv_heads=1, memory=MemoryConfig())
    params = Decoder(wide).init(jax.random.key(7), np.zeros((1, 2), np.int32))["params"]
    context = read(wide, {"params": params}, [tokens(12), tokens(5), ()])[0]
    [model] = night["teachers"]
    model = dataclasses.replace(model, weight=0.75)
    other = Teacher(wide, {"params": params}, context, weight=0.25)

    # A single teacher is scored with the student's head; two of it, with its own.
    single = [dataclasses.replace(model, weight=1.0)]
    halves = [dataclasses.replace(other, weight=0.5)] * 2
    each = [distance(cfg, night["student"], teachers) for teachers in (single, halves)]
    got = distance(cfg, night["student"], [model, other])
    np.testing.assert_allclose(got, 0.75 * each[0] + 0.25 * each[1], rtol=1e-5)
    config = seeding(steps=30, objective=Objective(alpha=1.0, lam=0.0))
    both = night | {"teachers": [model, other]}
    learnt = seed_slot(cfg, tokenizer, judge, config, **both, log=lambda *_: None)
    assert distance(cfg, learnt, [model, other]) < got
    with pytest.raises(ValueError, match="sum to 1"):
        distance(cfg, night["student"], [model, model, other])
    narrow = dataclasses.replace(other, cfg=wide.replace(vocab=90))
    with pytest.raises(ValueError, match="97, 90 tokens"):
        distance(cfg, night["student"], [model, narrow])


def logged_night(cfg, tokenizer, night, **changes):
    """(the figures that a night logs, the slot that it seeds)."""
    log = []
    got = seed_slot(
        cfg,
        tokenizer,
        judge,
        seeding(**changes),
        **night,
        log=lambda _, figures: log.append(figures),
    )
    slot = take_slot(got["memory"], night["level"], night["index"])
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(slot))
    numbers = [v for figures in log for v in figures.values() if isinstance(v, float)]
    assert np.isfinite(numbers).all()
    return log, slot


@pytest.mark.slow
def test_seed_slot_reuses_rollouts_with_importance_weights(cfg, tokenizer, night, monkeypatch):
    """Truncated sampling, corrected: two passes over the rollouts of two updates."""
    rounds, collect = [], consolidate.collect_rollouts
    monkeypatch.setattr(
        consolidate,
        "collect_rollouts",
        lambda *args, **options: rounds.append(out := collect(*args, **options)) or out,
    )
    policy = surrogate("group", kl_estimator="k2", kl_coef=0.1, importance_cap=1.2)
    log, _ = logged_night(
        cfg,
        tokenizer,
        night,
        num_iterations=2,
        objective=Objective(surrogate=policy),
        imitation=ImitationConfig(num_generations=2, max_new_tokens=4, surrogate=policy, top_p=0.7),
    )
    # Four updates, one round: 0 and 2 have the same rollouts, as have 1 and 3.
    [(rollouts, _, _)] = rounds
    assert len(rollouts) == 4
    ratios = [figures["policy_ratio"] for figures in log]
    np.testing.assert_allclose(ratios[0], 1, atol=1e-5)  # ratios start from the scorer
    assert min(abs(ratio - 1) for ratio in ratios[1:]) > 1e-4
    for key in ("tokens_on", "policy_importance_gap", "policy_importance_weight"):
        values = [figures[key] for figures in log]
        assert values[0] == values[2] and values[1] == values[3], key
    old, sampler = (
        np.concatenate([getattr(e, name) for e in rollouts])
        for name in ("old_log_probs", "log_probs")
    )
    # Tokens within top-p are likelier for the sampler than for the model itself.
    assert (sampler >= old - 1e-5).all() and (sampler - old).max() > 0.01
    # Before the first update of the night the student is the reference.
    np.testing.assert_allclose(log[0]["policy_penalty"], 0, atol=1e-8)
    assert log[3]["policy_penalty"] > 1e-6


@pytest.mark.slow
def test_seed_slot_in_staged_mode_with_ppo(cfg, tokenizer, night):
    """Distil, then imitate, with a value head, and gradients accumulated over parts."""
    policy = surrogate("ppo", kl_estimator="k1", kl_coef=0.1, entropy_coef=0.01)
    log, slot = logged_night(
        cfg,
        tokenizer,
        night,
        mode="staged",
        objective=Objective(surrogate=policy, lam=0.0, accumulate=2),
        imitation=ImitationConfig(num_generations=2, max_new_tokens=4, surrogate=policy),
    )
    for step, figures in enumerate(log):
        imitates = step >= 2
        assert (figures["hidden_gradient_distillation"] == 0) == imitates
        assert ("policy_explained_variance" in figures) == ("reward" in figures) == imitates
        assert (figures["hidden_gradient_policy"] > 0) == imitates
        assert figures["gradient_norm"] > 0
    initial = take_slot(night["student"]["memory"], night["level"], night["index"])
    assert slot.keys() == initial.keys()  # the value head is not part of the slot
