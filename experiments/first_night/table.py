"""The tables of the README beside this file, from finished runs of `configs/sleep_smollm2.py`.

    python launch.py --config=configs/sleep_smollm2.py
    python experiments/first_night/table.py runs/sleep_smollm2 --publish

    for d in 7-10 11-14; do
        python launch.py --config=configs/sleep_smollm2.py --config.data.documents=samples:$d \\
            --workdir=runs/untuned/$d
    done
    python experiments/first_night/table.py runs/untuned/* --publish --table=untuned

What is published is also kept in results.json.
"""

import argparse
import json
import pathlib
from collections.abc import Sequence

from sleep_jax.fields import read_json
from sleep_jax.phases.evaluate import STAGES
from sleep_jax.report.comparison import COLUMNS, Figures, cell, scores
from sleep_jax.report.publish import publish

README = pathlib.Path(__file__).with_name("README.md")
RESULTS = README.with_name("results.json")
TABLES = ("preset", "untuned", "earlier")
SHOWN = {
    name: COLUMNS[name]
    for name in ("questions", "chance", "paraphrases", "anchor_perplexity", "chat_perplexity")
}


def table(runs: Sequence[dict[str, Figures]]) -> str:
    """Markdown: one row a stage, the mean over runs and each run in brackets.

    Args:
      runs: scores of each at every stage.
    """
    measured = {name for run in runs for figures in run.values() for name in figures}
    shown = {name: title for name, title in SHOWN.items() if name in measured}
    lines = [f"| stage | {' | '.join(shown.values())} |", "|---" * (1 + len(shown)) + "|"]
    for stage in STAGES:
        cells = [
            cell(name, [run[stage][name] for run in runs if name in run[stage]]) for name in shown
        ]
        lines.append(f"| {stage} | {' | '.join(cells)} |")
    return "\n".join(lines)


def marks(name: str) -> tuple[str, str]:
    """Between which the README has a table."""
    return f"<!-- {name}: written by table.py -->", "<!-- end of table -->"


def main() -> None:
    """Prints the table; with --publish also rewrites that of the README."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("workdirs", nargs="+", type=pathlib.Path)
    parser.add_argument("--publish", action="store_true")
    parser.add_argument("--table", choices=TABLES, default=TABLES[0], help="which one to rewrite")
    arguments = parser.parse_args()
    runs = [scores(workdir) for workdir in arguments.workdirs]
    text = table(runs)
    print(text)
    if arguments.publish:
        kept = read_json(RESULTS) | {arguments.table: runs}
        RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
        publish(README, marks(arguments.table), text)


if __name__ == "__main__":
    main()
