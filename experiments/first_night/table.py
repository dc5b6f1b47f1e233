"""The table of the README beside this file, from finished runs of `configs/sleep_smollm2.py`.

for s in 0 1 2; do
    python launch.py --config=configs/sleep_smollm2.py --config.seed=$s --workdir=runs/night/$s
done
python experiments/first_night/table.py runs/night/* --publish
"""

import argparse
import pathlib
import statistics
from collections.abc import Sequence

from sleep_jax.phases.evaluate import STAGES
from sleep_jax.runtime.metrics import read_metrics

README = pathlib.Path(__file__).with_name("README.md")
MARKS = ("<!-- table: written by table.py -->", "<!-- end of table -->")
COLUMNS = {
    "questions": "questions",
    "paraphrases": "held-out wordings",
    "anchor_perplexity": "anchor texts",
    "chat_perplexity": "anchor chats",
}


def scores(workdir: pathlib.Path) -> list[dict[str, float]]:
    """What a run scored at every stage."""
    lines = [line for line in read_metrics(workdir) if line["phase"] == "evaluate"]
    found = {line["step"]: line for line in lines}
    if missing := [stage for i, stage in enumerate(STAGES) if i not in found]:
        raise ValueError(f"{workdir} has no scores {missing[0]}; finish the run first")
    return [found[i] for i in range(len(STAGES))]


def cell(name: str, values: Sequence[float]) -> str:
    """The mean, and every run's figure where they differ."""
    if name.endswith("perplexity"):
        shown = [f"{value:.2f}" for value in values]
        mean = f"{statistics.mean(values):.2f}"
    else:
        shown = [f"{100 * value:.0f}" for value in values]
        mean = f"{100 * statistics.mean(values):.0f} %"
    return mean if len(set(shown)) == 1 else f"{mean} ({', '.join(shown)})"


def table(workdirs: Sequence[pathlib.Path]) -> str:
    """Markdown: one row a stage, the mean over runs and each run in brackets."""
    runs = [scores(workdir) for workdir in workdirs]
    lines = [f"| stage | {' | '.join(COLUMNS.values())} |", "|---" * (1 + len(COLUMNS)) + "|"]
    for i, stage in enumerate(STAGES):
        cells = [
            cell(name, [run[i][name] for run in runs]) if name in runs[0][i] else ""
            for name in COLUMNS
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
        page = README.read_text(encoding="utf-8")
        before, rest = page.split(MARKS[0])
        after = rest.split(MARKS[1])[1]
        README.write_text(f"{before}{MARKS[0]}\n{text}\n{MARKS[1]}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
