"""The seeding step: what learns, what it learns, and the formula of its loss."""

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
from sleep_jax.seeding.sequences import BatchShape, Exchange, States, batch_of, packs
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
        return States(np.asarray(hidden[0, len(e.student) - 1 :]))

    return batch_of(EXCHANGES, list(map(states, EXCHANGES)), packs(EXCHANGES, SHAPE), SHAPE)


@pytest.fixture(scope="module")
def student(cfg, trained):
    """The trained model with slot 1 as at birth: its teacher has learnt what it has not."""
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


def test_the_loss_is_the_formula(cfg, trained, student, batch, run):
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


def test_only_the_slot_is_read_and_changes(student, batch, run):
    before = jax.tree.map(np.array, student)
    slot, metrics = run(MIXED, student, batch)
    jax.tree.map(np.testing.assert_array_equal, student, before)
    for name, old in take_slot(student["memory"], 1, 1).items():
        changed = slot[name] != old
        assert changed.mean() > 0.9 if name == "down" else not changed.any()  # B = 0 at birth

    # What the base holds in that place is not looked at.
    nothing = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), slot)
    dirty = student | {"memory": put_slot(student["memory"], 1, 1, nothing)}
    again, same = run(MIXED, dirty, batch, take_slot(student["memory"], 1, 1))
    jax.tree.map(np.testing.assert_array_equal, (again, same), (slot, metrics))


def test_every_matrix_of_a_speaking_slot_learns(trained, batch, run):
    slot, metrics = run(MIXED, trained, batch)
    for name, old in take_slot(trained["memory"], 1, 1).items():
        assert (slot[name] != old).mean() > 0.9
    # The teacher is the student here: the divergence is rounding.
    assert abs(metrics["kl_off"]) < 1e-5 and abs(metrics["kl_on"]) < 1e-5


def test_padding_changes_neither_loss_nor_gradient(trained, batch, run):
    wider = jax.tree.map(lambda x: np.pad(x, [(0, 1)] + [(0, 0)] * (x.ndim - 1)), batch)
    _, metrics = run(MIXED, trained, batch)
    _, padded = run(MIXED, trained, wider)
    assert metrics.keys() == padded.keys() >= {"loss", "gradient_norm"}
    for name, value in metrics.items():
        np.testing.assert_allclose(padded[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


def test_it_learns_what_its_teacher_knows_and_compiles_once(cfg, student, batch, compilations):
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
def test_the_policy_gradient_makes_what_was_paid_likelier(cfg, trained, batch, run, sign):
    advantages = np.where(batch.on_policy, sign, 0).astype(np.float32)
    on = batch.on_policy & batch.mask
    as_taught = dataclasses.replace(batch, supervised=on)

    def on_policy_log_prob(variables):
        total, count = terms_of(cfg, MIXED, variables, as_taught)[0]["cross_entropy"]
        assert count == on.sum()
        return -float(total / count)

    policy = Objective(alpha=0.0)
    paid = dataclasses.replace(batch, advantages=advantages)
    slot, metrics = run(policy, trained, paid, optimizer=SGD)
    after = trained | {"memory": put_slot(trained["memory"], 1, 1, slot)}
    gain = on_policy_log_prob(after) - on_policy_log_prob(trained)
    assert sign * gain > 1e-4
    assert metrics["loss"] == metrics["policy_loss"]


def test_without_rollouts_there_is_no_nan(student, batch, run):
    mask = batch.mask & ~batch.on_policy
    _, metrics = run(MIXED, student, dataclasses.replace(batch, mask=mask))
    assert metrics["policy_loss"] == metrics["kl_on"] == 0
    assert all(np.isfinite(v) for v in metrics.values()) and metrics["gradient_norm"] > 0


@pytest.mark.parametrize("name", ["alpha", "lam"])
@pytest.mark.parametrize("value", [-0.1, 1.1])
def test_shares_outside_0_to_1_are_rejected(name, value):
    with pytest.raises(ValueError, match=rf"seeding.{name}={value}; give a number from 0 to 1"):
        Objective(**{name: value})


def test_the_divergence_is_the_one_chosen(cfg, trained, student, batch, run):
    objective = dataclasses.replace(MIXED, divergence=Divergence("reverse", temperature=2.0))
    assert hash(objective) == hash(dataclasses.replace(objective)) and objective != MIXED
    hidden = Decoder(cfg).apply(student, batch.tokens, batch.segment_ids)
    hidden = jnp.take_along_axis(hidden, batch.scored[..., None], axis=1)
    log_s, log_t = (
        jax.nn.log_softmax(lm_logits(cfg, trained["params"], x) / 2)
        for x in (hidden, batch.teacher)
    )
    kl = np.asarray((jnp.exp(log_s) * (log_s - log_t)).sum(-1))
    _, metrics = run(objective, student, batch)
    for name, which in (("kl_on", batch.on_policy), ("kl_off", ~batch.on_policy)):
        np.testing.assert_allclose(metrics[name], kl[batch.mask & which].mean(), rtol=1e-3)


def test_what_is_sampled_needs_rollouts_at_their_temperature():
    assert Objective(lam=1.0, divergence=Divergence("sampled"))
    with pytest.raises(ValueError, match=r"seeding.lam=0.5 with seeding.divergence='sampled'"):
        Objective(divergence=Divergence("sampled"))
    with pytest.raises(ValueError, match=r"seeding.divergence_temperature=0.9 with seeding.div"):
        Objective(lam=1.0, divergence=Divergence("sampled", temperature=0.9))


def test_the_config_says_which_divergence():
    c = default()
    for name in ("seeding", "reinforcing"):
        assert getattr(read(c), name).objective.divergence == Divergence()
    s = c.seeding
    s.divergence, s.beta, s.top_k, s.divergence_temperature, s.cap = "jsd", 0.25, 8, 2.0, 3.0
    for name in ("seeding", "reinforcing"):
        assert getattr(read(c), name).objective.divergence == Divergence("jsd", 0.25, 8, 2.0, 3.0)
    # Rewarded dreams come without rollouts.
    s.divergence, s.lam, s.divergence_temperature, s.cap = "sampled", 1.0, 1.0, 0.0
    assert read(c).seeding.objective.divergence == Divergence("sampled", 0.25, 8)
    assert read(c).reinforcing.objective.divergence == Divergence("reverse", 0.25, 8)
    s.cap = -1.0
    with pytest.raises(ValueError, match=r"seeding.divergence_cap=-1.0"):
        read(c)


@pytest.mark.parametrize("name", list(ALGORITHMS))
def test_every_estimator_sees_sequences_and_not_rows(cfg, student, batch, log_probs, name):
    """Packed into rows, rollouts weigh what they weigh one a row; one that is left out, nothing."""
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

    mine = batch.sequence == EXCHANGES.index(rollouts[0])
    alone = batch.replace(rewarded=batch.rewarded & ~mine)
    (total, count), _ = estimator.loss(new[1:], old[1:], advantages[1:], mask[1:])
    got, weight = terms_of(cfg, objective, student, alone)[0]["policy_loss"]
    np.testing.assert_allclose([got, weight], [total, count], rtol=1e-3, atol=1e-5)


def test_the_gradient_is_that_of_the_loss(cfg, student, batch, run):
    """What autodiff makes of the formula, and of each term at the student's last hidden states."""
    base, slot = student, take_slot(student["memory"], 1, 1)
    objective = dataclasses.replace(MIXED, surrogate=surrogate("grpo", entropy_coef=0.3))
    head = lm_head(cfg, base["params"])

    def hidden(slot):
        memory = put_slot(base["memory"], 1, 1, slot)
        return scored_hidden(cfg, base | {"memory": memory}, batch)

    def shares(hidden):
        parts = map(flat, (batch.teacher, batch.targets, batch.mask))
        terms, _ = objective.terms(token_scores(hidden, *parts, head, has_entropy=True), batch)
        mean = {name: total / count for name, (total, count) in terms.items()}
        return objective.shares(mean, objective.lam)

    @jax.jit
    def by_autodiff(slot):
        loss = jax.grad(lambda slot: sum(shares(hidden(slot)).values()))(slot)
        return loss, jax.jacrev(shares)(hidden(slot))

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


class Learning(Objective):
    """One that forms the gradient of every score."""

    learns = SCORES


ENTROPIC = surrogate("grpo", entropy_coef=0.3)
WEIGHTLESS = [
    (Objective(alpha=1.0, surrogate=ENTROPIC), {"kl"}),
    (Objective(alpha=1.0, ce_coef=0.5), {"kl", "log_prob"}),
    (Objective(alpha=0.0, surrogate=ENTROPIC), {"log_prob", "entropy"}),
]


def test_what_weighs_nothing_is_not_learnt():
    for objective, learns in (*WEIGHTLESS, (Objective(), {"kl", "log_prob"})):
        assert set(objective.learns) == learns


@pytest.mark.slow
@pytest.mark.parametrize("objective", [objective for objective, _ in WEIGHTLESS])
def test_what_is_not_learnt_would_change_nothing(student, batch, run, objective):
    """Forming it all the same, at a weight of 0, is the same update."""
    slot, metrics = run(objective, student, batch)
    same, general = run(Learning(**vars(objective)), student, batch)
    assert metrics.keys() == general.keys() and metrics["gradient_norm"] > 0
    for name, value in general.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, atol=1e-7, err_msg=name)
    for name in slot:
        np.testing.assert_allclose(slot[name], same[name], rtol=1e-5, atol=1e-7)


def test_accumulated_parts_are_the_whole_batch(student, batch, run):
    """One part is all the teacher's and the other all the student's; how sequences are numbered
    does not matter."""
    assert batch.on_policy.any(1).tolist() == [False, True]
    whole = dataclasses.replace(MIXED, surrogate=surrogate("gspo"))
    sgd = optax.sgd(1.0)
    slot, metrics = run(whole, student, batch, optimizer=sgd)
    parts = dataclasses.replace(whole, accumulate=2)
    renamed = batch.replace(sequence=batch.sequence + 500)
    same, accumulated = run(parts, student, renamed, optimizer=sgd)
    assert metrics.keys() == accumulated.keys()
    for name, value in metrics.items():
        np.testing.assert_allclose(accumulated[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
    for name in slot:
        np.testing.assert_allclose(same[name], slot[name], rtol=1e-4, atol=1e-6)


def test_a_coin_decides_whose_sequences_an_update_distils(student, batch, run):
    objective = dataclasses.replace(MIXED, lam_as_probability=True)

    def flips_of(key):
        flip = jax.vmap(lambda step: objective.share_on_policy(step, 9.0, key))
        return np.asarray(flip(jnp.arange(300)))

    flips = flips_of(jax.random.key(0))
    assert set(flips) == {0.0, 1.0} and abs(flips.mean() - 0.75) < 0.08
    assert (flips != flips_of(jax.random.key(1))).any()  # each night has flips of its own
    first = int(flips.argmax())
    assert objective.share_on_policy(first, 0.0, jax.random.key(0)) == 0  # nothing to distil
    with pytest.raises(ValueError, match="lam_as_probability=True needs coin_rng"):
        objective.share_on_policy(0, 9.0)
    assert MIXED.share_on_policy(0, 9.0) == 0.75
    _, metrics = run(objective, student, batch, coin_rng=jax.random.key(0))
    kl = metrics["kl_on"] if flips[0] else metrics["kl_off"]
    want = 0.25 * kl + 0.75 * metrics["policy_loss"] + 0.5 * metrics["cross_entropy"]
    np.testing.assert_allclose(metrics["loss"], want, rtol=1e-5)


@pytest.mark.slow
def test_a_critic_learns_beside_the_slot_and_does_not_move_it(cfg, student, batch, run):
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


def test_a_router_says_how_much_each_slot_gets(cfg, student, batch):
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
