"""Edit distance on device against rapidfuzz, which computes one pair at a time on the host.

    python benchmarks/levenshtein.py [--batch 256] [--length 512]

Half of each pair's tokens agree by default (`--edited`). Prints one JSON line a comparison: seconds
a batch, `per_pair_us` for a pair; `ratio` is ours over rapidfuzz. Exact distances, and those cut
off at half the length, the limit of the imitation reward, where rapidfuzz stops, ours does not.
"""

import argparse
import functools
import statistics

import jax
import jax.numpy as jnp
import numpy as np
from rapidfuzz.distance import Levenshtein
from timing import interleaved, report

from sleep_jax.rewards.levenshtein import distance


def pairs(args):
    """Token sequences a and, with a share of the tokens replaced, dropped or doubled, b."""
    rng = np.random.default_rng(0)
    a = rng.integers(0, args.vocab, (args.batch, args.length)).astype(np.int32)
    b, lengths = np.zeros_like(a), np.zeros(args.batch, np.int32)
    for row, tokens in enumerate(a):
        edited = []
        for token in tokens:
            kind = rng.integers(3) if rng.random() < args.edited else None
            new = int(rng.integers(0, args.vocab))
            edited += {None: [token], 0: [new], 1: [], 2: [token, new]}[kind]
        edited = edited[: args.length]
        b[row, : len(edited)], lengths[row] = edited, len(edited)
    return a, np.full(args.batch, args.length, np.int32), b, lengths


def main():
    """Runs every comparison."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--vocab", type=int, default=49152)
    parser.add_argument("--edited", type=float, default=0.5, help="share of tokens")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    a, a_length, b, b_length = pairs(args)
    on_device = jax.tree.map(jnp.asarray, (a, a_length, b, b_length))
    # rapidfuzz reads lists of numbers as they are; making them is not counted.
    lists = [(x[:n].tolist(), y[:m].tolist()) for x, n, y, m in zip(a, a_length, b, b_length)]

    for name, band in (("exact", None), ("banded", args.length // 2)):
        ours = functools.partial(jax.jit(functools.partial(distance, band=band)), *on_device)

        def peer(band=band):
            return [Levenshtein.distance(x, y, score_cutoff=band) for x, y in lists]

        np.testing.assert_array_equal(ours(), peer())
        seconds = interleaved({"ours": ours, "rapidfuzz": peer}, args.rounds)
        each = {k: round(1e6 * statistics.median(v) / args.batch, 2) for k, v in seconds.items()}
        report(f"levenshtein, {name}", seconds, "ours", "rapidfuzz", per_pair_us=each, **vars(args))


if __name__ == "__main__":
    main()
