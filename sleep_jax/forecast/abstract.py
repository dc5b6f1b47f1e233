"""What a run holds and passes around, as shapes on a mesh: nothing is read or computed."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from sleep_jax.config import read
from sleep_jax.data.examples import Examples
from sleep_jax.dreaming.trial import init_lora
from sleep_jax.interop.known_models import describe_model
from sleep_jax.memory.slots import init_memory, take_slot
from sleep_jax.models.cache import init_cache
from sleep_jax.models.decoder import Decoder
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.models.sharding import shardings, spec_of
from sleep_jax.seeding.objective import SeedingBatch
from sleep_jax.seeding.seeding_config import SeedingConfig
from sleep_jax.seeding.sequences import SCORED, BatchShape
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
    """Every collection of a run, abstract: params, memory, slots, lora, and where it is used the
    state of the reader (`wake`); `learner` is what a night updates."""

    settings = read(config)

    def born():
        rngs = {"params": jax.random.key(0), "memory": jax.random.key(1)}
        params = Decoder(cfg).init(rngs, jnp.zeros((1, 1), jnp.int32))["params"]
        shape = {"layers": cfg.layers, "width": cfg.width}
        memory, slots = init_memory(rngs["memory"], cfg.memory, **shape)
        found = {"params": params, "memory": memory, "slots": slots}
        found["lora"] = init_lora(cfg, params, rngs["params"])
        if any(level.slots for level in cfg.memory.levels):
            found["learner"] = learner_of(cfg, settings.seeding, memory)
        if any(level.learning_rate for level in cfg.memory.levels):
            found["wake"] = init_wake(cfg, settings.wake, memory)
        return found

    return jax.eval_shape(born)


def learner_of(cfg: DecoderConfig, seeding: SeedingConfig, memory) -> SeedingState:
    """The state of a night's updates of `first_receiver`."""
    surrogate = seeding.imitation.surrogate
    state = init_state(take_slot(memory, first_receiver(cfg), 0), seeding.optimizer())
    if surrogate.gae is None or not seeding.num_prompts:
        return state
    critic = init_critic(cfg.width, surrogate.value_learning_rate)
    return state.replace(critic=critic)


def first_receiver(cfg: DecoderConfig) -> int:
    """The fastest level with slots; one level's update is as large as another's."""
    return next(n for n in range(1, cfg.memory.depth + 1) if cfg.memory.level(n).slots)


class Abstract:
    """Abstract arguments on a mesh, each where its rule puts it.

    Attributes:
      cfg: the decoder.
      held: the collections of the run.
      variables: those that the decoder takes.
      key: a PRNG key.
    """

    def __init__(self, config, mesh):
        """Of a run on a mesh."""
        self.mesh, self.cfg = mesh, decoder_of(config)
        held = collections_of(config, self.cfg)
        self.held = {name: self.tree(tree, name) for name, tree in held.items()}
        self.variables = {name: self.held[name] for name in ("params", "memory", "slots")}
        self.key = self.array("tokens/key", dtype=jax.eval_shape(lambda: jax.random.key(0)).dtype)

    def tree(self, tree, name: str):
        """The shapes of a collection with their shardings."""
        return jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
            tree,
            shardings(tree, name, self.mesh),
        )

    def array(self, path: str, *shape: int, dtype=jnp.int32):
        """One array, named as its rule has it, e.g. `batch/tokens`."""
        sharding = NamedSharding(self.mesh, spec_of(path, shape, self.mesh))
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    def rows(self, rows: int, time: int) -> tuple:
        """Tokens and their mask, [rows, time]."""
        return tuple(self.array(f"tokens/{name}", rows, time) for name in ("tokens", "mask"))

    def cache(self, rows: int, capacity: int):
        """A context that is full."""
        return self.tree(jax.eval_shape(lambda: init_cache(self.cfg, rows, capacity)), "cache")

    def batch(self, shape: BatchShape) -> SeedingBatch:
        """A seeding batch."""
        grid, scored = (
            (shape.batch_size, shape.max_length),
            (shape.batch_size, shape.max_target_length),
        )
        fields = {name: self.array(f"batch/{name}", *grid) for name in ("tokens", "segment_ids")}
        for name, dtype in SCORED.items():
            fields[name] = self.array(f"batch/{name}", *scored, dtype=dtype)
        states = {"teacher": scored} | ({"trunk": grid} if "trunk" in self.cfg.stacks else {})
        for name, size in states.items():
            fields[name] = self.array(f"batch/{name}", *size, self.cfg.width, dtype=jnp.float32)
        return SeedingBatch(**fields)

    def examples(self, *shape: int) -> Examples:
        """What trials learn from, [..., rows, time]."""
        tokens, segments = (self.array(f"tokens/{n}", *shape) for n in ("tokens", "segments"))
        return Examples(tokens, segments, self.array("tokens/mask", *shape, dtype=bool))

    def adapters(self, count: int):
        """Trial adapters side by side."""
        beside = jax.eval_shape(
            lambda tree: jax.tree.map(lambda x: jnp.repeat(x[:, None], count, axis=1), tree),
            self.held["lora"],
        )
        return self.tree(beside, "trials")
