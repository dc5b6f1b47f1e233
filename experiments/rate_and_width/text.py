"""Generated text: who lives where. A sentence is a name and a home, two tokens.

Half of the names live in one home for ever: what a base knows. The others live somewhere else on
every page, so they are known from the page alone.
"""

import numpy as np

NAMES, HOMES = 48, 40  # tokens of each kind; the first half of the names is known
START, FIRST_NAME, FIRST_HOME = 0, 1, 1 + NAMES
VOCAB = FIRST_HOME + HOMES
SENTENCES, PEOPLE = 16, 4  # of a page: sentences, and people at most
KNOWN = np.arange(FIRST_NAME, FIRST_NAME + NAMES // 2)
NEW = np.arange(FIRST_NAME + NAMES // 2, FIRST_HOME)
NEW_SHARE = 0.75  # of the people of a page


def random_homes(rng: np.random.Generator, count: int) -> np.ndarray:
    """Tokens of homes, with repetition."""
    return FIRST_HOME + rng.integers(HOMES, size=count)


KNOWN_HOMES = random_homes(np.random.default_rng(0), len(KNOWN))


def sentences(rng: np.random.Generator, names, homes, count: int) -> tuple[int, ...]:
    """Sentences about some people, in random order."""
    who = rng.permutation(np.arange(count) % len(names))
    return tuple(np.stack([np.asarray(names)[who], np.asarray(homes)[who]], 1).ravel().tolist())


def pages(rng: np.random.Generator, count: int) -> np.ndarray:
    """Pages to learn the language from, int32 [count, 1 + 2 * SENTENCES], about one to PEOPLE
    people each."""
    out = []
    for people in 1 + rng.integers(PEOPLE, size=count):
        new = rng.binomial(people, NEW_SHARE)
        old = rng.permutation(len(KNOWN))[: people - new]
        names = np.concatenate([KNOWN[old], rng.permutation(NEW)[:new]])
        homes = np.concatenate([KNOWN_HOMES[old], random_homes(rng, new)])
        out.append((START, *sentences(rng, names, homes, SENTENCES)))
    return np.asarray(out, np.int32)
