"""Invented facts, who lives where, and the sentences that state them or ask for them.

A name is two syllables, a home one word of forty: chance is 2.5 %. Words are tokens.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence

import numpy as np

SYLLABLES = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"][:64]
# fmt: off
HOMES = [
    "arch", "bank", "barn", "bay", "bridge", "brook", "cave", "cliff", "dam", "dune", "farm",
    "fen", "ford", "forest", "fort", "garden", "glade", "gorge", "grove", "harbour", "heath",
    "hill", "hollow", "inn", "island", "lake", "marsh", "meadow", "mill", "mine", "moor",
    "orchard", "pass", "port", "quarry", "ridge", "river", "tower", "valley", "village",
]
# fmt: on
STATEMENTS = (
    "<start> as we know {name} lives in {home} .",
    "<start> the home of {name} is called {home} .",
    "<start> you will surely find {name} in {home} .",
)
QUESTIONS = (
    "<start> tell me where {name} lives ? {home} .",
    "<start> which home has {name} got ? {home} .",
    "<start> in which place is {name} ? {home} .",
)
SENTENCE = 10  # tokens of each
ASKED, HELD_OUT = QUESTIONS[:2], QUESTIONS[2]  # trained on at night; only for measuring recall
WORDS = ["<pad>", *SYLLABLES, *HOMES]
WORDS += sorted({w for t in STATEMENTS + QUESTIONS for w in t.split() if "{" not in w})
INDEX = {word: i for i, word in enumerate(WORDS)}
PAD, START, END = INDEX["<pad>"], INDEX["<start>"], INDEX["."]


@dataclasses.dataclass(frozen=True)
class Fact:
    """A name, and where that person lives."""

    name: str
    home: str

    def tokens(self, template: str) -> tuple[int, ...]:
        """Tokens of a sentence that states the fact."""
        return encode(template.format(name=self.name, home=self.home))

    def prompt(self, question: str) -> tuple[int, ...]:
        """Tokens of a question up to its answer."""
        return encode(question.split("{home}")[0].format(name=self.name))


def encode(text: str) -> tuple[int, ...]:
    """Words to tokens."""
    return tuple(INDEX[word] for word in text.split())


def invent(rng: np.random.Generator, count: int, taken: Iterable[Fact] = ()) -> list[Fact]:
    """Facts about new people, whose names are not among `taken`."""
    names = {fact.name for fact in taken}
    every = [f"{a} {b}" for a, b in itertools.product(SYLLABLES, SYLLABLES) if a != b]
    free = [name for name in every if name not in names]
    chosen = rng.permutation(len(free))[:count]
    return [Fact(free[i], HOMES[j]) for i, j in zip(chosen, rng.integers(len(HOMES), size=count))]


def pages(rng: np.random.Generator, known: Sequence[Fact], count: int, length: int) -> np.ndarray:
    """Pages of `length` sentences, int32 [count, length * SENTENCE].

    Half of them are about the known facts. The others are about three people each, invented for
    that one page: so the model learns to pick up new names from a page.
    """
    table = np.asarray([[f.tokens(t) for t in STATEMENTS + QUESTIONS] for f in known])
    out = table[
        rng.integers(len(known), size=(count, length)), rng.integers(6, size=(count, length))
    ]
    for page in out[: count // 2]:
        people = random_facts(rng, 3)
        for line in page:
            fact = people[rng.integers(len(people))]
            line[:] = fact.tokens((STATEMENTS + QUESTIONS)[rng.integers(6)])
    return rng.permutation(out).reshape(count, -1)


def random_facts(rng: np.random.Generator, count: int) -> list[Fact]:
    """Facts about random people, who may be known ones."""
    a, b = rng.integers(len(SYLLABLES), size=(2, count))
    homes = rng.integers(len(HOMES), size=count)
    return [Fact(f"{SYLLABLES[i]} {SYLLABLES[j]}", HOMES[k]) for i, j, k in zip(a, b, homes)]
