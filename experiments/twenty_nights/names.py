"""Invented names and numbers, drawn without repetition; those of two seeds have none in common.

A name is three syllables, a pair two common words in an order that nothing suggests, a number four
digits: chance is below one in a thousand.
"""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

SEEDS = 16  # that share all names

# fmt: off
FIRST = ["Adel", "Brin", "Cor", "Dras", "Elm", "Fen", "Gar", "Hol", "Ist", "Jor", "Kel", "Lum",
         "Mor", "Nev", "Orl", "Pel", "Quin", "Ras", "Sel", "Tav", "Ulm", "Ver", "Wex", "Yar", "Zim"]
MIDDLE = ["a", "e", "i", "o", "u", "andi", "ebra", "imo", "ondu", "usta"]
LAST = ["bek", "cal", "dun", "far", "gost", "hask", "kir", "lin", "mond", "nar", "pash", "quet",
        "ril", "sand", "tel", "vane", "wick", "xis", "yeld", "zorn"]
GIVEN = ["Anna", "Boris", "Clara", "David", "Emma", "Felix", "Greta", "Henry", "Irene", "Jacob",
         "Karin", "Leo", "Maria", "Nora", "Oscar", "Paula", "Robert", "Sofia", "Thomas", "Vera"]
ADJECTIVES = ["Amber", "Bitter", "Copper", "Crooked", "Drowned", "Eager", "Frozen", "Gentle",
              "Hollow", "Humble", "Jolly", "Lazy", "Marble", "Narrow", "Patient", "Purple",
              "Quiet", "Rusty", "Scarlet", "Silver", "Sleepy", "Stubborn", "Velvet", "Wooden"]
NOUNS = ["Acorn", "Anchor", "Badger", "Barrel", "Beetle", "Candle", "Donkey", "Feather", "Goose",
         "Hammer", "Heron", "Kettle", "Ladder", "Lobster", "Mitten", "Needle", "Onion", "Otter",
         "Pebble", "Pigeon", "Saddle", "Spoon", "Thistle", "Turnip", "Walnut", "Wheel"]
# fmt: on
NUMBERS, YEARS = range(1100, 9900), range(1400, 2101)  # round ones are left out, too


class Pool:
    """What one seed draws from.

    Attributes:
      seed: its number, from 0.
    """

    def __init__(self, seed: int):
        """Begins a pool; the same seed always gives the same.

        Raises:
          ValueError: there is no such seed.
        """
        if not 0 <= seed < SEEDS:
            raise ValueError(f"seed={seed}; names are invented for seeds 0 to {SEEDS - 1}")
        self.seed, self._rng = seed, np.random.default_rng(seed)
        names = ["".join(parts) for parts in itertools.product(FIRST, MIDDLE, LAST)]
        pairs = [" ".join(parts) for parts in itertools.product(ADJECTIVES, NOUNS)]
        numbers = [str(n) for n in NUMBERS if n % 100 and n not in YEARS]
        every = {"name": names, "pair": pairs, "number": numbers}
        self._left = {kind: self._share(words) for kind, words in every.items()}

    def _share(self, every: Sequence[str]) -> Iterator[str]:
        """The share of this seed, in an order of chance."""
        order = np.random.default_rng(0).permutation(len(every))
        each = len(every) // SEEDS
        return iter([every[i] for i in order[self.seed * each : (self.seed + 1) * each]])

    def draw(self, kind: str) -> str:
        """A new word.

        Args:
          kind: `name`, of a place or a thing: `Velandimond`; `person`, a common first name and an
            invented surname; `pair`: `Copper Heron`; `number`, of four digits.

        Raises:
          ValueError: all of this seed are drawn.
        """
        if kind == "person":
            return f"{self.choose(GIVEN)} {self.draw('name')}"
        if (word := next(self._left[kind], None)) is None:
            raise ValueError(f"seed {self.seed} has no {kind} left; ask for fewer documents")
        return word

    def choose(self, choices: Sequence):
        """One of some choices, each as likely as any other."""
        return choices[self._rng.integers(len(choices))]
