"""GAE against its sum and closed forms, the clipped value loss, and the value head."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sleep_jax.rl import ppo
from sleep_jax.rl.policy_gradient import policy_gradient_loss
from sleep_jax.rl.ppo import apply_value_head, init_value_head

gae, token_rewards, value_loss, whiten = map(
    jax.jit, (ppo.gae, ppo.token_rewards, ppo.value_loss, ppo.whiten)
)


def random_case(seed=0, batch=4, time=9):
    """Rewards, values and a mask with padding on both sides and a hole."""
    rng = np.random.default_rng(seed)
    rewards, values = rng.normal(size=(2, batch, time)).astype(np.float32)
    mask = np.ones((batch, time), bool)
    mask[0, 6:] = mask[1, :2] = mask[2, 3:5] = mask[2, 8:] = False
    return rewards, values, mask


def masked_row(rewards, values, mask, row, bootstrap=0.0):
    """A row's masked-in positions, their rewards, and V_0 .. V_n."""
    at = np.flatnonzero(mask[row])
    return at, rewards[row, at], np.append(values[row, at], bootstrap)


@pytest.mark.parametrize("bootstrap", [None, [0.5, 0.0, -1.0, 2.0]])
def test_gae_equals_the_double_sum(bootstrap):
    rewards, values, mask = random_case()
    gamma, lam = 0.97, 0.9
    given = None if bootstrap is None else jnp.array(bootstrap)
    advantages, returns = gae(rewards, values, mask, gamma=gamma, lam=lam, bootstrap=given)
    for row in range(4):
        at, r, v = masked_row(
            rewards, values, mask, row, 0.0 if bootstrap is None else bootstrap[row]
        )
        n = len(r)
        for t in range(n):
            want = sum(
                (gamma * lam) ** (s - t) * (r[s] + gamma * v[s + 1] - v[s]) for s in range(t, n)
            )
            np.testing.assert_allclose(advantages[row, at[t]], want, rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(returns[row, at[t]], want + v[t], rtol=1e-4, atol=1e-6)
    assert not np.asarray(advantages)[~mask].any() and not np.asarray(returns)[~mask].any()


def test_gae_with_lambda_0_and_lambda_1():
    rewards, values, mask = random_case()
    one_step, _ = gae(rewards, values, mask, gamma=0.9, lam=0.0)
    _, discounted = gae(rewards, values, mask, gamma=0.9, lam=1.0)
    for row in range(4):
        at, r, v = masked_row(rewards, values, mask, row)
        np.testing.assert_allclose(one_step[row, at], r + 0.9 * v[1:] - v[:-1], atol=1e-6)
        want = [sum(0.9 ** (s - t) * r[s] for s in range(t, len(r))) for t in range(len(r))]
        np.testing.assert_allclose(discounted[row, at], want, rtol=1e-4, atol=1e-6)


def test_gae_ignores_masked_positions_and_has_no_gradient():
    rewards, values, mask = random_case()
    bad = np.where(mask, 0.0, np.nan)
    clean, dirty = (gae(rewards + b, values + b, mask) for b in (0 * mask, bad))
    jax.tree.map(np.testing.assert_array_equal, clean, dirty)
    gradient = jax.grad(lambda v: sum(jnp.sum(x) for x in gae(rewards, v, mask)))(
        jnp.asarray(values)
    )
    assert not np.asarray(gradient).any()


def test_token_rewards_by_hand():
    kl = jnp.array([[0.1, 0.2, jnp.nan], [0.3, 0.4, 0.5], [jnp.nan] * 3])
    mask = jnp.array([[1, 1, 0], [0, 1, 1], [0, 0, 0]])
    got = token_rewards(jnp.array([1.0, -2.0, 9.0]), kl, mask, beta=0.5)
    np.testing.assert_allclose(got, [[-0.05, 0.9, 0], [0, -0.2, -2.25], [0, 0, 0]], rtol=1e-6)


def test_whiten_mean_and_variance():
    rewards, _, mask = random_case()
    got = np.asarray(whiten(jnp.where(mask, 5 + 3 * rewards, jnp.nan), mask))
    np.testing.assert_allclose(got[mask].mean(), 0, atol=1e-6)
    np.testing.assert_allclose(got[mask].std(ddof=1), 1, rtol=1e-5)
    assert not got[~mask].any()
    assert not np.asarray(whiten(jnp.ones((1, 2)), jnp.array([[1, 0]]))).any()


def test_value_loss_by_hand():
    # V moved from 0 to 1 and is clipped at 0.2: the larger of both errors counts.
    values, old = jnp.array([[1.0, 1.0, 0.1]]), jnp.zeros((1, 3))
    returns = jnp.array([[2.0, 0.0, 1.0]])
    (total, count), metrics = value_loss(values, old, returns, jnp.ones((1, 3)))
    np.testing.assert_allclose(total, (1.8**2 + 1.0**2 + 0.9**2) / 2, rtol=1e-6)
    assert count == 3
    np.testing.assert_allclose(metrics["value_clip_fraction"], 1 / 3, rtol=1e-6)
    gradient = jax.grad(lambda v: value_loss(v, old, returns, jnp.ones((1, 3)))[0][0])(values)
    np.testing.assert_allclose(gradient, [[0.0, 1.0, -0.9]], rtol=1e-6)


def test_value_loss_equals_the_numpy_reference():
    returns, old, mask = random_case(1)
    values = old + np.random.default_rng(2).normal(0, 0.3, old.shape).astype(np.float32)
    (total, count), metrics = value_loss(*map(jnp.asarray, (values, old, returns, mask)), clip=0.1)
    want, clipped = 0.0, 0
    for b, t in zip(*np.nonzero(mask)):
        bounded = min(max(values[b, t], old[b, t] - 0.1), old[b, t] + 0.1)
        free, bound = (values[b, t] - returns[b, t]) ** 2, (bounded - returns[b, t]) ** 2
        want += 0.5 * max(free, bound)
        clipped += bound > free
    np.testing.assert_allclose(total, want, rtol=1e-5)
    assert count == mask.sum() and 0 < clipped < count
    np.testing.assert_allclose(metrics["value_clip_fraction"], clipped / count, rtol=1e-6)
    explained = 1 - np.var((returns - values)[mask]) / np.var(returns[mask])
    np.testing.assert_allclose(metrics["explained_variance"], explained, rtol=1e-4)
    np.testing.assert_allclose(metrics["value"], values[mask].mean(), rtol=1e-4)


def test_value_loss_ignores_masked_positions():
    returns, old, mask = random_case(1)
    values, bad = old + 0.3, np.where(mask, 0.0, np.nan)

    def run(bad):
        def loss(v):
            (total, count), metrics = value_loss(v, old + bad, returns + bad, mask)
            return total, (count, metrics)

        return jax.value_and_grad(loss, has_aux=True)(jnp.asarray(values + bad))

    jax.tree.map(np.testing.assert_array_equal, run(np.zeros_like(bad)), run(bad))


def test_value_head_is_initially_0_and_linear():
    head = init_value_head(64)
    assert not apply_value_head(head, jnp.ones((2, 3, 64))).any()
    head = {"kernel": jnp.array([1.0, -2.0]), "bias": jnp.float32(0.5)}
    hidden = jnp.array([[[3.0, 1.0], [0.0, 2.0]]], jnp.bfloat16)
    values = apply_value_head(head, hidden)
    assert values.dtype == jnp.float32
    np.testing.assert_array_equal(values, [[1.5, -3.5]])


def test_ppo_learns_a_two_armed_bandit():
    # Two states told apart by the hidden state, one token each; in state s token s has reward 1.
    hidden = jnp.repeat(jnp.eye(2)[:, None], 2, 0)  # [4, 1, 2]
    tokens, mask = jnp.array([[0], [1], [0], [1]]), jnp.ones((4, 1))
    rewards = jnp.array([[1.0], [0.0], [0.0], [1.0]])
    params = {"logits": jnp.zeros((2, 2)), "value": init_value_head(2)}

    def log_probs(params):
        rows = jax.nn.log_softmax(hidden @ params["logits"])
        return jnp.take_along_axis(rows, tokens[..., None], 2)[..., 0]

    def loss(params, old, old_values, advantages, returns):
        (policy, n), _ = policy_gradient_loss(log_probs(params), old, advantages, mask)
        values = apply_value_head(params["value"], hidden)
        (value, _), _ = value_loss(values, old_values, returns, mask)
        return (policy + 0.5 * value) / n

    @jax.jit
    def rollout(params):
        old, old_values = log_probs(params), apply_value_head(params["value"], hidden)
        advantages, returns = gae(rewards, old_values, mask)

        def update(_, params):
            grads = jax.grad(loss)(params, old, old_values, whiten(advantages, mask), returns)
            return jax.tree.map(lambda p, g: p - 0.5 * g, params, grads)

        return jax.lax.fori_loop(0, 4, update, params)

    for _ in range(20):
        params = rollout(params)
    rewarded = np.exp(log_probs(params))[np.asarray(rewards) == 1]
    assert (rewarded > 0.9).all()
    np.testing.assert_allclose(apply_value_head(params["value"], hidden), 0.5, atol=0.1)
