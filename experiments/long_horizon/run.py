"""Twenty episodes of new facts, a night after each: what is still known, for five ways to sleep.

python experiments/long_horizon/run.py --workdir runs/long_horizon

Every finished life (an arm and a seed) is a JSON file in the workdir; a second call goes on from
there. At the end it draws the figures there; with --publish also beside this file, where it
rewrites the table of the README as well.
"""

import argparse
import dataclasses
import json
import pathlib
import time

import numpy as np
from arms import ARMS, Life
from base import CFG, base_at, is_recalled, known_facts
from facts import Fact, invent
from figures import README, report
from night import NightConfig

from sleep_jax.fields import read_json
from sleep_jax.runtime.progress import phase_progress
from sleep_jax.runtime.workdir import claim

FACTS = 6  # new ones an episode


def episodes_of(seed: int, count: int) -> list[list[Fact]]:
    """The new facts of every episode; no name comes twice or is known to the base."""
    new = invent(np.random.default_rng(1000 + seed), count * FACTS, known_facts())
    return [new[start : start + FACTS] for start in range(0, len(new), FACTS)]


def live(arm: str, params, night: NightConfig, seed: int, episodes: int, advance) -> dict:
    """One life.

    Returns:
      `retention` [episodes, episodes]: recall of episode j after night i, None for j > i; `awake`
      [episodes]: recall of the newest episode once read, before the night; `anchors` [episodes]:
      recall of what the base knew, after each night; `nights`: a line a consolidation; `seconds`.
    """
    began = time.perf_counter()
    past, known = episodes_of(seed, episodes), known_facts()
    everyone = sum(past, known)
    subject = Life.born(arm, params, night, seed)
    out = {"arm": arm, "seed": seed, "retention": [], "awake": [], "anchors": []}

    for number, episode in enumerate(past):
        awake = subject.read(episode)
        out["awake"].append(_shares(awake, everyone, len(known))[1][number])
        subject.sleep()
        anchors, shares = _shares(subject.variables, everyone, len(known))
        out["anchors"].append(anchors)
        out["retention"].append(shares[: number + 1] + [None] * (episodes - number - 1))
        advance(recall=float(np.mean(shares[: number + 1])), anchors=anchors)
    return out | {"nights": subject.log, "seconds": time.perf_counter() - began}


def _shares(variables, everyone, known: int):
    right = is_recalled(CFG, variables, everyone)
    return float(right[:known].mean()), right[known:].reshape(-1, FACTS).mean(1).tolist()


def main() -> None:
    """All lives, then what they add up to."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/long_horizon"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--arms", nargs="+", default=ARMS, choices=ARMS)
    parser.add_argument("--publish", action="store_true", help="rewrite the README's figures")
    arguments = parser.parse_args()
    workdir, night = arguments.workdir, NightConfig()
    began = time.perf_counter()
    claim(workdir, {"episodes": arguments.episodes, "night": dataclasses.asdict(night)})
    params = base_at(workdir / "base.npz")
    lives = []
    for seed in range(arguments.seeds):
        for arm in arguments.arms:
            path = workdir / f"{arm.replace(' ', '_')}-{seed}.json"
            if not path.exists():
                with phase_progress(f"{arm}, seed {seed}", arguments.episodes, "night") as bar:
                    life = live(
                        arm,
                        params,
                        night,
                        seed,
                        arguments.episodes,
                        lambda bar=bar, **figures: bar.advance(**figures),
                    )
                path.write_text(json.dumps(life))
            lives.append(read_json(path))
    print(f"all lives: {time.perf_counter() - began:.0f} s in this call")
    print(report(workdir, lives))
    if arguments.publish:
        report(README.parent, lives, README)


if __name__ == "__main__":
    main()
