"""The device mesh of a run, with axes data, fsdp and tensor (models/sharding.py says what each
splits).
"""

import math
from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh

from sleep_jax.models.sharding import AXES


def make_mesh(config, devices: Sequence | None = None) -> Mesh:
    """The mesh that `config.mesh` asks for.

    Args:
      config: of the run; an axis of size -1 takes the remaining devices.
      devices: of the mesh; None: all devices.

    Raises:
      ValueError: the sizes do not match the number of devices, or rows cannot be split evenly.
    """
    devices = jax.devices() if devices is None else devices
    shape = mesh_shape(config, len(devices))
    return jax.make_mesh(shape, AXES, (AxisType.Auto,) * len(AXES), devices=devices)


def mesh_shape(config, count: int) -> tuple[int, ...]:
    """Sizes of the axes on `count` devices; raises as `make_mesh`."""
    shape = _sizes([config.mesh[axis] for axis in AXES], count)
    ways, seeding = shape[0] * shape[1], config.seeding
    if seeding.batch_size % (ways * seeding.accumulate):
        raise ValueError(
            f"seeding.batch_size={seeding.batch_size} in seeding.accumulate={seeding.accumulate} "
            f"parts cannot be spread over the {ways} devices of mesh.data x mesh.fsdp; make it a "
            f"multiple of {ways * seeding.accumulate}, or give devices to mesh.tensor"
        )
    return shape


def use_mesh(config) -> None:
    """Sets the mesh of the run for all programs; with a single device nothing changes.

    Raises:
      ValueError: as `make_mesh`.
    """
    mesh = make_mesh(config)
    if mesh.size > 1:
        jax.set_mesh(mesh)


def _sizes(sizes: Sequence[int], count: int) -> tuple[int, ...]:
    fields = ", ".join(f"mesh.{axis}={size}" for axis, size in zip(AXES, sizes))
    open_axes = [size for size in sizes if size == -1]
    known = math.prod(size for size in sizes if size != -1)
    if len(open_axes) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise ValueError(f"{fields}; give sizes of 1 or more, and -1 at most once")
    if count % known or (not open_axes and known != count):
        raise ValueError(
            f"{fields} make {known}, but there are {count} devices; their product has to be that "
            "number: set one of them to -1"
        )
    return tuple(count // known if size == -1 else size for size in sizes)
