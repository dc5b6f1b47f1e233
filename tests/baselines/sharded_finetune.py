"""Run by test_sharded_finetune: losses and weights of fine-tuning on 8 CPU devices, as JSON, for
each mesh among the arguments: `none`, or sizes such as `2,2,2`.
"""

import contextlib
import json
import sys

import jax
import numpy as np
import optax
from jax.sharding import AxisType

from sleep_jax.baselines.finetune import finetune_steps, init_state
from sleep_jax.baselines.model import Leaves, MemorySlot, Model
from sleep_jax.baselines.sft import SFTConfig, sft, with_lora
from sleep_jax.interop.tiny import tiny_model
from sleep_jax.memory.memory_config import LevelConfig, MemoryConfig
from sleep_jax.memory.slots import init_memory, unlock
from sleep_jax.models.decoder_config import LoraConfig
from sleep_jax.models.sharding import AXES, place, to_host

LORA = LoraConfig(rank=8, alpha=16.0, targets=("q", "up", "down"))
TRAINABLE = {
    "lora": Leaves("lora/.*"),
    "params": Leaves("params/layers/.*"),
    "slot": MemorySlot(1, 0),
}


def figures() -> dict:
    """By what is trained: losses, sums of the trained weights, programs compiled."""
    memory_config = MemoryConfig((LevelConfig(slots=2, rank=8),))
    cfg, params, _ = tiny_model(dtype="float32", memory=memory_config, remat="none")
    memory, slots = init_memory(
        jax.random.key(1), memory_config, layers=cfg.layers, width=cfg.width
    )
    variables = {"params": params, "memory": memory, "slots": unlock(slots, 1)[0]}
    model = with_lora(Model(cfg, variables), LORA, jax.random.key(2))
    model = model.replace(variables={n: place(x, n) for n, x in model.variables.items()})
    rng = np.random.default_rng(0)
    pairs = [tuple(tuple(rng.integers(0, 200, 9).tolist()) for _ in "pr") for _ in range(16)]
    config = SFTConfig(epochs=2, learning_rate=1e-2, batch_size=8, accumulate=2)
    out = {}
    for name, trainable in TRAINABLE.items():
        losses = []
        finetune_steps.clear_cache()
        trained = sft(
            model,
            trainable,
            pairs,
            config,
            rng=jax.random.key(3),
            log=lambda step, figures, losses=losses: losses.append(figures["loss"]),
        )
        weights = to_host(trainable.split(trained.variables)[0])
        sums = [float(np.abs(x).sum()) for x in jax.tree.leaves(weights)]
        out[name] = {"losses": losses, "sums": sums, "programs": finetune_steps._cache_size()}
    layers = TRAINABLE["params"]
    state = init_state(optax.adam(1e-3), layers, layers.split(model.variables)[0])
    moment = state.opt_state[0].mu["params"]["layers"]["mlp"]["up"]["kernel"]
    out["shards of a moment"] = len({str(shard.index) for shard in moment.addressable_shards})
    return out


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)
    out = {}
    for name in sys.argv[1:]:
        mesh = contextlib.nullcontext()
        if name != "none":
            sizes = tuple(map(int, name.split(",")))
            mesh = jax.set_mesh(jax.make_mesh(sizes, AXES, (AxisType.Auto,) * 3))
        with mesh:
            out[name] = figures()
        jax.clear_caches()
    print(json.dumps(out))
