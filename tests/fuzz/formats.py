"""A file format for fuzzing: valid examples, their changes, and how the project reads them."""

import dataclasses
import pathlib
import random
from collections.abc import Callable, Mapping, Sequence

Change = Callable[[random.Random, bytes], bytes]


LARGEST = 2**16  # bytes of an input, small against the memory allowance of `oracle`


@dataclasses.dataclass(frozen=True)
class Format:
    """A file format.

    Attributes:
      name: of the format.
      file: name of the file that is changed.
      bases: valid contents.
      change: from a valid content to one that is tried.
      read: reads the folder as the project does, and uses the result as far as that is cheap.
      other_files: contents of the other files of the folder, by name.
    """

    name: str
    file: str
    bases: Sequence[bytes]
    change: Change
    read: Callable[[pathlib.Path], object]
    other_files: Mapping[str, bytes] = dataclasses.field(default_factory=dict)

    def lay_out(self, folder: pathlib.Path) -> None:
        """Writes the other files and the first base."""
        for name, content in {**self.other_files, self.file: self.bases[0]}.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def input(self, seed: int, number: int) -> bytes:
        """The `number`-th input; the first ones are the bases."""
        if number < len(self.bases):
            return self.bases[number]
        rng = random.Random(f"{self.name} {seed} {number}")
        return self.change(rng, rng.choice(self.bases))[:LARGEST]
