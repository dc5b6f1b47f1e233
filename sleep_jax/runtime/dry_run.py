"""What a run holds and does (`--dry_run`): shapes from the config, nothing read, computed or
compiled."""

import math
from collections.abc import Iterator

import jax
from jax.sharding import AbstractMesh, AxisType

from sleep_jax.memory.schedule import describe, plan
from sleep_jax.models.sharding import AXES, path_of, shardings
from sleep_jax.runtime.abstract import collections_of, decoder_of
from sleep_jax.runtime.mesh import mesh_shape
from sleep_jax.runtime.programs import programs_of
from sleep_jax.runtime.roofline import GIB, chip_of


def dry_run(config, topology: str) -> Iterator[str]:
    """What a run holds and does, as lines, without compiling anything.

    Args:
      config: of the run.
      topology: the slice; empty: the devices of this machine.
    """
    chips = chip_of(topology)[1] if topology else jax.device_count()
    shape = mesh_shape(config, chips)
    mesh = AbstractMesh(shape, AXES, (AxisType.Auto,) * len(AXES))
    cfg = decoder_of(config)
    where = topology or f"{chips} local devices"
    yield f"{config.model.name} on {where}: mesh {axes(dict(zip(AXES, shape)))}"
    yield ""
    held = 0.0
    for name, tree in collections_of(config, cfg).items():
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        placed = jax.tree.leaves(shardings(tree, name, mesh))
        count, size = (sum(f(x) for _, x in leaves) for f in (lambda x: x.size, _bytes))
        share = sum(_bytes(x) * _share(s, x) for (_, x), s in zip(leaves, placed))
        held += share if name in ("params", "memory", "slots") else 0
        yield (f"{name}: {count:,} numbers, {size / GIB:.3f} GiB, {share / GIB:.3f} GiB a device")
        for (path, x), s in zip(leaves, placed):
            yield f"  {path_of(name, path):48} {x.dtype.name:9} {list(x.shape)!s:28} {s.spec}"
    yield ""
    yield f"a device holds {held / GIB:.2f} GiB of the model at all times"
    yield ""
    memory, days = cfg.memory, config.data.episodes
    length = days if memory.unit == "episodes" else 10 * max(v.chunk for v in memory.levels)
    yield from describe(memory, length, plan(memory, length))
    yield ""
    yield f"{'a day and its night':34} {'calls':>6} {'tokens a call':>14} {'PFLOP':>9}"
    total = 0.0
    for p in programs_of(config, mesh):
        needed = p.calls * p.flops(cfg)
        total += needed
        yield f"  {p.name:32} {p.calls:6} {p.tokens:14,} {needed / 1e15:9.3f}"
    yield f"  {'together':32} {'':6} {'':14} {total / 1e15:9.3f}"
    if topology:
        seconds = total / (chips * chip_of(topology)[0].flops)
        yield f"  {seconds:,.1f} s at the peak of {topology}; --aot={topology} says what is left"


def axes(shape: dict[str, int]) -> str:
    """A mesh in words."""
    return " x ".join(f"{axis} {size}" for axis, size in shape.items())


def _bytes(x) -> float:
    return x.size * x.dtype.itemsize


def _share(sharding, x) -> float:
    """The part of an array that one device holds."""
    return math.prod(sharding.shard_shape(x.shape)) / max(x.size, 1)
