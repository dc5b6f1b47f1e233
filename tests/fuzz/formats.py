"""A format of file: how real ones look, how they are changed, and how the project reads them."""

import dataclasses
import pathlib
import random
from collections.abc import Callable, Mapping, Sequence

Change = Callable[[random.Random, bytes], bytes]


LARGEST = 2**16  # bytes of an input: beside its allowance, what is measured is the size declared


@dataclasses.dataclass(frozen=True)
class Format:
    """One row of the fuzzing report.

    Attributes:
      name: of it.
      file: the one that is changed, within the folder.
      bases: how it may look.
      change: from a base to what is tried.
      read: reads the folder as the project does, and uses what it got as far as that is cheap.
      beside: the other files of the folder, by name.
    """

    name: str
    file: str
    bases: Sequence[bytes]
    change: Change
    read: Callable[[pathlib.Path], object]
    beside: Mapping[str, bytes] = dataclasses.field(default_factory=dict)

    def lay_out(self, folder: pathlib.Path) -> None:
        """Writes the files that stay as they are, and the first base."""
        for name, content in {**self.beside, self.file: self.bases[0]}.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def input(self, seed: int, number: int) -> bytes:
        """The file that is tried as the `number`-th; the first ones are the bases themselves."""
        if number < len(self.bases):
            return self.bases[number]
        rng = random.Random(f"{self.name} {seed} {number}")
        return self.change(rng, rng.choice(self.bases))[:LARGEST]
