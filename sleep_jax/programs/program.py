"""One jitted function of a run with the shapes that a config implies and nothing allocated."""

import collections
import dataclasses
import inspect
from collections.abc import Callable, Hashable, Iterable, Iterator

import jax


@dataclasses.dataclass(frozen=True)
class Program:
    """One jitted function with abstract arguments.

    Attributes:
      name: `phase: what it does`.
      function, args: what is compiled; statics are as they are, arrays are abstract.
      calls: how often a day and its night call it.
      tokens: that pass through the decoder in a call.
      keys: tokens that each of them attends to, on average.
      scored: tokens that the LM head is applied to.
      passes: products with the base's weights for each token: 1 forward, 2 with the gradient of
        the activations.
      trips: of a loop whose length only the data say, the most.
      knobs: settings that lower what it needs.
    """

    name: str
    function: Callable
    args: tuple
    calls: int
    tokens: int
    keys: float
    scored: int
    passes: int = 1
    trips: int = 1
    knobs: tuple[str, ...] = ()

    @property
    def phase(self) -> str:
        """The phase that calls it."""
        return self.name.partition(":")[0]

    @property
    def signature(self) -> Hashable:
        """What tells it from other programs."""
        return signature(self.function, *self.args)


def signature(function: Callable, *args, **named) -> Hashable:
    """What a call of a jitted function is compiled for: its name, path, shape and dtype of every
    array, and the static arguments themselves.
    """
    bound = inspect.signature(function).bind(*args, **named)
    bound.apply_defaults()
    leaves = jax.tree_util.tree_leaves_with_path(bound.arguments)
    return function.__name__, tuple((jax.tree_util.keystr(path), _kind(x)) for path, x in leaves)


def _kind(x) -> Hashable:
    is_array = hasattr(x, "shape") and hasattr(x, "dtype")
    if not is_array:
        return x
    return x.shape, str(jax.dtypes.canonicalize_dtype(x.dtype, allow_extended_dtype=True))


def by_shape(name: str, shapes: Iterable[tuple[int, int]]) -> Iterator[tuple[str, int, int, int]]:
    """(name, rows, width, calls) of each program among calls of these shapes (rows, width): where
    there are several, their names say the width, or the shape.
    """
    calls = collections.Counter(shapes)
    widths = collections.Counter(width for _, width in calls)
    for (rows, width), count in calls.items():
        shape = f"{width}" if widths[width] == 1 else f"{rows} x {width}"
        yield (name if len(calls) == 1 else f"{name} ({shape})"), rows, width, count
