"""Where arrays live on a mesh of devices: one table of rules, and what pure functions need of it.

    data      splits the rows of a batch
    fsdp      splits them too, and one axis of every weight, which is gathered where it is used
    tensor    splits heads, FFN units and the vocabulary

Computation follows the data (GSPMD); a constraint stands only where the compiler would choose
badly. What an axis does not divide is kept whole on every device: right everywhere, at worst slow.
Functions take the mesh of the context (`jax.set_mesh`); without one, or with one of a single
device, they do nothing.
"""

import math
import re

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "tensor")
ROWS, VOCAB = ("data", "fsdp"), ("tensor",)  # the axes that split each of them

# A path, from the collection's name on, and the axes of an array's last dimensions; those before
# (stacked layers, slots) are whole. Every leaf of every collection matches exactly one rule.
RULES = (
    # params: the base.
    (r"params/embed/embedding", ("tensor", "fsdp")),
    (r"params/head/kernel", ("fsdp", "tensor")),
    (r"params/.*/(q|k|v|gate|up)/kernel", ("fsdp", "tensor")),
    (r"params/.*/(o|down)/kernel", ("tensor", "fsdp")),
    (r"params/.*/(q|k|v)/bias", ("tensor",)),
    (r"params/(.*/)?\w+_norm/scale", ()),
    # memory, and whatever has its form: a slot, moments, what reading adds up.
    (r"(memory|learner|wake)/(.*/)?(gate|up)", ("fsdp", None)),
    (r"(memory|learner|wake)/(.*/)?down", (None, "fsdp")),
    (r"(memory|learner)/(.*/)?(key|bias)", ()),  # of the router, or a value head's
    (r"learner/(.*/)?(kernel|count|step)", ()),
    (r"wake/(scored|is_due|updates)/level_\d+", ()),
    (r"wake/(clock|episode|last|rest|held)", ()),
    (r"slots/.*/(active|carries)", ()),
    # lora: a trial adapter.
    (r"lora/.*/(q|k|v|gate|up)/a", ("fsdp", None)),
    (r"lora/.*/(q|k|v|gate|up)/b", (None, "tensor")),
    (r"lora/.*/(o|down)/a", ("tensor", None)),
    (r"lora/.*/(o|down)/b", (None, "fsdp")),
    # cache: the context, also the one row that a stream reads through.
    (r"(cache|wake/context)/.*/attention/(key|value)", (ROWS, "tensor", None, None)),
    (r"(cache|wake/context)/segment_ids", (ROWS, None)),
    (r"(cache|wake/context)/index", ()),
    # batch: rows of a seeding batch; what comes in as tokens alone is spread within the programs.
    (r"batch/(teacher|trunk)", (ROWS, None, None)),
    (r"batch/(?!teacher|trunk)\w+", (ROWS, None)),
    (r"tokens/\w+", ()),
    # trials: adapters side by side, one a dream.
    (r"trials/.*/[ab]", (ROWS, None, None)),
)


def rules_of(path: str) -> list[tuple]:
    """The axes of every rule that matches a path such as `params/layers/mlp/up/kernel`."""
    return [axes for pattern, axes in RULES if re.fullmatch(pattern, path)]


def spec_of(path: str, shape: tuple[int, ...], mesh) -> PartitionSpec:
    """How an array is split.

    Args:
      path: from its collection on, e.g. `params/layers/mlp/up/kernel`.
      shape: its own.
      mesh: a mesh, abstract or not, with `AXES`.

    Raises:
      ValueError: no rule, or more than one, matches the path.
    """
    found = rules_of(path)
    if len(found) != 1:
        raise ValueError(
            f"{path}: {len(found)} sharding rules match, there must be one; see RULES in "
            "sleep_jax/models/sharding.py"
        )
    return _fitted((None,) * (len(shape) - len(found[0])) + found[0], shape, mesh)


def shardings(tree, name: str, mesh):
    """The sharding of every leaf of a collection called `name`."""

    def of(path, x):
        return NamedSharding(mesh, spec_of(path_of(name, path), np.shape(x), mesh))

    return jax.tree_util.tree_map_with_path(of, tree)


def path_of(name: str, path) -> str:
    """`params/embed/embedding` of a leaf's key path in the collection `params`."""
    return f"{name}/{jax.tree_util.keystr(path, simple=True, separator='/')}"


def mesh_axes(length: int, names: tuple[str, ...], mesh=None) -> tuple[str, ...]:
    """Those of the axes along which a mesh cuts a dimension of this length; none where the parts
    would not be equal.

    Args:
      length: of the dimension.
      names: of axes.
      mesh: None: that of the context, less the axes that a `jax.shard_map` has taken.
    """
    mesh = jax.sharding.get_abstract_mesh() if mesh is None else mesh
    free = {n for n, kind in zip(mesh.axis_names, mesh.axis_types) if kind == AxisType.Auto}
    axes = tuple(name for name in names if name in free and mesh.shape[name] > 1)
    return () if length % math.prod(mesh.shape[name] for name in axes) else axes


def row_shards() -> int:
    """Over how many shards the mesh of the context spreads rows; 1 without one."""
    sizes = jax.sharding.get_abstract_mesh().shape
    return math.prod(sizes[name] for name in mesh_axes(0, ROWS))


def spread_evenly(count: int) -> int:
    """The next count of rows from `count` on that every shard has as many of."""
    return -(-count // row_shards()) * row_shards()


def place(tree, name: str):
    """A collection on the devices of the context's mesh, each process with its own parts.

    Args:
      tree: arrays of the host, the same in all processes, or of any device.
      name: of the collection, as the rules have it.
    """
    mesh = jax.sharding.get_mesh()
    if mesh.empty or mesh.size == 1:
        return tree

    def put(x, sharding):
        is_local = not isinstance(x, jax.Array) or x.is_fully_addressable
        if is_local and not sharding.is_fully_addressable:
            x = np.asarray(x)
            return jax.make_array_from_callback(x.shape, sharding, x.__getitem__)
        return jax.device_put(x, sharding)

    return jax.tree.map(put, tree, shardings(tree, name, mesh))


def constrain(x, *axes):
    """Inside a program: the array split so, one entry a dimension."""
    if not mesh_axes(0, AXES):
        return x
    spec = _fitted(axes, x.shape, jax.sharding.get_abstract_mesh())
    return jax.lax.with_sharding_constraint(x, spec)


def constrain_tree(tree, name: str):
    """Inside a program: every leaf of a collection as its rule has it."""
    if not mesh_axes(0, AXES):
        return tree
    mesh = jax.sharding.get_abstract_mesh()

    def of(path, x):
        spec = spec_of(path_of(name, path), x.shape, mesh)
        return jax.lax.with_sharding_constraint(x, spec)

    return jax.tree_util.tree_map_with_path(of, tree)


def to_host(tree):
    """A pytree as numpy arrays, whole in every process."""

    def fetch(x):
        is_here = not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated
        return np.asarray(x if is_here else multihost_utils.process_allgather(x, tiled=True))

    return jax.tree.map(fetch, tree)


def _fitted(axes, shape, mesh) -> PartitionSpec:
    """Axes that divide their dimension, less those of size 1, in the form that programs return."""

    def entry(axis, size):
        names = mesh_axes(size, axis if isinstance(axis, tuple) else (axis,), mesh)
        return names if len(names) > 1 else next(iter(names), None)

    entries = [entry(axis, size) for axis, size in zip(axes, shape)]
    while entries and entries[-1] is None:
        entries.pop()
    return PartitionSpec(*entries)
