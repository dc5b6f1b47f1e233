"""The tables of the README beside this file, from finished runs of `configs/sleep_smollm2.py`.

    python launch.py --config=configs/sleep_smollm2.py
    python experiments/first_night/table.py runs/sleep_smollm2 --publish

    for d in 7-10 11-14; do
        python launch.py --config=configs/sleep_smollm2.py --config.data.documents=samples:$d \\
            --workdir=runs/untuned/$d
    done
    python experiments/first_night/table.py runs/untuned/* --publish --table=untuned
"""

import argparse
import pathlib
from collections.abc import Sequence

from sleep_jax.phases.evaluate import STAGES
from sleep_jax.report.comparison import COLUMNS, cell, scores
from sleep_jax.report.publish import publish

README = pathlib.Path(__file__).with_name("README.md")
TABLES = ("preset", "untuned")
SHOWN = {
    name: COLUMNS[name]
    for name in ("questions", "chance", "paraphrases", "anchor_perplexity", "chat_perplexity")
}


def table(workdirs: Sequence[pathlib.Path]) -> str:
    """Markdown: one row a stage, the mean over runs and each run in brackets."""
    runs = [scores(workdir) for workdir in workdirs]
    lines = [f"| stage | {' | '.join(SHOWN.values())} |", "|---" * (1 + len(SHOWN)) + "|"]
    for stage in STAGES:
        cells = [
            cell(name, [run[stage][name] for run in runs if name in run[stage]]) for name in SHOWN
        ]
        lines.append(f"| {stage} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Prints the table; with --publish also rewrites that of the README."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("workdirs", nargs="+", type=pathlib.Path)
    parser.add_argument("--publish", action="store_true")
    parser.add_argument("--table", choices=TABLES, default=TABLES[0], help="which one to rewrite")
    arguments = parser.parse_args()
    text = table(arguments.workdirs)
    print(text)
    if arguments.publish:
        marks = (f"<!-- {arguments.table}: written by table.py -->", "<!-- end of table -->")
        publish(README, marks, text)


if __name__ == "__main__":
    main()
