"""`attend` against softmax attention written out, its gradient against autodiff's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sleep_jax.models import attend as attend_module
from sleep_jax.models.attend import MASKED, attend, attend_one


def operands(time, keys, dtype=jnp.float32, batch=2, kv=2, group=3, h=8):
    rng = np.random.default_rng(0)
    q, key, value, g = (
        jnp.asarray(rng.normal(size=shape), jnp.float32)
        for shape in (
            (batch, kv, group * time, h),
            (batch, kv, h, keys),
            (batch, kv, keys, h),
            (batch, kv, group * time, h),
        )
    )
    past = keys - time
    mask = np.arange(keys) <= past + np.arange(time)[:, None]
    mask = np.broadcast_to(mask, (batch, time, keys)).copy()
    mask[1, :, 1] = False  # row 1 has padding
    mask[1, 2:3] = False  # and a query that sees no key, whose output is ignored
    g = g * mask.any(-1).reshape(batch, 1, 1, time, 1).repeat(kv, 1).repeat(group, 2).reshape(
        batch, kv, group * time, 1
    )
    return (q, key.astype(dtype), value.astype(dtype), jnp.asarray(mask), past), g


def by_hand(q, key, value, mask, start):
    b, k, rows, _ = q.shape
    is_cached = jnp.arange(key.shape[-1]) < start  # constants
    key = jnp.where(is_cached, jax.lax.stop_gradient(key), key)
    value = jnp.where(is_cached[:, None], jax.lax.stop_gradient(value), value)
    scores = (q @ key).reshape(b, k, -1, *mask.shape[1:])
    scores = jnp.where(mask[:, None, None], scores, MASKED)
    return jax.nn.softmax(scores, -1).reshape(b, k, rows, -1) @ value


def both(function, operands, g):
    *floats, mask, start = operands
    return jax.jit(lambda *x: jax.vjp(lambda *x: function(*x, mask, start), *x)[1](g))(*floats)


@pytest.mark.parametrize("time, keys", [(6, 6), (4, 9), (80, 80)])  # the last: row by row on a CPU
def test_attend_and_its_gradient_equal_softmax_attention(time, keys):
    given, g = operands(time, keys)
    np.testing.assert_allclose(jax.jit(attend)(*given), by_hand(*given), atol=1e-5)
    for got, expected in zip(both(attend, given, g), both(by_hand, given, g)):
        np.testing.assert_allclose(got, expected, atol=3e-5)


def test_attend_row_by_row_equals_the_whole_batch(monkeypatch):
    given, g = operands(80, 80)
    mapped = jax.jit(attend)(*given), both(attend, given, g)
    monkeypatch.setattr(attend_module, "BY_ROWS", 1000)
    whole = jax.jit(lambda *x: attend(*x))(*given), both(attend, given, g)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), mapped, whole)


def test_attend_gradients_have_the_dtype_of_their_operands():
    given, g = operands(6, 6, jnp.bfloat16)
    wide = [x.astype(jnp.float32) for x in given[:3]] + [*given[3:]]
    d_q, d_key, d_value = both(attend, given, g)
    assert (d_q.dtype, d_key.dtype, d_value.dtype) == (jnp.float32, jnp.bfloat16, jnp.bfloat16)
    for got, expected in zip((d_q, d_key, d_value), both(by_hand, wide, g)):
        difference = np.abs(np.asarray(got, np.float32) - expected)
        assert difference.max() < 0.03 * np.abs(expected).max()


def test_attend_gradient_of_a_query_with_one_key_is_zero():
    given, g = operands(6, 6, jnp.bfloat16)
    d_q = both(attend, given, g)[0].reshape(2, 2, 3, 6, 8)
    np.testing.assert_allclose(d_q[:, :, :, 0], 0, atol=1e-6)
    assert np.abs(d_q[0, :, :, 1]).min() > 0


def test_attend_keeps_no_array_of_all_scores():
    given, _ = operands(80, 80)
    *floats, mask, _ = given
    _, backward = jax.vjp(lambda *x: attend(*x, mask), *floats)
    kept = [x.size for x in jax.tree.leaves(backward) if x.dtype == jnp.float32]
    assert kept and max(kept) < 2 * 2 * 3 * 80 * 80


def test_attend_one_equals_attend_with_its_own_key_among_the_cached():
    (q, key, value, mask, past), _ = operands(1, 9)
    assert past == 8
    cached = key.at[..., 8].set(7.0), value.at[:, :, 8].set(7.0)  # what was there is not seen
    own = key[..., 8:], value[:, :, 8:]
    got = attend_one(q, cached, own, mask.at[..., 8].set(False))
    np.testing.assert_allclose(got, attend(q, key, value, mask, past), atol=1e-6)
