"""Completions on 8 CPU devices beside those of one: prints, as JSON for each mesh of the arguments
(such as `2,2,2`), how far log-probabilities are apart and the bytes that a chip sends for a token.
"""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType

from sleep_jax.forecast.counts import count
from sleep_jax.memory.memory_config import LevelConfig, MemoryConfig
from sleep_jax.memory.slots import init_memory
from sleep_jax.models import sharding
from sleep_jax.models.decoder import Decoder
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.sampling.sampler import SamplingConfig, sample

ROWS = 16
MEMORY = MemoryConfig(
    (LevelConfig(16, slots=2, rank=8, learning_rate=0.5), LevelConfig(0, slots=3, rank=8)),
    unit="tokens",
    stride=8,
    router="sigmoid",
    top_k=1,
    from_context=False,
)
CFG = DecoderConfig(
    vocab=256, width=64, hidden=256, layers=2, heads=8, kv_heads=4, head_dim=8, memory=MEMORY
)  # fmt: skip


def model():
    """Variables whose memory speaks: every leaf is random, every slot active."""
    rngs = {"params": jax.random.key(0), "memory": jax.random.key(1)}
    params = Decoder(CFG).init(rngs, jnp.zeros((1, 1), jnp.int32))["params"]
    memory, slots = init_memory(
        jax.random.key(1), MEMORY, layers=CFG.layers, width=CFG.width, hidden=CFG.hidden
    )
    rng = np.random.default_rng(0)
    memory = jax.tree.map(lambda x: rng.normal(0, 0.1, x.shape).astype(np.float32), memory)
    return {"params": params, "memory": memory, "slots": jax.tree.map(jnp.ones_like, slots)}


def drawn(variables, rows: int, temperature: float, new: int = 4):
    """The arguments of `sample`, for `rows` completions of `rows / 2` prompts, of `new` tokens."""
    tokens = np.random.default_rng(1).integers(1, 256, (rows // 2, 8)).astype(np.int32)
    config = SamplingConfig(new, (), temperature=temperature, num_generations=2)
    return CFG, config, variables, tokens, np.ones_like(tokens), jax.random.key(2)


def sent_bytes(arguments) -> float:
    """What a chip sends in a call of `sample`."""
    return sum(count(sample.lower(*arguments).compile().as_text()).sent.values())


def main(meshes):
    """Compares each mesh with one device."""
    variables = model()
    cases = [(ROWS, 0.0), (ROWS, 1.0), (2, 0.0)]  # two rows fill no mesh
    alone = [sample(*drawn(variables, *case)) for case in cases]
    weights = sum(x.nbytes for x in jax.tree.leaves(variables))
    for sizes in meshes:
        shape = tuple(map(int, sizes.split(",")))
        mesh = jax.make_mesh(shape, sharding.AXES, (AxisType.Auto,) * 3)
        with jax.set_mesh(mesh):
            placed = {name: sharding.place(tree, name) for name, tree in variables.items()}
            spread = [sample(*drawn(placed, *case)) for case in cases]
            sent = [sent_bytes(drawn(placed, *cases[0], new)) for new in (4, 8)]
        line = {
            "is_equal": all(bool((a.tokens == b.tokens).all()) for a, b in zip(alone, spread)),
            "difference": max(
                float(np.abs(a.log_probs - b.log_probs).max()) for a, b in zip(alone, spread)
            ),
            "sent": (sent[1] - sent[0]) / 4,
            "weights": weights,
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
