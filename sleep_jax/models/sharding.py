"""Where arrays live on a mesh of devices: one table of rules, and functions that apply it.

    data      splits the rows of a batch
    fsdp      splits them too, and one axis of every weight, which is gathered where it is used
    tensor    splits heads, FFN units and the vocabulary

Computation follows the data (GSPMD); there is a constraint only where the compiler would choose
badly. A dimension that its mesh axis does not divide is replicated: always correct, at worst slow.
Functions use the mesh of the context (`jax.set_mesh`); without one, or with one of a single device,
they do nothing.
"""

import math
import re

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from sleep_jax.models import mixer
from sleep_jax.models.mixer import MIXERS

AXES = ("data", "fsdp", "tensor")
ROWS, VOCAB = ("data", "fsdp"), ("tensor",)  # the axes that split each of them
# The same for the axes of a mixer's state.
STATE = {mixer.ROWS: ROWS, mixer.HEADS: "tensor", mixer.CAPACITY: None, None: None}

# A path, from the collection's name on, and the axes of an array's last dimensions; those before
# (stacked layers, slots) are not split. Every leaf of every collection matches exactly one rule,
# of these or of a mixer's (`mixer_rules`).
RULES = (
    # params: the base.
    (r"params/embed/embedding", ("tensor", "fsdp")),
    (r"params/head/kernel", ("fsdp", "tensor")),
    (r"params/.*/(q|k|v|gate|up)/kernel", ("fsdp", "tensor")),
    (r"params/.*/(o|down)/kernel", ("tensor", "fsdp")),
    (r"params/.*/(q|k|v)/bias", ("tensor",)),
    (r"params/(.*/)?\w+_norm/scale", ()),
    # memory, and all trees of its form: a slot, moments, summed gradients.
    (r"(memory|learner|wake)/(.*/)?(gate|up)(_a)?", ("fsdp", None)),
    (r"(memory|learner|wake)/(.*/)?down(_b)?", (None, "fsdp")),
    (r"(memory|learner)/(.*/)?(gate|up)_b", (None, "tensor")),
    (r"(memory|learner)/(.*/)?down_a", ("tensor", None)),
    (r"(memory|learner)/(.*/)?(key|bias)", ()),  # of the router, or a value head's
    (r"learner/(.*/)?(kernel|count|step|warmup|steps)", ()),
    (r"wake/moments/.*/(count|ns_coeffs)", ()),
    (r"wake/(scored|is_due|updates)/level_\d+", ()),
    (r"wake/(clock|episode|last|waiting|num_waiting)", ()),
    (r"slots/.*/(active|carries)", ()),
    # null_space: second moments of a level's inputs, and directions that a slot is kept out of.
    (r"null_space/(moments|basis)", ("fsdp", None)),
    # moments: of a level's inputs.
    (r"moments/(count|mean)", ()),
    (r"moments/scatter", ("fsdp", None)),
    # lora: a trial adapter.
    (r"lora/.*/(q|k|v|gate|up)/a", ("fsdp", None)),
    (r"lora/.*/(q|k|v|gate|up)/b", (None, "tensor")),
    (r"lora/.*/(o|down)/a", ("tensor", None)),
    (r"lora/.*/(o|down)/b", (None, "fsdp")),
    # batch: rows of a seeding batch; bare tokens are spread within the programs.
    (r"batch/(teacher|trunk)", (ROWS, None, None)),
    (r"batch/(?!teacher|trunk)\w+", (ROWS, None)),
    (r"tokens/\w+", ()),
    # trials: the adapters of several dreams, stacked.
    (r"trials/.*/[ab]", (ROWS, None, None)),
)


def mixer_rules() -> list[tuple]:
    """The rules of registered mixers: of the cache, also of the one row that a stream reads
    through, and of parameters of their own.
    """
    rules = {}
    for name, kind in MIXERS.items():
        rules |= dict(kind.sharding_rules)
        for array, axes in kind.progress_axes.items():
            rules[rf"(cache|wake/context)/{array}"] = tuple(map(STATE.get, axes))
        for array, axes in kind.state_axes.items():
            rules[rf"(cache|wake/context)/.*/{name}/{array}"] = tuple(map(STATE.get, axes))
    return [*rules.items()]


def rules_of(path: str, first: tuple = ()) -> list[tuple]:
    """The axes of every rule that matches a path such as `params/layers/mlp/up/kernel`: of the
    rules `first`, or, where none of them does, of all others."""
    for rules in (first, (*RULES, *mixer_rules())):
        if matches := [axes for pattern, axes in rules if re.fullmatch(pattern, path)]:
            return matches
    return []


def spec_of(path: str, shape: tuple[int, ...], mesh, first: tuple = ()) -> PartitionSpec:
    """How an array is split.

    Args:
      path: from its collection on, e.g. `params/layers/mlp/up/kernel`.
      shape: of the array.
      mesh: a mesh, abstract or not, with `AXES`.
      first: rules that come before the others.

    Raises:
      ValueError: no rule, or more than one, matches the path.
    """
    matches = rules_of(path, first)
    if len(matches) != 1:
        raise ValueError(
            f"{path}: {len(matches)} sharding rules match, there must be one; see RULES in "
            "sleep_jax/models/sharding.py, or Mixer.sharding_rules for a mixer's own parameters"
        )
    [axes] = matches
    return _fitted((None,) * (len(shape) - len(axes)) + axes, shape, mesh)


def shardings(tree, name: str, mesh):
    """The sharding of every leaf of a collection called `name`."""

    def sharding(path, x):
        return NamedSharding(mesh, spec_of(path_of(name, path), np.shape(x), mesh))

    return jax.tree_util.tree_map_with_path(sharding, tree)


def path_of(name: str, path) -> str:
    """`params/embed/embedding` of a leaf's key path in the collection `params`."""
    return f"{name}/{jax.tree_util.keystr(path, simple=True, separator='/')}"


def mesh_axes(length: int, names: tuple[str, ...], mesh=None) -> tuple[str, ...]:
    """The axes among `names` along which a mesh splits a dimension of this length; none where the
    parts would not be equal.

    Args:
      length: of the dimension.
      names: of axes.
      mesh: None: that of the context, without the axes that are manual in a `jax.shard_map`.
    """
    mesh = jax.sharding.get_abstract_mesh() if mesh is None else mesh
    free = {n for n, kind in zip(mesh.axis_names, mesh.axis_types) if kind == AxisType.Auto}
    axes = tuple(name for name in names if name in free and mesh.shape[name] > 1)
    return () if length % math.prod(mesh.shape[name] for name in axes) else axes


def row_shards() -> int:
    """The number of shards that the mesh of the context spreads rows over; 1 without a mesh."""
    sizes = jax.sharding.get_abstract_mesh().shape
    return math.prod(sizes[name] for name in mesh_axes(0, ROWS))


def spread_evenly(count: int) -> int:
    """`count` rounded up to a number of rows that the shards divide evenly."""
    return -(-count // row_shards()) * row_shards()


def place(tree, name: str):
    """A collection on the devices of the context's mesh, each process with its own parts.

    Args:
      tree: arrays of the host, the same in all processes, or of any device.
      name: of the collection, as in the rules.
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
    """Inside a program: the array, split over these axes, one entry a dimension."""
    if not mesh_axes(0, AXES):
        return x
    spec = _fitted(axes, x.shape, jax.sharding.get_abstract_mesh())
    return jax.lax.with_sharding_constraint(x, spec)


def constrain_tree(tree, name: str, first: tuple = ()):
    """Inside a program: every leaf of a collection, split by its rule; `first` as for `spec_of`."""
    if not mesh_axes(0, AXES):
        return tree
    mesh = jax.sharding.get_abstract_mesh()

    def split(path, x):
        spec = spec_of(path_of(name, path), x.shape, mesh, first)
        return jax.lax.with_sharding_constraint(x, spec)

    return jax.tree_util.tree_map_with_path(split, tree)


def to_host(tree):
    """A pytree as numpy arrays, complete in every process."""

    def fetch(x):
        is_local = not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated
        return np.asarray(x if is_local else multihost_utils.process_allgather(x, tiled=True))

    return jax.tree.map(fetch, tree)


def _fitted(axes, shape, mesh) -> PartitionSpec:
    """The axes that divide their dimension, without those of size 1, as programs return them."""

    def entry(axis, size):
        names = mesh_axes(size, axis if isinstance(axis, tuple) else (axis,), mesh)
        return names if len(names) > 1 else next(iter(names), None)

    entries = [entry(axis, size) for axis, size in zip(axes, shape)]
    while entries and entries[-1] is None:
        entries.pop()
    return PartitionSpec(*entries)
