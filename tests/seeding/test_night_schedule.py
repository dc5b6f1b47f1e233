"""The schedule of nights of any length, against that of optax for one length."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sleep_jax.seeding.schedule import night_rate
from sleep_jax.seeding.seeding_config import SeedingConfig


@pytest.mark.parametrize("peak, warmup, steps", [(1e-2, 4, 100), (0.5, 1, 4), (2e-3, 0, 7)])
def test_rate_is_that_of_optax_also_after_the_end(peak, warmup, steps):
    first = peak / (warmup + 1)
    want = optax.warmup_cosine_decay_schedule(first, peak, warmup, steps, peak / 10)
    counts = np.arange(steps + 3)
    got = night_rate(jnp.asarray(counts), peak, jnp.int32(warmup), jnp.int32(steps))
    np.testing.assert_allclose(got, want(counts), rtol=1e-5)


def test_rate_by_hand():
    # A warm-up of 2 to 0.8 begins at a third; then 4 updates of a cosine to 0.08, halfway 0.44.
    rates = [float(night_rate(count, 0.8, 2, 6)) for count in (0, 1, 2, 4, 6, 9)]
    middle = 0.8 / 3 + (0.8 - 0.8 / 3) / 2
    np.testing.assert_allclose(rates, [0.8 / 3, middle, 0.8, 0.44, 0.08, 0.08], rtol=1e-6)


def updates_of(seeding, count):
    """The updates of a slot of two numbers, for gradients that differ."""
    slot, optimizer, out = jnp.zeros(2), seeding.optimizer(), []
    state = seeding.with_length(optimizer.init(slot))
    for step in range(count):
        update, state = optimizer.update(jnp.array([1.0, -2.0]) + step, state, slot)
        out.append(update)
    return np.stack(out)


def test_optimizer_by_epochs_is_one_for_all_lengths_and_has_the_same_updates():
    nights = [SeedingConfig(steps=steps, warmup=2, epochs=1.0) for steps in (5, 9)]
    assert nights[0].optimizer() is nights[1].optimizer()
    for night in nights:
        fixed = SeedingConfig(steps=night.steps, warmup=2)
        np.testing.assert_allclose(updates_of(night, 9), updates_of(fixed, 9), rtol=2e-5)


def test_optimizer_without_epochs_has_the_state_of_adam():
    seeding = SeedingConfig(steps=5)
    state = seeding.optimizer().init(jnp.zeros(2))
    assert seeding.with_length(state) is state
    adam = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(lambda count: 0.1))
    assert jax.tree.structure(state) == jax.tree.structure(adam.init(jnp.zeros(2)))
