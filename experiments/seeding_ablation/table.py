"""The table, the figure and results.json beside this file, from the finished runs of the sweep.

python launch.py --sweep=configs/sweeps/seeding_ablation.py
python experiments/seeding_ablation/table.py --publish
"""

import argparse
import dataclasses
import json
import pathlib

from sleep_jax.cli.config_files import load
from sleep_jax.cli.sweep_runs import runs_of
from sleep_jax.fields import read_json
from sleep_jax.report import comparison, comparison_chart
from sleep_jax.report.publish import publish

HERE = pathlib.Path(__file__).parent
RESULTS = HERE / "results.json"
SWEEP = "configs/sweeps/seeding_ablation.py"
MARKS = ("<!-- table: written by table.py -->", "<!-- end of table -->")


def results(path: pathlib.Path = RESULTS) -> comparison.Comparison:
    """The scores that results.json has."""
    kept = read_json(path)
    variants = {
        variant: {int(seed): figures for seed, figures in runs.items()}
        for variant, runs in kept["variants"].items()
    }
    return comparison.Comparison(variants, kept["before"])


def main() -> None:
    """Prints the tables; with --publish also rewrites those of the README, and the figure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("workdir", nargs="?", default="runs/seeding_ablation")
    parser.add_argument("--publish", action="store_true")
    arguments = parser.parse_args()
    compared = comparison.compare(runs_of(SWEEP, load(SWEEP), arguments.workdir))
    text = comparison.report(compared)
    print(text)
    if arguments.publish:
        kept = {name: dataclasses.asdict(compared)[name] for name in ("variants", "before")}
        RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
        publish(HERE / "README.md", MARKS, text)
        comparison_chart.draw(compared, HERE / "comparison")


if __name__ == "__main__":
    main()
