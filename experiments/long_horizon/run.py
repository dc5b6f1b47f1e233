"""Twenty episodes of new facts, a night after each: what is still known, for several ways to sleep.

python experiments/long_horizon/run.py --workdir runs/long_horizon

Every finished run (an arm and a seed) is a JSON file in the workdir; a second call continues after
them. At the end it draws the figures of all that the workdir has; with --publish beside this file,
where it rewrites the table of the README as well.
"""

import argparse
import dataclasses
import json
import pathlib
import time

import numpy as np
from arms import ARMS, Arm, Learner
from base import is_recalled, known_facts, load_base
from facts import Fact, invent
from figures import FOLDER, report

from sleep_jax.fields import read_json
from sleep_jax.runtime.progress import phase_progress
from sleep_jax.runtime.workdir import claim

FACTS = 6  # new facts of an episode


def episodes_of(seed: int, count: int) -> list[list[Fact]]:
    """The new facts of every episode; no name occurs twice or is known to the base."""
    new = invent(np.random.default_rng(1000 + seed), count * FACTS, known_facts())
    return [new[start : start + FACTS] for start in range(0, len(new), FACTS)]


def run_arm(arm: Arm, params, seed: int, count: int, advance) -> dict:
    """One arm with one seed over `count` episodes.

    Returns:
      `retention` [episodes, episodes]: recall of episode j after night i, None for j > i; `awake`
      [episodes]: recall of the newest episode once read, before the night; `anchors` [episodes]:
      recall of what the base knew, after each night; `nights`: figures of each consolidation;
      `seconds`.
    """
    began = time.perf_counter()
    episodes, known = episodes_of(seed, count), known_facts()
    facts = sum(episodes, known)
    learner = Learner.create(arm, params, seed)
    out = {"seed": seed, "retention": [], "awake": [], "anchors": []}

    for number, episode in enumerate(episodes):
        awake = learner.read(episode)
        out["awake"].append(_recall(learner.cfg, awake, facts, len(known))[1][number])
        learner.sleep()
        anchors, recall = _recall(learner.cfg, learner.variables, facts, len(known))
        out["anchors"].append(anchors)
        out["retention"].append(recall[: number + 1] + [None] * (count - number - 1))
        advance(recall=float(np.mean(recall[: number + 1])), anchors=anchors)
    return out | {"nights": learner.log, "seconds": time.perf_counter() - began}


def _recall(cfg, variables, facts, known: int) -> tuple[float, list[float]]:
    """Recall of the first `known` facts, and of the others episode by episode."""
    is_right = is_recalled(cfg, variables, facts)
    recall = is_right[known:].reshape(-1, FACTS).mean(1)
    return float(is_right[:known].mean()), recall.round(4).tolist()


def finished_run(path: pathlib.Path, title: str, arm: Arm, params, seed: int, count: int) -> dict:
    """A run of an arm: as `path` has it or, where that is missing or of other settings, made and
    written there."""
    settings = json.loads(json.dumps(dataclasses.asdict(arm)))
    if path.exists() and (run := read_json(path))["settings"] == settings:
        return run
    with phase_progress(f"{title}, seed {seed}", count, "night") as bar:
        run = run_arm(arm, params, seed, count, lambda **figures: bar.advance(**figures))
    run |= {"arm": title, "settings": settings}
    path.write_text(json.dumps(run))
    return run


def main() -> None:
    """The arms and seeds that are asked for, then the figures and the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/long_horizon"))
    parser.add_argument("--seeds", type=int, nargs="*", default=range(5))
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--arms", nargs="+", default=ARMS, choices=ARMS)
    parser.add_argument("--publish", action="store_true", help="rewrite the README's figures")
    arguments = parser.parse_args()
    workdir, began = arguments.workdir, time.perf_counter()
    claim(workdir, {"episodes": arguments.episodes})
    params = load_base(workdir / "base.npz")
    for seed in arguments.seeds:
        for title in arguments.arms:
            path = workdir / f"{title.replace(',', '').replace(' ', '_')}-{seed}.json"
            finished_run(path, title, ARMS[title], params, seed, arguments.episodes)
    print(f"all runs: {time.perf_counter() - began:.0f} s in this call")
    runs = [read_json(path) for path in workdir.glob("*-*.json")]
    runs.sort(key=lambda run: ([*ARMS].index(run["arm"]), run["seed"]))
    print(report(FOLDER if arguments.publish else workdir, runs))


if __name__ == "__main__":
    main()
