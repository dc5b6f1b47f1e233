"""The seeding step: what it changes, and the formula of its loss."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sleep_jax.config import default, read
from sleep_jax.memory.slots import init_memory, put_slot, take_slot
from sleep_jax.models.decoder import Decoder, lm_head, lm_logits
from sleep_jax.rl.algorithms import ALGORITHMS, surrogate
from sleep_jax.seeding.divergence import SCORES, Divergence, token_scores
from sleep_jax.seeding.objective import Objective, flat, objective_terms, scored_hidden
from sleep_jax.seeding.sequences import (
    BatchShape,
    Exchange,
    HiddenStates,
    make_batch,
    pack_exchanges,
)
from sleep_jax.seeding.step import init_critic, init_state, seeding_step

RNG = np.random.default_rng(0)
SHAPE = BatchShape(batch_size=2, max_length=24, max_target_length=12)
ADAM, SGD = optax.adam(0.02), optax.sgd(1e-3)
MIXED = Objective(alpha=0.25, lam=0.75, ce_coef=0.5)
terms_of = jax.jit(objective_terms, static_argnums=(0, 1))


def tokens(n):
    return tuple(RNG.integers(0, 97, n).tolist())


EXCHANGES = [
    Exchange(None, tokens(3), (), tokens(6), "dream", supervised=True),
    Exchange(None, tokens(5), (), tokens(4), "answer"),
    Exchange(
        None,
        tokens(2),
        (),
        tokens(5),
        "rollout",
        True,
        advantage=0.75,
        log_probs=RNG.normal(size=5) - 4,
    ),
    Exchange(
        None,
        tokens(4),
        (),
        tokens(4),
        "rollout",
        True,
        advantage=-0.25,
        log_probs=RNG.normal(size=4) - 4,
    ),
]
EXCHANGES = [dataclasses.replace(e, old_log_probs=e.log_probs) for e in EXCHANGES]


@pytest.fixture(scope="module")
def batch(cfg, trained):
    """Teacher-written sequences and rollouts, scored by the trained model on the same prompts."""

    def states(e):
        hidden = Decoder(cfg).apply(trained, np.array([e.student + e.completion[:-1]]))
        return HiddenStates(np.asarray(hidden[0, len(e.student) - 1 :]))

    return make_batch(
        EXCHANGES, list(map(states, EXCHANGES)), pack_exchanges(EXCHANGES, SHAPE), SHAPE
    )


@pytest.fixture(scope="module")
def student(cfg, trained):
    """The trained model with an initial slot 1; its teacher has the trained one."""
    fresh, _ = init_memory(jax.random.key(5), cfg.memory, layers=2, width=32)
    memory = put_slot(trained["memory"], 1, 1, take_slot(fresh, 1, 1))
    return trained | {"memory": memory}


@pytest.fixture
def run(cfg):
    """(objective, base, batch, slot=that of base, optimizer) -> (slot 1 after a step, metrics)."""

    def step(objective, base, batch, slot=None, optimizer=ADAM, **more):
        slot = take_slot(base["memory"], 1, 1) if slot is None else slot
        state = init_state(jax.tree.map(jnp.array, slot), optimizer)
        state, metrics = seeding_step(
            cfg, objective, optimizer, 1, jnp.int32(1), state, base, batch, **more
        )
        assert state.step == 1
        return state.slot, metrics

    return step


def test_loss_equals_the_formula(cfg, trained, student, batch, run):
    terms, _ = terms_of(cfg, MIXED, student, batch)
    assert {name: float(count) for name, (_, count) in terms.items()} == {
        "kl_off": 10,
        "kl_on": 9,
        "policy_loss": 9,
        "cross_entropy": 6,
    }
    mean = {name: float(total / count) for name, (total, count) in terms.items()}
    _, metrics = run(MIXED, student, batch)
    # alpha = 1/4, lambda = 3/4, c = 1/2.
    want = (
        0.25 * (0.25 * mean["kl_off"] + 0.75 * mean["kl_on"])
        + 0.75 * mean["policy_loss"]
        + 0.5 * mean["cross_entropy"]
    )
    np.testing.assert_allclose(metrics["loss"], want, rtol=1e-5)
    for name, value in mean.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5)
    assert abs(mean["policy_loss"]) > 0.01 and mean["kl_off"] > 0.01 and mean["kl_on"] > 0.01


def test_step_changes_only_the_slot_and_ignores_that_of_the_base(student, batch, run):
    before = jax.tree.map(np.array, student)
    slot, metrics = run(MIXED, student, batch)
    jax.tree.map(np.testing.assert_array_equal, student, before)
    for name, old in take_slot(student["memory"], 1, 1).items():
        changed = slot[name] != old
        assert changed.mean() > 0.9 if name == "down" else not changed.any()  # B = 0 initially

    # The slot in the base is not read.
    nan_slot = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), slot)
    nan_base = student | {"memory": put_slot(student["memory"], 1, 1, nan_slot)}
    again, same = run(MIXED, nan_base, batch, take_slot(student["memory"], 1, 1))
    jax.tree.map(np.testing.assert_array_equal, (again, same), (slot, metrics))


def test_step_changes_every_matrix_of_a_nonzero_slot(trained, batch, run):
    slot, metrics = run(MIXED, trained, batch)
    for name, old in take_slot(trained["memory"], 1, 1).items():
        assert (slot[name] != old).mean() > 0.9
    # The teacher is the student here: the divergence is rounding.
    assert abs(metrics["kl_off"]) < 1e-5 and abs(metrics["kl_on"]) < 1e-5


def test_step_ignores_padding(trained, batch, run):
    wider = jax.tree.map(lambda x: np.pad(x, [(0, 1)] + [(0, 0)] * (x.ndim - 1)), batch)
    _, metrics = run(MIXED, trained, batch)
    _, padded = run(MIXED, trained, wider)
    assert metrics.keys() == padded.keys() >= {"loss", "gradient_norm"}
    for name, value in metrics.items():
        np.testing.assert_allclose(padded[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


def test_step_lowers_the_divergence_and_compiles_once(cfg, student, batch, compilations):
    objective = Objective(alpha=1.0, lam=0.5)
    state = init_state(jax.tree.map(jnp.array, take_slot(student["memory"], 1, 1)), ADAM)
    losses, later = [], None
    for index in [jnp.int32(1)] * 25:
        state, metrics = seeding_step(cfg, objective, ADAM, 1, index, state, student, batch)
        losses.append(float(metrics["loss"]))
        if later is None:
            compilations.clear()
            later = compilations
    assert not later
    assert losses[-1] < 0.3 * losses[0]
    # Another slot is the same program.
    assert seeding_step(cfg, objective, ADAM, 1, jnp.int32(2), state, student, batch)
    assert not later


@pytest.mark.parametrize("sign", [1, -1])
def test_policy_gradient_follows_the_sign_of_advantages(cfg, trained, batch, run, sign):
    advantages = np.where(batch.on_policy, sign, 0).astype(np.float32)
    on = batch.on_policy & batch.mask
    as_supervised = dataclasses.replace(batch, supervised=on)

    def on_policy_log_prob(variables):
        total, count = terms_of(cfg, MIXED, variables, as_supervised)[0]["cross_entropy"]
        assert count == on.sum()
        return -float(total / count)

    policy = Objective(alpha=0.0)
    rewarded = dataclasses.replace(batch, advantages=advantages)
    slot, metrics = run(policy, trained, rewarded, optimizer=SGD)
    after = trained | {"memory": put_slot(trained["memory"], 1, 1, slot)}
    gain = on_policy_log_prob(after) - on_policy_log_prob(trained)
    assert sign * gain > 1e-4
    assert metrics["loss"] == metrics["policy_loss"]


def test_step_without_rollouts_is_finite(student, batch, run):
    mask = batch.mask & ~batch.on_policy
    _, metrics = run(MIXED, student, dataclasses.replace(batch, mask=mask))
    assert metrics["policy_loss"] == metrics["kl_on"] == 0
    assert all(np.isfinite(v) for v in metrics.values()) and metrics["gradient_norm"] > 0


@pytest.mark.parametrize("name", ["alpha", "lam"])
@pytest.mark.parametrize("value", [-0.1, 1.1])
def test_objective_rejects_alpha_and_lam_outside_0_to_1(name, value):
    with pytest.raises(ValueError, match=rf"seeding.{name}={value}; give a number from 0 to 1"):
        Objective(**{name: value})


def test_step_uses_the_chosen_divergence(cfg, trained, student, batch, run):
    objective = dataclasses.replace(MIXED, divergence=Divergence("reverse", temperature=2.0))
    assert hash(objective) == hash(dataclasses.replace(objective)) and objective != MIXED
    hidden = Decoder(cfg).apply(student, batch.tokens, batch.segment_ids)
    hidden = jnp.take_along_axis(hidden, batch.target_positions[..., None], axis=1)
    log_s, log_t = (
        jax.nn.log_softmax(lm_logits(cfg, trained["params"], x) / 2)
        for x in (hidden, batch.teacher)
    )
    kl = np.asarray((jnp.exp(log_s) * (log_s - log_t)).sum(-1))
    _, metrics = run(objective, student, batch)
    for name, which in (("kl_on", batch.on_policy), ("kl_off", ~batch.on_policy)):
        np.testing.assert_allclose(metrics[name], kl[batch.mask & which].mean(), rtol=1e-3)


def test_objective_rejects_sampled_divergence_off_policy():
    assert Objective(lam=1.0, divergence=Divergence("sampled"))
    with pytest.raises(ValueError, match=r"seeding.lam=0.5 with seeding.divergence='sampled'"):
        Objective(divergence=Divergence("sampled"))
    with pytest.raises(ValueError, match=r"seeding.divergence_temperature=0.9 with seeding.div"):
        Objective(lam=1.0, divergence=Divergence("sampled", temperature=0.9))


def test_config_sets_the_divergence():
    c = default()
    for name in ("seeding", "reinforcing"):
        assert getattr(read(c), name).objective.divergence == Divergence()
    options = {"jsd_beta": 0.25, "divergence_top_k": 8, "divergence_temperature": 2.0}
    c.seeding.update(divergence="jsd", divergence_cap=3.0, **options)
    for name in ("seeding", "reinforcing"):
        assert getattr(read(c), name).objective.divergence == Divergence("jsd", 0.25, 8, 2.0, 3.0)
    # Rewarded dreams come without rollouts.
    options = {"lam": 1.0, "divergence_temperature": 1.0, "divergence_cap": 0.0}
    c.seeding.update(divergence="sampled", **options)
    assert read(c).seeding.objective.divergence == Divergence("sampled", 0.25, 8)
    assert read(c).reinforcing.objective.divergence == Divergence("reverse", 0.25, 8)
    c.seeding.divergence_cap = -1.0
    with pytest.raises(ValueError, match=r"seeding.divergence_cap=-1.0"):
        read(c)


@pytest.mark.parametrize("name", list(ALGORITHMS))
def test_policy_loss_of_packed_rows_equals_that_of_rows(cfg, student, batch, log_probs, name):
    """With all rollouts, and with one of them masked out."""
    estimator = surrogate(name, length=8)
    objective = Objective(surrogate=estimator)
    rollouts = [e for e in EXCHANGES if e.on_policy]
    new, old, mask = (np.zeros((2, 8), np.float32) for _ in range(3))
    for i, e in enumerate(rollouts):
        scored = log_probs(student, e.student + e.completion[:-1])[len(e.student) - 1 :]
        n = len(e.completion)
        new[i, :n] = scored[np.arange(n), e.completion]
        old[i, :n], mask[i, :n] = e.log_probs, 1
    advantages = np.array([e.advantage for e in rollouts], np.float32)
    (total, count), _ = estimator.loss(new, old, advantages, mask)
    got, weight = terms_of(cfg, objective, student, batch)[0]["policy_loss"]
    np.testing.assert_allclose([got, weight], [total, count], rtol=1e-3, atol=1e-5)

    is_first = batch.sequence_ids == EXCHANGES.index(rollouts[0])
    without_first = batch.replace(rewarded=batch.rewarded & ~is_first)
    (total, count), _ = estimator.loss(new[1:], old[1:], advantages[1:], mask[1:])
    got, weight = terms_of(cfg, objective, student, without_first)[0]["policy_loss"]
    np.testing.assert_allclose([got, weight], [total, count], rtol=1e-3, atol=1e-5)


def test_gradient_equals_autodiff_of_the_loss(cfg, student, batch, run):
    """What autodiff makes of the formula, and of each term at the student's last hidden states."""
    base, slot = student, take_slot(student["memory"], 1, 1)
    objective = dataclasses.replace(MIXED, surrogate=surrogate("grpo", entropy_coef=0.3))
    head = lm_head(cfg, base["params"])

    def hidden(slot):
        memory = put_slot(base["memory"], 1, 1, slot)
        return scored_hidden(cfg, base | {"memory": memory}, batch)

    def weighted_terms(hidden):
        parts = map(flat, (batch.teacher, batch.targets, batch.mask))
        terms, _ = objective.terms(token_scores(hidden, *parts, head, has_entropy=True), batch)
        mean = {name: total / count for name, (total, count) in terms.items()}
        return objective.weighted_terms(mean, objective.lam)

    @jax.jit
    def by_autodiff(slot):
        loss = jax.grad(lambda slot: sum(weighted_terms(hidden(slot)).values()))(slot)
        return loss, jax.jacrev(weighted_terms)(hidden(slot))

    want, at_hidden = by_autodiff(slot)
    after, metrics = run(objective, base, batch, optimizer=optax.sgd(1.0))
    for name, gradient in want.items():
        np.testing.assert_allclose(slot[name] - after[name], gradient, rtol=2e-3, atol=1e-6)
    np.testing.assert_allclose(metrics["gradient_norm"], optax.tree.norm(want), rtol=1e-4)
    for name in ("distillation", "policy"):
        norm = jnp.linalg.norm(at_hidden[name])
        np.testing.assert_allclose(metrics[f"hidden_gradient_{name}"], norm, rtol=1e-4)
        assert norm > 1e-3
    assert (metrics["tokens_off"], metrics["tokens_on"]) == (10, 9)
    # 1.0 nats of entropy cannot be missing from the loss of 97 words.
    plain = dataclasses.replace(objective, surrogate=surrogate("grpo"))
    without = terms_of(cfg, plain, student, batch)[0]["policy_loss"]
    np.testing.assert_allclose(
        without[0] / without[1] - metrics["policy_loss"], 0.3 * metrics["policy_entropy"], rtol=0.2
    )
    assert metrics["policy_entropy"] > 1


class AllScores(Objective):
    """An objective that forms the gradient of every score."""

    learnt_scores = SCORES


ENTROPIC = surrogate("grpo", entropy_coef=0.3)
PARTIAL = [
    (Objective(alpha=1.0, surrogate=ENTROPIC), {"kl"}),
    (Objective(alpha=1.0, ce_coef=0.5), {"kl", "log_prob"}),
    (Objective(alpha=0.0, surrogate=ENTROPIC), {"log_prob", "entropy"}),
]


def test_learnt_scores_are_those_with_weight():
    for objective, learnt in (*PARTIAL, (Objective(), {"kl", "log_prob"})):
        assert set(objective.learnt_scores) == learnt


@pytest.mark.slow
@pytest.mark.parametrize("objective", [objective for objective, _ in PARTIAL])
def test_scores_without_weight_do_not_change_the_update(student, batch, run, objective):
    """Forming their gradients nevertheless, at a weight of 0, gives the same update."""
    slot, metrics = run(objective, student, batch)
    same, general = run(AllScores(**vars(objective)), student, batch)
    assert metrics.keys() == general.keys() and metrics["gradient_norm"] > 0
    for name, value in general.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, atol=1e-7, err_msg=name)
    for name in slot:
        np.testing.assert_allclose(slot[name], same[name], rtol=1e-5, atol=1e-7)


def test_accumulated_update_equals_that_of_the_whole_batch(student, batch, run):
    """One part is off-policy and the other on-policy; sequence ids may be any."""
    assert batch.on_policy.any(1).tolist() == [False, True]
    objective = dataclasses.replace(MIXED, surrogate=surrogate("gspo"))
    sgd = optax.sgd(1.0)
    slot, metrics = run(objective, student, batch, optimizer=sgd)
    parts = dataclasses.replace(objective, accumulate=2)
    renamed = batch.replace(sequence_ids=batch.sequence_ids + 500)
    same, accumulated = run(parts, student, renamed, optimizer=sgd)
    assert metrics.keys() == accumulated.keys()
    for name, value in metrics.items():
        np.testing.assert_allclose(accumulated[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
    for name in slot:
        np.testing.assert_allclose(same[name], slot[name], rtol=1e-4, atol=1e-6)


def test_lam_as_probability_draws_on_or_off_policy_updates(student, batch, run):
    objective = dataclasses.replace(MIXED, lam_as_probability=True)

    def draws(key):
        draw = jax.vmap(lambda step: objective.lam_of_update(step, 10.0, 9.0, key))
        return np.asarray(draw(jnp.arange(300)))

    is_on_policy = draws(jax.random.key(0))
    assert set(is_on_policy) == {0.0, 1.0} and abs(is_on_policy.mean() - 0.75) < 0.08
    assert (is_on_policy != draws(jax.random.key(1))).any()  # each night has its own key
    first = int(is_on_policy.argmax())
    assert objective.lam_of_update(first, 10.0, 0.0, jax.random.key(0)) == 0  # no on-policy tokens
    with pytest.raises(ValueError, match="lam_as_probability=True needs lam_rng"):
        objective.lam_of_update(0, 10.0, 9.0)
    assert MIXED.lam_of_update(0, 10.0, 9.0) == 0.75
    _, metrics = run(objective, student, batch, lam_rng=jax.random.key(0))
    kl = metrics["kl_on"] if is_on_policy[0] else metrics["kl_off"]
    want = 0.25 * kl + 0.75 * metrics["policy_loss"] + 0.5 * metrics["cross_entropy"]
    np.testing.assert_allclose(metrics["loss"], want, rtol=1e-5)


def test_on_policy_weight_by_tokens_by_hand(student, batch, run):
    """Of 10 off-policy and 9 on-policy tokens."""
    objective = dataclasses.replace(MIXED, on_policy_weight="tokens")
    want = 0.75 * 9 / (0.75 * 9 + 0.25 * 10)
    np.testing.assert_allclose(objective.lam_of_update(0, 10.0, 9.0), want, rtol=1e-6)
    by_lam = {0.0: 0.0, 0.5: 9 / 19, 1.0: 1.0}
    for lam, weight in by_lam.items():
        objective = dataclasses.replace(objective, lam=lam)
        np.testing.assert_allclose(objective.lam_of_update(0, 10.0, 9.0), weight, rtol=1e-6)
        # All of the weight is that of the tokens that are there.
        assert objective.lam_of_update(0, 10.0, 0.0) == (lam == 1)
        assert objective.lam_of_update(0, 0.0, 9.0) == (lam > 0)
    # At lambda 1/2 the divergence is the mean over all tokens.
    objective = dataclasses.replace(objective, lam=0.5)
    _, metrics = run(objective, student, batch)
    kl = (10 * metrics["kl_off"] + 9 * metrics["kl_on"]) / 19
    want = 0.25 * kl + 0.75 * metrics["policy_loss"] + 0.5 * metrics["cross_entropy"]
    np.testing.assert_allclose(metrics["loss"], want, rtol=1e-5)
    _, accumulated = run(dataclasses.replace(objective, accumulate=2), student, batch)
    for name in ("loss", "gradient_norm"):
        np.testing.assert_allclose(accumulated[name], metrics[name], rtol=1e-3)


def test_objective_rejects_a_weight_by_tokens_of_a_coin():
    with pytest.raises(ValueError, match=r"on_policy_weight='tokens' with seeding.lam_as_prob"):
        Objective(on_policy_weight="tokens", lam_as_probability=True)


@pytest.mark.slow
def test_critic_update_by_hand_leaves_the_slot_unchanged(cfg, student, batch, run):
    ppo = dataclasses.replace(MIXED, surrogate=surrogate("ppo"), accumulate=2)
    returns = np.where(batch.on_policy, RNG.normal(size=batch.mask.shape), np.nan)
    batch = batch.replace(returns=returns.astype(np.float32))
    critic = jax.tree.map(np.array, init_critic(cfg.width, 1e-3))
    critic.head["kernel"] = RNG.normal(size=cfg.width).astype(np.float32) * cfg.width**-0.5
    on = batch.mask & batch.rewarded
    hidden = scored_hidden(cfg, student, batch).reshape(*on.shape, -1)[on]
    error = hidden @ critic.head["kernel"] - returns[on]
    # The mean over tokens of half the squared error; old values of 0 bound how far these may move.
    value = error + returns[on]
    free = (abs(value) <= 0.2) | (error**2 > (np.clip(value, -0.2, 0.2) - returns[on]) ** 2)
    assert 0 < free.sum() < len(free)
    gradient = (np.where(free, error, 0)[:, None] * hidden).mean(0)

    state = init_state(jax.tree.map(jnp.array, take_slot(student["memory"], 1, 1)), ADAM)
    after, metrics = seeding_step(
        cfg,
        ppo,
        ADAM,
        1,
        jnp.int32(1),
        state.replace(critic=jax.tree.map(jnp.array, critic)),
        student,
        batch,
    )
    # Adam's first update is the rate against the sign.
    moved = after.critic.head["kernel"] - critic.head["kernel"]
    clear = np.abs(gradient) > 1e-3
    np.testing.assert_allclose(moved[clear], -1e-3 * np.sign(gradient[clear]), rtol=1e-2)
    np.testing.assert_allclose(after.critic.opt_state[0].mu["kernel"], 0.1 * gradient, atol=1e-4)
    np.testing.assert_allclose(metrics["policy_value"], value.mean(), rtol=1e-3, atol=1e-5)
    assert metrics["skipped"] == 0
    slot, _ = run(ppo, student, batch)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), after.slot, slot)


def test_gate_metrics_are_mean_gates_of_the_slots(cfg, student, batch):
    """Keys of 0: a gate is the sigmoid of its bias for every token, and 0 where a slot is off."""
    routed = cfg.replace(memory=dataclasses.replace(cfg.memory, router="sigmoid"))
    bank = student["memory"]["layers"]["level_1"]["experts"]
    key, bias = np.zeros((2, 3, 32), np.float32), np.log([[3.0, 1.0, 9.0]] * 2).astype(np.float32)
    memory = {"layers": {"level_1": {"experts": bank | {"key": key, "bias": bias}}}}
    base = student | {"memory": memory}
    objective = dataclasses.replace(MIXED, accumulate=2)
    state = init_state(take_slot(memory, 1, 1), ADAM)
    _, metrics = seeding_step(routed, objective, ADAM, 1, jnp.int32(1), state, base, batch)
    got = [metrics[f"gate_{slot}"] for slot in range(3)]
    np.testing.assert_allclose(got, [0.75, 0.5, 0.0], rtol=1e-5)
