"""The table and the figure of the README beside this file, from the finished runs of the sweep.

python launch.py --sweep=configs/sweeps/seeding_ablation.py
python experiments/seeding_ablation/table.py --publish
"""

import argparse
import pathlib

from sleep_jax.cli.config_files import load
from sleep_jax.cli.sweep_runs import runs_of
from sleep_jax.report import comparison, comparison_chart
from sleep_jax.report.publish import publish

HERE = pathlib.Path(__file__).parent
SWEEP = "configs/sweeps/seeding_ablation.py"
MARKS = ("<!-- table: written by table.py -->", "<!-- end of table -->")


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
        publish(HERE / "README.md", MARKS, text)
        comparison_chart.draw(compared, HERE / "comparison")


if __name__ == "__main__":
    main()
