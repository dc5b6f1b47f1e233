"""The HLO text of a compiled program as data: arrays, instructions, computations."""

import dataclasses
import functools
import math
import re

WIDTHS = {"pred": 1, "bf16": 2} | {
    f"{kind}{bits}": bits / 8 for kind in "fsu" for bits in (2, 4, 8, 16, 32, 64)
}


@dataclasses.dataclass(frozen=True)
class Array:
    """A shape in HLO.

    Attributes:
      dtype, dims: as written.
      is_near: it is in memory of the chip itself (such as VMEM), not in HBM.
    """

    dtype: str
    dims: tuple[int, ...]
    is_near: bool = False

    @property
    def bytes(self) -> float:
        """Its size, without what tiles pad it by; tokens and tuples have none."""
        return math.prod(self.dims) * WIDTHS.get(
            self.dtype, 1 if self.dtype.startswith("f8") else 0
        )

    @property
    def far_bytes(self) -> float:
        """Its size in HBM."""
        return 0.0 if self.is_near else self.bytes


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line: `name = arrays opcode(operands), attributes`."""

    name: str
    arrays: tuple[Array, ...]
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    is_root: bool

    @property
    def is_number(self) -> bool:
        """It is a constant integer."""
        return self.opcode == "constant" and self.operands[0].isdigit()

    @property
    def channel(self) -> str:
        """Of a collective; its name where it has none."""
        return self.attribute("channel_id") or self.name

    def attribute(self, key: str) -> str:
        """A plain attribute such as `index=`; empty where there is none."""
        match = re.search(rf"{key}=([^,\s]+)", self.attributes)
        return match[1] if match else ""

    def called(self, *keys: str) -> list[str]:
        """Computations that an attribute such as `body=` names."""
        match = re.search(rf"(?:{'|'.join(keys)})=(?:\{{([^}}]*)\}}|([^,\s]+))", self.attributes)
        names = (match[1] or match[2]).split(",") if match else []
        return [name.strip().lstrip("%") for name in names]


class Module:
    """A compiled module.

    Attributes:
      partitions: chips that it runs on.
      computations: their instructions, by name.
      entry: the computation that runs.
    """

    def __init__(self, text: str):
        """Parses `compiled.as_text()`."""
        self.partitions = int((re.search(r"num_partitions=(\d+)", text) or [0, 1])[1])
        self.computations: dict[str, list[Instruction]] = {}
        self.entry, name = "", ""
        for line in text.splitlines():
            if head := re.match(r"(ENTRY )?%?([^\s(]+) \(.*\{$", line):
                name = head[2]
                self.entry = name if head[1] else self.entry
                self.computations[name] = []
            elif name and (instruction := _instruction(line)):
                self.computations[name].append(instruction)

    @functools.cache  # noqa: B019, a module lives as long as its report is made
    def known(self, name: str) -> dict[str, Instruction]:
        """The instructions of a computation by name."""
        return {i.name: i for i in self.computations[name]}

    def root(self, name: str) -> Instruction:
        """What a computation returns."""
        return next(i for i in self.computations[name] if i.is_root)

    def trips(self, loop: Instruction) -> int:
        """How often a loop runs at most: its counter goes from 0, in the steps of the body, to the
        largest constant of the condition; 0 where there is none.
        """
        [condition], [body] = loop.called("condition"), loop.called("body")
        counters = [i for i in self.computations[condition] if i.opcode == "get-tuple-element"]
        steps = [self._step(body, int(i.attribute("index"))) for i in counters]
        return -(-max(self._numbers(condition), default=0) // max(steps, default=1))

    def _numbers(self, name: str) -> list[int]:
        numbers = []
        for i in self.computations[name]:
            numbers += [int(i.operands[0])] if i.is_number else []
            for inside in i.called("calls"):
                numbers += self._numbers(inside)
        return numbers

    def _step(self, body: str, index: int) -> int:
        """What a body adds to an element of the tuple that it passes on; 1 where that is hidden."""
        known = self.known(body)
        name, step = self.root(body).operands[index], 0
        while name in known and known[name].opcode in ("add", "copy", "bitcast"):
            terms = [known[o] for o in known[name].operands if o in known]
            step += sum(int(n.operands[0]) for n in terms if n.is_number)
            name = next((n.name for n in terms if not n.is_number), "")
        return max(step, 1)

    def group(self, i: Instruction) -> int:
        """Chips that take part in a collective together."""
        groups = i.attributes.partition("replica_groups=")[2]
        if listed := re.match(r"\{\{([\d,]+)\}", groups):
            return listed[1].count(",") + 1
        if shaped := re.match(r"\[\d+,(\d+)\]", groups):
            return int(shaped[1])
        if axes := re.match(r"mesh\[([^\]]*)\] ?\{([^}]*)\}", groups):
            sizes = dict(re.findall(r"'([^']+)'=(\d+)", axes[1]))
            parts = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", axes[2])
            return math.prod(int(part or sizes[axis]) for axis, part in parts)
        return 2 if "source_target_pairs" in i.attributes else self.partitions

    def users(self, value: str, name: str) -> list[tuple[Instruction, list[int]]]:
        """What uses a value of a computation, seen through bitcasts, and as which operands."""
        names, writes = {value}, []
        for i in self.computations[name]:
            if i.opcode == "bitcast" and i.operands[0] in names:
                names.add(i.name)
            elif at := [n for n, operand in enumerate(i.operands) if operand in names]:
                writes.append((i, at))
        return writes


def _instruction(line: str) -> Instruction | None:
    head = re.match(r"\s+(ROOT )?%?([^\s=]+) = ", line)
    if not head:
        return None
    rest = line[head.end() :]
    end = _closing(rest) + 1 if rest.startswith("(") else rest.index(" ")
    arrays, rest = rest[:end], rest[end:].lstrip()
    opcode = rest.partition("(")[0]
    stop = len(opcode) + _closing(rest[len(opcode) :])
    inside = re.sub(r"/\*.*?\*/", "", rest[len(opcode) + 1 : stop])
    shapes = re.findall(r"(\w+)\[([\d,<=]*)\](\{[^}]*\})?", arrays)
    return Instruction(
        name=head[2],
        arrays=tuple(
            Array(dtype, tuple(int(n.strip("<=")) for n in dims.split(",") if n), "S(" in layout)
            for dtype, dims, layout in shapes
        ),
        opcode=opcode,
        operands=tuple(re.findall(r"%([^\s,()]+)", inside) or [inside.strip()]),
        attributes=rest[stop + 1 :],
        is_root=bool(head[1]),
    )


def _closing(text: str) -> int:
    """Index of the parenthesis that closes the first one."""
    depth = 0
    for at, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if letter == ")" and not depth:
            return at
    return len(text)
