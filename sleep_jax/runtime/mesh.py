"""The device mesh of a run, with axes data, fsdp and tensor (models/sharding.py says what each
splits).
"""

import math
from collections.abc import Iterator, Sequence

import jax
from jax.sharding import AxisType, Mesh

from sleep_jax.models.sharding import AXES


def make_mesh(config, devices: Sequence | None = None) -> Mesh:
    """The mesh that `config.mesh` asks for.

    Args:
      config: of the run; an axis of size -1 takes the remaining devices, and where the rows of a
        batch fill only some of them, `tensor` the others.
      devices: of the mesh; None: all devices.

    Raises:
      ValueError: the sizes do not match the number of devices, or rows cannot be split evenly.
    """
    devices = jax.devices() if devices is None else devices
    shape = mesh_shape(config, len(devices))
    return jax.make_mesh(shape, AXES, (AxisType.Auto,) * len(AXES), devices=devices)


def mesh_shape(config, count: int) -> tuple[int, ...]:
    """Sizes of the axes on `count` devices; raises as `make_mesh`."""
    asked, seeding = [config.mesh[axis] for axis in AXES], config.seeding
    shape = _sizes(asked, count)

    def is_filled(data: int, fsdp: int, tensor: int) -> bool:
        return seeding.batch_size % (data * fsdp * seeding.accumulate) == 0

    filled = [shape, *_with_more_tensor(shape, asked)]
    if fitting := next((sizes for sizes in filled if is_filled(*sizes)), None):
        return fitting
    ways = shape[0] * shape[1]
    raise ValueError(
        f"seeding.batch_size={seeding.batch_size} in seeding.accumulate={seeding.accumulate} "
        f"parts cannot be spread over the {ways} devices of mesh.data x mesh.fsdp; make it a "
        f"multiple of {ways * seeding.accumulate}, or give devices to mesh.tensor"
    )


def _with_more_tensor(shape: Sequence[int], asked: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Shapes with fewer devices on an open axis of rows and the others on `tensor`, the largest
    axis of rows first."""
    for axis in (0, 1):
        for factor in range(2, shape[axis] + 1) if asked[axis] == -1 else ():
            if shape[axis] % factor == 0:
                sizes = [*shape]
                sizes[axis], sizes[2] = shape[axis] // factor, shape[2] * factor
                yield tuple(sizes)


def mesh_line(config, count: int) -> str:
    """The mesh on `count` devices as text, e.g. `mesh data 1 x fsdp 8 x tensor 1`, and whether rows
    left devices to `tensor`."""
    shape = mesh_shape(config, count)
    line = "mesh " + " x ".join(f"{axis} {size}" for axis, size in zip(AXES, shape))
    if shape == _sizes([config.mesh[axis] for axis in AXES], count):
        return line
    ways, rows = shape[0] * shape[1], f"seeding.batch_size={config.seeding.batch_size}"
    if config.seeding.accumulate > 1:
        rows += f" in seeding.accumulate={config.seeding.accumulate} parts"
    return f"{line}; {rows} fills {ways} of {count} devices with rows, mesh.tensor has the others"


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
