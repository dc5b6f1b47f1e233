"""Random orders that are drawn on the host, from the PRNG keys of JAX."""

import jax
import numpy as np


def numpy_generator(rng: jax.Array) -> np.random.Generator:
    """Draws on the host from a PRNG key; the same for the same key."""
    return np.random.default_rng(np.asarray(jax.random.key_data(rng)))


def in_turn(count: int, size: int, step: int, rng: jax.Array) -> list[int]:
    """Indices of the `size` items of an update where `count` items are taken in turn: each pass
    over all has an order of its own. It depends on the number of the update alone.

    Args:
      count: items.
      size: of them in an update.
      step: number of the update.
      rng: PRNG key of all updates.
    """
    orders, chosen = {}, []
    for place in range(step * size, (step + 1) * size):
        number, index = divmod(place, count)
        if number not in orders:
            orders[number] = numpy_generator(jax.random.fold_in(rng, number)).permutation(count)
        chosen.append(int(orders[number][index]))
    return chosen
