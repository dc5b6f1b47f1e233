"""The table of the README beside this file, from finished runs of `configs/sleep_smollm2.py`.

for s in 0 1 2; do
    python launch.py --config=configs/sleep_smollm2.py --config.seed=$s --workdir=runs/night/$s
done
python experiments/first_night/table.py runs/night/* --publish
"""

import argparse
import pathlib
from collections.abc import Sequence

from sleep_jax.comparison import COLUMNS, cell, scores
from sleep_jax.phases.evaluate import STAGES
from sleep_jax.runtime.publish import publish

README = pathlib.Path(__file__).with_name("README.md")
MARKS = ("<!-- table: written by table.py -->", "<!-- end of table -->")
SHOWN = {
    name: COLUMNS[name]
    for name in ("questions", "paraphrases", "anchor_perplexity", "chat_perplexity")
}


def table(workdirs: Sequence[pathlib.Path]) -> str:
    """Markdown: one row a stage, the mean over runs and each run in brackets."""
    runs = [scores(workdir) for workdir in workdirs]
    lines = [f"| stage | {' | '.join(SHOWN.values())} |", "|---" * (1 + len(SHOWN)) + "|"]
    for stage in STAGES:
        cells = [
            cell(name, [run[stage][name] for run in runs]) if name in runs[0][stage] else ""
            for name in SHOWN
        ]
        lines.append(f"| {stage} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Prints the table; with --publish also rewrites that of the README."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("workdirs", nargs="+", type=pathlib.Path)
    parser.add_argument("--publish", action="store_true")
    arguments = parser.parse_args()
    text = table(arguments.workdirs)
    print(text)
    if arguments.publish:
        publish(README, MARKS, text)


if __name__ == "__main__":
    main()
