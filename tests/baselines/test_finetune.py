"""The loop of the baselines on a linear model, whose updates can be computed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from stopped import Stop, StoppedAt

from sleep_jax.baselines.finetune import finetune, finetune_steps
from sleep_jax.baselines.model import Leaves, MemorySlot, Model
from sleep_jax.memory.slots import take_slot, unlock
from sleep_jax.models.decoder import Decoder, lm_logits
from sleep_jax.runtime.checkpoints import PhaseCheckpoints
from sleep_jax.runtime.mid_phase import MidPhaseCheckpoint

ADAM = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.05))
SGD = optax.sgd(0.1)


def squared_error(model, batch, rng):
    """Of w x + b, summed over rows with a weight, and the weights."""
    x, y, weight = batch
    error = x @ model.variables["params"]["w"] + model.variables["params"]["b"] - y
    return jnp.sum(weight * error**2), jnp.sum(weight)


def linear(w=(1.0, 2.0), b=0.5):
    return Model(None, {"params": {"w": jnp.array(w), "b": jnp.array(b)}, "slots": jnp.arange(3)})


def random_batches(count, rows=4):
    rng = np.random.default_rng(0)
    for _ in range(count):
        x = rng.normal(size=(rows, 2)).astype(np.float32)
        yield x, x @ np.float32([3, -1]) + 1, rng.integers(1, 4, rows).astype(np.float32)


def leaves(model):
    return [np.asarray(x) for x in jax.tree.leaves(model)]


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(leaves(a), leaves(b)):
        np.testing.assert_array_equal(x, y)


def test_finetune_one_update_by_hand():
    # Errors: (1 + 0.5 - 2) = -0.5 with weight 1, (2 + 0.5 - 1) = 1.5 with weight 3.
    batch = np.eye(2, dtype=np.float32), np.float32([2, 1]), np.float32([1, 3])
    figures = []
    model = finetune(
        linear(),
        Leaves("params/.*"),
        squared_error,
        [batch],
        SGD,
        steps=1,
        log=lambda *update: figures.append(update),
    )
    # d loss / d w = 2 weight error / 4 = (-0.25, 2.25); d loss / d b is their sum, 2.
    np.testing.assert_allclose(model.variables["params"]["w"], [1.025, 1.775], rtol=1e-6)
    np.testing.assert_allclose(model.variables["params"]["b"], 0.3, rtol=1e-6)
    [(step, figures)] = figures
    assert step == 0 and figures["loss"] == (0.25 + 3 * 2.25) / 4
    np.testing.assert_allclose(figures["gradient_norm"], (0.0625 + 5.0625 + 4) ** 0.5, rtol=1e-6)


def test_finetune_equals_a_plain_optax_loop():
    params = linear().variables["params"]
    state, losses = ADAM.init(params), []
    for batch in random_batches(9):

        def loss(params, batch=batch):
            total, count = squared_error(Model(None, {"params": params}), batch, None)
            return total / count

        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = ADAM.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        losses.append(float(value))
    for updates_per_call in (1, 4):
        logged = []
        model = finetune(
            linear(),
            Leaves("params/.*"),
            squared_error,
            random_batches(9),
            ADAM,
            steps=9,
            updates_per_call=updates_per_call,
            log=lambda step, figures, logged=logged: logged.append((step, figures["loss"])),
        )
        assert [step for step, _ in logged] == [*range(9)]
        np.testing.assert_allclose([loss for _, loss in logged], losses, rtol=1e-5)
        for name, leaf in params.items():
            np.testing.assert_allclose(model.variables["params"][name], leaf, rtol=1e-5)


def test_finetune_leaves_frozen_leaves_and_the_given_model_as_they_are():
    model, untouched = linear(), linear()
    trained = finetune(model, Leaves("params/w"), squared_error, random_batches(3), ADAM, steps=3)
    assert_equal(model, untouched)
    assert trained.variables["params"]["b"] == 0.5
    assert_equal(trained.variables["slots"], untouched.variables["slots"])
    assert not np.array_equal(trained.variables["params"]["w"], [1, 2])


def test_finetune_accumulated_update_is_that_of_the_whole_batch():
    whole, parts = (
        finetune(
            linear(),
            Leaves("params/.*"),
            squared_error,
            random_batches(3, rows=8),
            SGD,
            steps=3,
            accumulate=accumulate,
        )
        for accumulate in (1, 4)
    )
    for x, y in zip(leaves(whole), leaves(parts)):
        np.testing.assert_allclose(x, y, rtol=1e-6)


def penalised(strength, anchor, model, batch, rng):
    """`squared_error` + strength * |w - anchor|^2 / 2, as EWC has it."""
    total, count = squared_error(model, batch, rng)
    penalty = strength * jnp.sum((model.variables["params"]["w"] - anchor) ** 2) / 2
    return total + penalty * count, count, {"penalty": (penalty, 1.0)}


def test_finetune_loss_with_arrays_is_penalised_and_compiled_once():
    nothing = np.zeros((1, 2), np.float32), np.float32([0.5]), np.float32([2])
    before = finetune_steps._cache_size()
    for anchor in ([0.0, 0.0], [1.0, 4.0]):
        logged = []
        loss = jax.tree_util.Partial(penalised, 0.5, jnp.array(anchor))
        model = finetune(
            linear(),
            Leaves("params/w"),
            loss,
            [nothing],
            SGD,
            steps=1,
            log=lambda step, figures, logged=logged: logged.append(figures),
        )
        # The error is 0: w moves by 0.1 * 0.5 of its way to the anchor.
        w, anchor = np.array([1.0, 2.0]), np.array(anchor)
        np.testing.assert_allclose(
            model.variables["params"]["w"], w + 0.05 * (anchor - w), rtol=1e-6
        )
        assert logged[0]["penalty"] == logged[0]["loss"] == 0.25 * np.sum((anchor - w) ** 2)
    assert finetune_steps._cache_size() == before + 1


def distance_to(teacher, model, batch, rng):
    """Squared distance to what a teacher predicts."""
    x = batch
    target, output = (x @ m.variables["params"]["w"] for m in (teacher, model))
    return jnp.sum((output - target) ** 2), len(x)


def test_finetune_loss_with_a_teacher_model_moves_towards_it():
    x = np.eye(2, dtype=np.float32)
    loss = jax.tree_util.Partial(distance_to, linear(w=(3.0, 2.0)))
    model = finetune(linear(), Leaves("params/w"), loss, [x], SGD, steps=1)
    # w_0 goes by 0.1 * 2 * (3 - 1) / 2 rows, w_1 is the teacher's.
    np.testing.assert_allclose(model.variables["params"]["w"], [1.2, 2.0], rtol=1e-6)


def test_finetune_batch_function_sees_the_model_before_its_update():
    seen = []

    def batches(step, model):
        seen.append((step, float(model.variables["params"]["b"])))
        return np.zeros((1, 2), np.float32), np.zeros(1, np.float32), np.ones(1, np.float32)

    finetune(linear(), Leaves("params/b"), squared_error, batches, SGD, steps=3)
    # b loses 2 * 0.1 of itself each time.
    assert [step for step, _ in seen] == [0, 1, 2]
    np.testing.assert_allclose([b for _, b in seen], [0.5, 0.4, 0.32], rtol=1e-6)


def noisy(model, batch, rng):
    total, count = squared_error(model, batch, rng)
    noise = jax.random.normal(rng, (2,)) @ model.variables["params"]["w"]
    return total + noise * count, count


def test_finetune_draws_differ_from_step_to_step_and_repeat_with_the_key():
    batch = np.zeros((1, 2), np.float32), np.float32([0.5]), np.float32([1])

    def losses(seed):
        out = []
        finetune(
            linear(),
            Leaves("params/b"),
            noisy,
            [batch] * 2,
            SGD,
            steps=2,
            rng=jax.random.key(seed),
            log=lambda step, figures: out.append(figures["loss"]),
        )
        return out

    assert losses(0) == losses(0) != losses(1)
    assert losses(0)[0] != losses(0)[1]


@pytest.mark.parametrize("updates_per_call", [1, 2])
def test_finetune_goes_on_after_a_stop_with_the_same_bits(tmp_path, updates_per_call):
    def run(checkpoint=None):
        logged = []
        model = finetune(
            linear(),
            Leaves("params/.*"),
            noisy,
            random_batches(7),
            ADAM,
            steps=7,
            updates_per_call=updates_per_call,
            log=lambda *update: logged.append(update),
            checkpoint=checkpoint,
        )
        return model, logged

    model, logged = run()
    with PhaseCheckpoints(tmp_path) as saved:
        with pytest.raises(Stop):
            run(StoppedAt(saved, "sft", every=4, watch=None))
        assert saved.latest()[0] == 4
        again, logged_again = run(MidPhaseCheckpoint(saved, "sft", every=100, watch=None))
    assert_equal(model, again)
    assert logged == logged_again


def next_token(model, tokens, rng):
    hidden = Decoder(model.cfg).apply(model.variables, tokens[:, :-1])
    logits = lm_logits(model.cfg, model.variables["params"], hidden)
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])
    return nats.sum(), nats.size


def test_finetune_trains_one_memory_slot_and_slots_share_a_program(cfg, variables):
    slots, _ = unlock(variables["slots"], 1)
    slots, _ = unlock(slots, 1)
    model = Model(cfg, {**variables, "slots": slots})
    tokens = np.random.default_rng(0).integers(0, cfg.vocab, (2, 8))
    before = finetune_steps._cache_size()
    for index in (0, 1):
        trained = finetune(model, MemorySlot(1, index), next_token, [tokens] * 2, ADAM, steps=2)
        for other in range(3):
            slot, slot_before = (
                take_slot(m.variables["memory"], 1, other)["down"] for m in (trained, model)
            )
            assert np.array_equal(slot, slot_before) == (other != index)
        assert_equal(trained.variables["params"], model.variables["params"])
    assert finetune_steps._cache_size() == before + 1


def test_finetune_errors_say_what_to_do():
    def run(pattern="params/.*", batches=(), accumulate=1):
        finetune(
            linear(),
            Leaves(pattern),
            squared_error,
            batches,
            SGD,
            steps=2,
            accumulate=accumulate,
        )

    with pytest.raises(ValueError, match=r"no variable matches 'lora/\.\*'; the paths begin with"):
        run("lora/.*")
    with pytest.raises(ValueError, match="batches end after 1 of steps=2; give more"):
        run(batches=random_batches(1))
    with pytest.raises(ValueError, match=r"accumulate=3 has to divide the rows of a batch, \[4\]"):
        run(batches=random_batches(2), accumulate=3)
    bad = np.ones((1, 2), np.float32), np.float32([np.nan]), np.float32([1])
    with pytest.raises(FloatingPointError, match=r"update 1: loss nan.*lower the learning rate"):
        run(batches=[*random_batches(1, rows=1), bad])
