"""The clipped loss: hand values, a NumPy reference, gradients, masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sleep_jax.rl import policy_gradient
from sleep_jax.rl.policy_gradient import drop_truncated

policy_gradient_loss = jax.jit(
    policy_gradient.policy_gradient_loss,
    static_argnames=("clip", "clip_high", "level", "aggregation", "length"),
)


def random_case(seed=0, batch=5, time=7):
    rng = np.random.default_rng(seed)
    old = rng.normal(-2, 0.5, (batch, time)).astype(np.float32)
    new = (old + rng.normal(0, 0.3, (batch, time))).astype(np.float32)
    return new, old, rng.normal(size=batch).astype(np.float32), rng.random((batch, time)) < 0.7


@pytest.mark.parametrize("clip_high", [None, 0.28])
def test_loss_equals_the_numpy_reference(clip_high):
    new, old, advantages, mask = random_case()
    (total, denominator), metrics = policy_gradient_loss(
        new, old, advantages, mask, clip=0.2, clip_high=clip_high
    )
    high, want, clipped, kl = clip_high or 0.2, 0.0, 0, 0.0
    for b, t in zip(*np.nonzero(mask)):
        ratio, a = np.exp(new[b, t] - old[b, t]), advantages[b]
        gain, bounded = ratio * a, min(max(ratio, 0.8), 1 + high) * a
        want -= min(gain, bounded)
        clipped += bounded < gain
        kl += ratio - 1 - (new[b, t] - old[b, t])
    np.testing.assert_allclose(total, want, rtol=1e-5)
    assert denominator == mask.sum()
    assert 0 < clipped < mask.sum()
    np.testing.assert_allclose(metrics["clip_fraction"], clipped / mask.sum(), rtol=1e-6)
    np.testing.assert_allclose(metrics["kl"], kl / mask.sum(), rtol=1e-4)


def test_loss_by_hand():
    # Ratios 1.5 and 0.5: a gain is capped at 1.2 A, a loss is floored at 0.8 A.
    log_probs = jnp.log(jnp.array([[1.5, 0.5], [1.5, 0.5]]))
    old = jnp.zeros((2, 2))
    (total, denominator), metrics = policy_gradient_loss(
        log_probs, old, jnp.array([1.0, -2.0]), jnp.ones((2, 2))
    )
    # Row 0: min(1.5, 1.2) + min(0.5, 0.8). Row 1: min(-3, -2.4) + min(-1, -1.6).
    np.testing.assert_allclose(total, -(1.2 + 0.5 - 3.0 - 1.6), rtol=1e-6)
    assert denominator == 4
    np.testing.assert_allclose(metrics["clip_fraction"], 0.5)
    np.testing.assert_allclose(metrics["ratio"], 1.0, rtol=1e-6)


def test_on_policy_gradient_is_that_of_reinforce():
    new, _, advantages, mask = random_case()

    def loss(log_probs):
        old = jax.lax.stop_gradient(log_probs)
        return policy_gradient_loss(log_probs, old, advantages, mask)[0][0]

    np.testing.assert_allclose(jax.grad(loss)(jnp.asarray(new)), -advantages[:, None] * mask)


def test_gradient_is_0_for_old_log_probs_and_advantages():
    new, old, advantages, mask = random_case()
    grads = jax.grad(lambda o, a: policy_gradient_loss(new, o, a, mask)[0][0], argnums=(0, 1))(
        jnp.asarray(old), jnp.asarray(advantages)
    )
    assert not any(np.asarray(g).any() for g in grads)


def test_update_raises_log_probs_of_positive_advantages():
    logits, tokens = jnp.zeros((2, 3, 4)), jnp.array([[1, 2, 0], [3, 1, 1]])

    def log_probs(logits):
        return jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[..., None], axis=2)[..., 0]

    def loss(logits):
        lp = log_probs(logits)
        old = jax.lax.stop_gradient(lp)
        (total, n), _ = policy_gradient_loss(lp, old, jnp.array([1.0, -1.0]), jnp.ones((2, 3)))
        return total / n

    change = log_probs(logits - jax.grad(loss)(logits)) - log_probs(logits)
    assert (np.asarray(change[0]) > 0).all() and (np.asarray(change[1]) < 0).all()


def test_loss_ignores_masked_positions():
    new, old, advantages, mask = random_case()
    mask[3] = False
    bad = np.where(mask, 0.0, np.nan)
    bad[0][~mask[0]] = -np.inf
    dirty_advantages = np.where(mask.any(1), advantages, np.nan)

    def loss(lp, old, advantages):
        (total, denominator), metrics = policy_gradient_loss(lp, old, advantages, mask)
        return total, (denominator, metrics)

    clean = jax.value_and_grad(loss, has_aux=True)(jnp.asarray(new), old, advantages)
    dirty = jax.value_and_grad(loss, has_aux=True)(
        jnp.asarray(new + bad), old + bad, dirty_advantages
    )
    jax.tree.map(np.testing.assert_array_equal, clean, dirty)


def test_loss_of_an_empty_mask_is_0_over_0_tokens():
    new, old, advantages, mask = random_case()
    (total, denominator), metrics = policy_gradient_loss(new, old, advantages, np.zeros_like(mask))
    assert total == 0 and denominator == 0
    assert all(np.isfinite(v) for v in metrics.values())


@pytest.mark.parametrize("aggregation", ["token", "sequence", "constant"])
def test_losses_of_microbatches_add_up(aggregation):
    options = {"aggregation": aggregation, "length": 7}
    new, old, advantages, mask = random_case(batch=4)
    whole, _ = policy_gradient_loss(new, old, advantages, mask, **options)
    parts = [
        policy_gradient_loss(new[part], old[part], advantages[part], mask[part], **options)[0]
        for part in (slice(0, 2), slice(2, 4))
    ]
    np.testing.assert_allclose(np.sum(parts, axis=0), whole, rtol=1e-5)


def test_loss_by_hand_for_sequence_ratios():
    # Ratios (2, 1/2) and (2, 2): as sequences 1 and 2, as products 1 and 4.
    log_probs = jnp.log(jnp.array([[2.0, 0.5], [2.0, 2.0]]))
    for level, ratio in (("sequence", 2.0), ("product", 4.0)):
        for advantage, gain in ((1.0, 1.2), (-1.0, -ratio)):
            (total, sequences), metrics = policy_gradient_loss(
                log_probs,
                jnp.zeros((2, 2)),
                jnp.array([0.5, advantage]),
                jnp.ones((2, 2)),
                level=level,
                aggregation="sequence",
            )
            np.testing.assert_allclose(total, -(0.5 + gain), rtol=1e-6)
            np.testing.assert_allclose(metrics["ratio_max"], ratio, rtol=1e-6)
            assert sequences == 2 and metrics["clip_fraction"] == (0.5 if advantage > 0 else 0)


@pytest.mark.parametrize("level", ["token", "sequence", "product"])
def test_on_policy_gradient_is_that_of_reinforce_at_every_level(level):
    new, _, advantages, mask = random_case()

    def loss(log_probs, old):
        options = {"level": level, "aggregation": "sequence", "weights": jnp.full_like(new, 0.5)}
        return policy_gradient_loss(log_probs, old, advantages, mask, **options)[0][0]

    # The gradient of a product is that of the sequence's log-probability, else of its token mean.
    each = 1.0 if level == "product" else 1 / mask.sum(1, keepdims=True)
    want = -0.5 * advantages[:, None] * mask * each
    gradient = jax.jit(jax.grad(loss))(jnp.asarray(new), None)
    np.testing.assert_allclose(gradient, want, rtol=1e-5, atol=1e-7)


def test_weights_apply_after_the_clip_and_have_no_gradient():
    new, old, advantages, mask = random_case()
    weights = np.random.default_rng(1).random(mask.shape).astype(np.float32)

    def loss(weights):
        return policy_gradient_loss(new, old, advantages, mask, weights=weights)[0][0]

    total, gradient = jax.value_and_grad(loss)(jnp.asarray(weights))
    want = 0.0
    for b, t in zip(*np.nonzero(mask)):
        ratio, a = np.exp(new[b, t] - old[b, t]), advantages[b]
        want -= weights[b, t] * min(ratio * a, np.clip(ratio, 0.8, 1.2) * a)
    np.testing.assert_allclose(total, want, rtol=1e-5)
    assert not np.asarray(gradient).any()
    np.testing.assert_array_equal(loss(jnp.where(mask, weights, jnp.nan)), total)


def test_advantages_by_token():
    new, old, advantages, mask = random_case()
    spread = np.repeat(advantages[:, None], mask.shape[1], 1)
    one = policy_gradient_loss(new, old, advantages, mask)
    jax.tree.map(np.testing.assert_array_equal, one, policy_gradient_loss(new, old, spread, mask))
    only = np.where(np.arange(mask.shape[1]) == 2, spread, 0)
    gradient = jax.grad(lambda lp: policy_gradient_loss(lp, None, only, mask)[0][0])(
        jnp.asarray(new)
    )
    np.testing.assert_allclose(gradient, -only * mask)


@pytest.mark.parametrize("level", ["token", "sequence", "product"])
@pytest.mark.parametrize("shift", [-200.0, 200.0])
def test_loss_and_gradient_far_off_policy_are_finite(level, shift):
    new, _, advantages, mask = random_case()
    advantages[0] = 0.0  # 0 * inf would be NaN
    value, gradient = jax.value_and_grad(
        lambda lp: policy_gradient_loss(lp, new + shift, advantages, mask, level=level)[0][0]
    )(jnp.asarray(new))
    assert np.isfinite(value) and np.isfinite(gradient).all()


@pytest.mark.parametrize("level", ["sequence", "product"])
def test_loss_for_sequence_ratios_ignores_masked_positions(level):
    new, old, advantages, mask = random_case()
    mask[3] = False
    bad = np.where(mask, 0.0, np.nan)

    def loss(lp, bad):
        (total, count), metrics = policy_gradient_loss(
            lp,
            old + bad,
            advantages + np.where(mask.any(1), 0, bad[:, 0]),
            mask,
            level=level,
            aggregation="sequence",
            weights=1 + bad,
            entropy=2 + bad,
        )
        return total, (count, metrics)

    grad = jax.value_and_grad(loss, has_aux=True)
    jax.tree.map(
        np.testing.assert_array_equal,
        grad(jnp.asarray(new), np.zeros_like(bad)),
        grad(jnp.asarray(new + bad), bad),
    )


@pytest.mark.parametrize("level", ["token", "sequence", "product"])
def test_loss_with_a_row_for_each_token(level):
    # As the seeding step passes packed sequences; ids need not be dense.
    new, old, advantages, mask = random_case()
    ids = np.repeat(3 * np.arange(5)[:, None], 7, 1)
    options = {"level": level, "aggregation": "sequence"}
    rows = policy_gradient_loss(new, old, advantages, mask, **options)
    flat = [x.reshape(-1, 1) for x in (new, old, np.repeat(advantages, 7), mask, ids)]
    flat[2] = flat[2][:, 0]
    tokens = policy_gradient_loss(*flat[:4], sequences=flat[4], **options)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), tokens, rows)


def test_entropy_metric_is_the_mean_over_the_mask():
    new, old, advantages, mask = random_case()
    entropy = np.random.default_rng(2).random(mask.shape)
    _, metrics = policy_gradient_loss(new, old, advantages, mask, entropy=jnp.asarray(entropy))
    np.testing.assert_allclose(metrics["entropy"], entropy[mask].mean(), rtol=1e-6)


def test_drop_truncated_masks_out_unfinished_completions():
    got = drop_truncated(jnp.array([[1, 1], [1, 0]]), jnp.array([False, True]))
    np.testing.assert_array_equal(got, [[False, False], [True, False]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": "word"}, "level='word'; choose from token, sequence, product"),
        ({"aggregation": "sum"}, "aggregation='sum'; choose from token, sequence, constant"),
    ],
)
def test_loss_rejects_invalid_options(options, message):
    with pytest.raises(ValueError, match=message):
        policy_gradient_loss(*random_case(), **options)
