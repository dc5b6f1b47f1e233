"""Nights of decoders of several widths, with slots of two ranks, at rates around the automatic one.

python experiments/rate_and_width/run.py --workdir runs/rate_and_width

Every width, rank and seed is a JSON file in the workdir; a second call continues after them. At
the end it draws the figure there; with --publish also beside this file, where it rewrites the table
of the README as well.
"""

import argparse
import itertools
import json
import math
import pathlib
from collections.abc import Sequence

from base import RANKS, WIDTHS, decoder_of, load_base
from figures import README, report
from night import nights

from sleep_jax.fields import read_json
from sleep_jax.runtime.progress import phase_progress
from sleep_jax.seeding.seeding_config import automatic_rate

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the automatic rate


def sweep(params, width: int, rank: int, seed: int, factors: Sequence[float]) -> list[dict]:
    """A night for every factor of the automatic rate, each a dictionary of `nights` with width,
    rank, seed and factor."""
    cfg = decoder_of(width, rank)
    rates = [factor * automatic_rate(cfg, 1) for factor in factors]
    about = {"width": width, "rank": rank, "seed": seed}
    slept = nights(params, cfg, seed, rates)
    return [about | {"factor": factor} | x for factor, x in zip(factors, slept)]


def main() -> None:
    """All widths and ranks, then the figure and the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/rate_and_width"))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS, choices=WIDTHS)
    parser.add_argument("--ranks", type=int, nargs="+", default=RANKS, choices=RANKS)
    parser.add_argument("--factors", type=float, nargs="+", default=FACTORS)
    parser.add_argument("--publish", action="store_true", help="rewrite the README's figures")
    arguments = parser.parse_args()
    workdir = arguments.workdir
    workdir.mkdir(parents=True, exist_ok=True)
    shape = (arguments.widths, arguments.ranks, range(arguments.seeds))
    with phase_progress("nights", math.prod(map(len, shape)), "sweep") as bar:
        for width, rank, seed in itertools.product(*shape):
            path = workdir / f"width_{width}-rank_{rank}-seed_{seed}.json"
            if not path.exists():
                slept = sweep(load_base(workdir, width), width, rank, seed, arguments.factors)
                path.write_text(json.dumps(slept))
            bar.advance(width=width, rank=rank, seed=seed)
    results = [x for path in sorted(workdir.glob("width_*.json")) for x in read_json(path)]
    print(report(workdir, results))
    if arguments.publish:
        report(README.parent, results, README)


if __name__ == "__main__":
    main()
