"""What was known, and a slot that is kept out of it: on a mesh of 8 devices and on one of them.

Prints a JSON line: the ranks of both, the largest differences of U U^T and of the slot, and how the
arrays are split.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType
from sample_exchanges import EXCHANGES, SHAPE

from sleep_jax.memory.memory_config import LevelConfig, MemoryConfig
from sleep_jax.memory.slots import init_memory, take_slot, unlock
from sleep_jax.models.decoder import Decoder
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.models.sharding import place
from sleep_jax.seeding.null_space import known_basis, projected, second_moments
from sleep_jax.seeding.objective import Objective
from sleep_jax.seeding.sequences import HiddenStates, make_batch, pack_exchanges
from sleep_jax.seeding.step import init_state, seeding_step

CFG = DecoderConfig(
    vocab=97,
    width=32,
    hidden=48,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=8,
    memory=MemoryConfig((LevelConfig(slots=3, rank=4),)),
)
ADAM = optax.adam(0.02)


def updated_slot():
    """(basis, figures, moments, slot after an update) on the mesh of the context."""
    rngs = {"params": jax.random.key(0), "memory": jax.random.key(1)}
    params = Decoder(CFG).init(rngs, jnp.zeros((1, 2), jnp.int32))["params"]
    memory, slots = init_memory(rngs["memory"], CFG.memory, layers=2, width=32)
    slots, index = unlock(slots, 1)
    parts = {"params": params, "memory": memory, "slots": slots}
    model = {name: place(tree, name) for name, tree in parts.items()}
    moments = second_moments(CFG, model, 1, EXCHANGES, SHAPE.max_length)
    basis, figures = known_basis(CFG, model, 1, EXCHANGES, SHAPE.max_length, 0.9, 0.05)
    rng = np.random.default_rng(0)
    states = [
        HiddenStates(rng.normal(size=(len(e.completion), 32)).astype(np.float32))
        for e in EXCHANGES[:2]
    ]
    packed = pack_exchanges(EXCHANGES[:2], SHAPE)
    batch = make_batch(EXCHANGES[:2], states, packed, SHAPE)
    slot = projected(take_slot(model["memory"], 1, index), basis)
    state = place(init_state(slot, ADAM), "learner")
    args = (CFG, Objective(alpha=1.0, lam=0.0), ADAM, 1, jnp.int32(index))
    for _ in range(3):
        state, _ = seeding_step(*args, state, model, batch, null_space=basis)
    return basis, figures, moments, state.slot


def main():
    """Both, compared."""
    with jax.default_device(jax.devices()[0]):
        basis, figures, _, slot = updated_slot()
    mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), (AxisType.Auto,) * 3)
    with jax.set_mesh(mesh):
        sharded, same, moments, sharded_slot = updated_slot()

    def spans(u):
        return np.einsum("ldk,lek->lde", u, u)

    def largest(a, b):
        return max(
            map(float, jax.tree.leaves(jax.tree.map(lambda x, y: np.abs(x - y).max(), a, b)))
        )

    on_host = jax.tree.map(np.asarray, (slot, sharded_slot))
    line = {
        "ranks": [figures["null_space_rank"], same["null_space_rank"]],
        "span": largest(spans(np.asarray(basis)), spans(np.asarray(sharded))),
        "slot": largest(*on_host),
        "basis_split": list(sharded.sharding.spec),
        "moments_split": list(moments.sharding.spec),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
