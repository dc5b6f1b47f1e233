"""What a run holds and passes around, as shapes on a mesh: nothing is read or computed."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from sleep_jax.config import read
from sleep_jax.data.examples import Examples
from sleep_jax.dreaming.adapters import init_lora
from sleep_jax.interop.known_models import describe_model
from sleep_jax.memory.slots import init_memory, take_slot
from sleep_jax.models.cache import init_cache
from sleep_jax.models.decoder import Decoder
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.models.sharding import shardings, spec_of
from sleep_jax.programs.sizes import Sizes
from sleep_jax.seeding.objective import SeedingBatch
from sleep_jax.seeding.seeding_config import SeedingConfig
from sleep_jax.seeding.sequences import TARGET_FIELDS, BatchShape
from sleep_jax.seeding.step import SeedingState, init_critic, init_state
from sleep_jax.wake.stream import init_wake


def decoder_of(config) -> DecoderConfig:
    """The decoder of a run, from what is known of its shape."""
    settings = read(config)
    return describe_model(
        config.model.name,
        dtype=config.model.dtype,
        memory=settings.memory,
        lora=settings.dreaming.lora,
        remat=config.model.remat,
    )


def collections_of(config, cfg: DecoderConfig) -> dict[str, Any]:
    """Every collection of a run, abstract: params, memory, slots, lora, and where they are used the
    state of the reader (`wake`) and what a night updates (`learner`).
    """
    settings = read(config)

    def init():
        rngs = {"params": jax.random.key(0), "memory": jax.random.key(1)}
        params = Decoder(cfg).init(rngs, jnp.zeros((1, 1), jnp.int32))["params"]
        shape = {"layers": cfg.layers, "width": cfg.width, "hidden": cfg.hidden}
        memory, slots = init_memory(rngs["memory"], cfg.memory, **shape)
        collections = {"params": params, "memory": memory, "slots": slots}
        collections["lora"] = init_lora(cfg, params, rngs["params"])
        if any(level.slots for level in cfg.memory.levels):
            collections["learner"] = init_learner(cfg, settings.seeding, memory)
        if any(level.learning_rate for level in cfg.memory.levels):
            collections["wake"] = init_wake(cfg, settings.wake, memory)
        return collections

    return jax.eval_shape(init)


def init_learner(cfg: DecoderConfig, seeding: SeedingConfig, memory) -> SeedingState:
    """The state before the updates of a night of `first_receiver`."""
    surrogate, level = seeding.imitation.surrogate, first_receiver(cfg)
    slot = take_slot(memory, level, 0)
    state = init_state(slot, seeding.at_level(cfg, level).optimizer())
    if seeding.teacher == "ema":
        state = state.replace(teacher_slot=slot)
    if surrogate.gae is None or not seeding.num_prompts:
        return state
    critic = init_critic(cfg.width, surrogate.value_learning_rate)
    return state.replace(critic=critic)


def first_receiver(cfg: DecoderConfig) -> int:
    """The fastest level with slots; one level's update is as large as another's."""
    return next(n for n in range(1, cfg.memory.depth + 1) if cfg.memory.level(n).slots)


class AbstractRun:
    """A run whose arrays are shapes, each placed on a mesh by its sharding rule.

    Attributes:
      config, settings: of the run, as the user and as the code has them.
      cfg: the decoder.
      mesh: that it runs on.
      platform: of the mesh's devices.
      sizes: of its largest day.
      collections: of the run (`collections_of`).
      variables: those that the decoder takes.
      key: a PRNG key.
    """

    def __init__(self, config, mesh, sizes: Sizes, platform: str = "tpu"):
        self.config, self.settings = config, read(config)
        self.cfg, self.mesh = decoder_of(config), mesh
        self.sizes, self.platform = sizes, platform
        collections = collections_of(config, self.cfg)
        self.collections = {name: self.tree(tree, name) for name, tree in collections.items()}
        self.variables = {name: self.collections[name] for name in ("params", "memory", "slots")}
        self.key = self.array("tokens/key", dtype=jax.eval_shape(lambda: jax.random.key(0)).dtype)

    @property
    def has_dreams(self) -> bool:
        """Nights dream: there are updates on dreams, and a slot that holds the day."""
        return bool(self.config.dreaming.steps and self.config.memory.from_context)

    def tree(self, tree, name: str):
        """The shapes of a collection with their shardings."""
        return jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
            tree,
            shardings(tree, name, self.mesh),
        )

    def array(self, path: str, *shape: int, dtype=jnp.int32):
        """One array, named as its sharding rule has it, e.g. `batch/tokens`."""
        sharding = NamedSharding(self.mesh, spec_of(path, shape, self.mesh))
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    def rows(self, rows: int, width: int) -> tuple:
        """Tokens and their mask, int32 [rows, width]."""
        return tuple(self.array(f"tokens/{name}", rows, width) for name in ("tokens", "mask"))

    def cache(self, rows: int, capacity: int):
        """A context that is full."""
        return self.tree(jax.eval_shape(lambda: init_cache(self.cfg, rows, capacity)), "cache")

    def learner(self, seeding: SeedingConfig) -> SeedingState:
        """The state that the updates of a night carry on."""
        state = jax.eval_shape(
            lambda m: init_learner(self.cfg, seeding, m), self.variables["memory"]
        )
        return self.tree(state, "learner")

    def batch(self, shape: BatchShape, is_taught: bool = True) -> SeedingBatch:
        """A seeding batch; its teacher's states are empty unless it `is_taught`."""
        grid = (shape.batch_size, shape.max_length)
        scored = (shape.batch_size, shape.max_target_length)
        fields = {name: self.array(f"batch/{name}", *grid) for name in ("tokens", "segment_ids")}
        for name, dtype in TARGET_FIELDS.items():
            fields[name] = self.array(f"batch/{name}", *scored, dtype=dtype)
        size, dtype = (self.cfg.width, self.cfg.dtype) if is_taught else (0, jnp.float32)
        fields["teacher"] = self.array("batch/teacher", *scored, size, dtype=dtype)
        if "trunk" in self.cfg.stacks:
            trunk = (*grid, self.cfg.width)
            fields["trunk"] = self.array("batch/trunk", *trunk, dtype=jnp.float32)
        return SeedingBatch(**fields)

    def examples(self, *shape: int) -> Examples:
        """What trials learn from, [..., rows, time]."""
        tokens, segments = (self.array(f"tokens/{n}", *shape) for n in ("tokens", "segments"))
        return Examples(tokens, segments, self.array("tokens/mask", *shape, dtype=bool))

    def adapters(self, count: int):
        """Trial adapters side by side."""
        stacked = jax.eval_shape(
            lambda tree: jax.tree.map(lambda x: jnp.repeat(x[:, None], count, axis=1), tree),
            self.collections["lora"],
        )
        return self.tree(stacked, "trials")
