"""Random orders on the host."""

import jax

from sleep_jax.data.orders import in_turn, numpy_generator


def test_in_turn_goes_through_all_in_a_new_order_each_time():
    key = jax.random.key(0)
    drawn = [i for step in range(10) for i in in_turn(5, 2, step, key)]
    passes = [tuple(drawn[i : i + 5]) for i in range(0, 20, 5)]
    assert all(sorted(x) == [0, 1, 2, 3, 4] for x in passes) and len({*passes}) > 1
    assert in_turn(2, 5, 0, key)[:2] == in_turn(2, 2, 0, key)


def test_numpy_generator_is_that_of_its_key():
    draws = [numpy_generator(jax.random.key(seed)).integers(10**9) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
