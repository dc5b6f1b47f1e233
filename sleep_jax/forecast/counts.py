"""What a chip does in one run of a compiled program: products, traffic to memory and to others.

XLA's own analysis counts the body of a loop once; here it counts as often as the loop runs, and of
a conditional the branch that computes more. The TPU compiler spreads a collective over several
fusions, which all name it: it counts where it starts.
"""

import collections
import dataclasses
import functools
import math
import re

from sleep_jax.forecast.hlo import Instruction, Module

COLLECTIVES = {
    # What a chip sends to the others of its group of n, in operands.
    "all-gather": lambda n: n - 1,
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "reduce-scatter": lambda n: (n - 1) / n,
    "all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda n: 1,
}
# What moves nothing by itself.
FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "iota", "while"),
    *("conditional", "call", "partition-id", "replica-id", "after-all", "opt-barrier"),
}
SLICES, UPDATE = {"dynamic-slice", "slice", "gather"}, "dynamic-update-slice"


@dataclasses.dataclass
class Counts:
    """What one chip does.

    Attributes:
      flops: of matrix products, a multiplication and an addition counted as two.
      bytes: read from and written to HBM.
      sent: bytes sent to other chips, by kind of collective.
      times: collectives, by kind.
    """

    flops: float = 0.0
    bytes: float = 0.0
    sent: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    times: collections.Counter = dataclasses.field(default_factory=collections.Counter)

    def add(self, other: "Counts", times: float = 1) -> None:
        """Adds what another does `times` times."""
        self.flops += times * other.flops
        self.bytes += times * other.bytes
        for totals, added in ((self.sent, other.sent), (self.times, other.times)):
            for kind, value in added.items():
                totals[kind] += times * value


def count(text: str, trips: int = 1) -> Counts:
    """What a chip does in one run of a program.

    Args:
      text: its `compiled.as_text()`.
      trips: of a loop whose length is no constant.
    """
    module = Module(text)
    return _Counter(module, trips).counts_of(module.entry)


class _Counter:
    def __init__(self, module: Module, trips: int):
        self.module, self.trips = module, trips
        self.started = {
            i.channel for c in module.computations if self._starts(c) for i in self._collectives(c)
        }

    @functools.cache  # noqa: B019, a counter counts one module
    def counts_of(self, name: str) -> Counts:
        """A run of a computation."""
        total, known = Counts(), self.module.known(name)
        for i in known.values():
            opcode = i.opcode.removesuffix("-start")
            if opcode == "while":
                trips = self.module.trips(i) or self.trips
                total.add(self.counts_of(i.called("body")[0]), trips)
            elif opcode == "conditional":
                branches = i.called("branch_computations", "true_computation")
                branches += i.called("false_computation")
                total.add(max(map(self.counts_of, branches), key=lambda c: (c.flops, c.bytes)))
            elif opcode in ("call", "async"):
                total.add(self.counts_of(i.called("to_apply", "calls")[0]))
            elif opcode == "fusion":
                total.add(self._fusion(i, known))
            elif opcode in COLLECTIVES:
                if self._counts_here(i, name):
                    # Of a sum the result says in which dtype it travels.
                    sent = [i] if opcode == "all-reduce" else _operands(i, known)
                    size = sum(a.bytes for o in sent for a in o.arrays)
                    total.sent[opcode] += size * COLLECTIVES[opcode](self.module.group(i))
                    total.times[opcode] += 1
                    total.bytes += _plain_bytes(i, known)
            elif opcode not in FREE and not i.opcode.endswith("-done"):
                is_product = opcode in ("dot", "convolution")
                total.flops += _product_flops(i, known) if is_product else 0
                total.bytes += _plain_bytes(i, known)
        return total

    def _fusion(self, i: Instruction, outer: dict) -> Counts:
        """A fusion reads its operands and writes its outputs; within it, only what collectives move
        goes through HBM.
        """
        [inside] = i.called("calls")
        known = self.module.known(inside)
        collectives = [c for c in self._collectives(inside) if self._counts_here(c, inside)]
        size = sum(_plain_bytes(c, known) for c in collectives)
        for number, operand in enumerate(i.operands):
            if operand in outer and any(not a.is_near for a in outer[operand].arrays):
                full = sum(a.far_bytes for a in outer[operand].arrays)
                size += min(full, self._read(inside, number, full))
        root = self.module.root(inside)
        outputs = [known[o] for o in root.operands] if root.opcode == "tuple" else [root]
        for output, array in zip(outputs, i.arrays):
            while output.opcode == "bitcast":
                output = known[output.operands[0]]
            if output.opcode == UPDATE:  # in place
                update = known[output.operands[1]].arrays
                size += 0.0 if array.is_near else sum(a.bytes for a in update)
            elif not _passes(output):
                size += array.far_bytes
        return dataclasses.replace(self.counts_of(inside), bytes=size)

    def _read(self, inside: str, number: int, full: float) -> float:
        """Bytes that a fusion reads of an operand: of what it slices, the slices."""
        computation = self.module.computations[inside]
        value = next(
            (i for i in computation if i.opcode == "parameter" and i.operands[0] == str(number)),
            None,
        )
        size = 0.0
        for user, at in self.module.users(value.name, inside) if value else []:
            if user.opcode in SLICES and at == [0]:
                size += sum(a.bytes for a in user.arrays)
            elif user.opcode == "fusion":
                size += sum(self._read(user.called("calls")[0], n, full) for n in at)
            elif not _passes(user) and not (user.opcode == UPDATE and at == [0]):
                return full
        return size

    def _collectives(self, name: str) -> list[Instruction]:
        return [i for i in self.module.computations[name] if i.opcode in COLLECTIVES]

    def _starts(self, name: str) -> bool:
        return any("AsyncCollectiveStart" in i.attributes for i in self.module.computations[name])

    def _counts_here(self, i: Instruction, name: str) -> bool:
        return i.channel not in self.started or self._starts(name)


def _operands(i: Instruction, known: dict) -> list[Instruction]:
    return [known[o] for o in i.operands if o in known]


def _passes(i: Instruction) -> bool:
    """It hands on what a collective works with, or what came in."""
    return i.opcode in {*COLLECTIVES, *FREE} or "AsyncCollective" in i.attributes


def _plain_bytes(i: Instruction, known: dict) -> float:
    if i.opcode == UPDATE:
        return 2 * sum(a.far_bytes for a in known[i.operands[1]].arrays)
    if i.opcode in SLICES:
        return 2 * sum(a.far_bytes for a in i.arrays)
    if i.opcode.endswith("-start"):  # (what goes in, what comes out, ...)
        return sum(a.far_bytes for a in i.arrays)
    return sum(a.far_bytes for o in (i, *_operands(i, known)) for a in o.arrays)


def _product_flops(i: Instruction, known: dict) -> float:
    """2 x outputs x what each sums over."""
    left, right = (known[o].arrays[0].dims for o in i.operands[:2])
    outputs = math.prod(i.arrays[0].dims)
    if i.opcode == "dot":
        match = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", i.attributes)
        return 2 * outputs * math.prod(left[int(d)] for d in match[1].split(",") if d)
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", i.attributes)
    summed = right[labels[2].index("i")]
    # Spatial dimensions of a kernel are summed over, unless they are batches in disguise: then
    # each output meets one of their entries alone.
    window = re.search(r"window=\{size=([\dx]+)", i.attributes)
    for axis, size in enumerate(map(int, window[1].split("x")) if window else ()):
        kernel, output = right[labels[2].index(str(axis))], labels[3].index(str(axis))
        summed *= 1 if kernel == i.arrays[0].dims[output] else size
    return 2 * outputs * summed
