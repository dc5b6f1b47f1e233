"""How much a model should write about a document before it sleeps: recall over `study.multiple`,
and with the stored answer in the teacher's view.

    python experiments/study_breadth/run.py --documents samples:6      # to choose settings
    python experiments/study_breadth/run.py                            # to report: samples:7-14

Every finished run (an arm and a seed) is a JSON file in the workdir; a second call continues after
them, and within one after its last phase. At the end it prints the table; with --publish it also
rewrites the one in the README.
"""

import argparse
import dataclasses
import json
import pathlib
import runpy
import shutil

import numpy as np

from sleep_jax import lifecycle
from sleep_jax.experiment import load_experiment
from sleep_jax.fields import read_json
from sleep_jax.phases.study import studied
from sleep_jax.report.publish import publish
from sleep_jax.runtime.allocator import keep_freed_memory
from sleep_jax.runtime.workdir import claim

README = pathlib.Path(__file__).with_name("README.md")
MARKS = ("<!-- table: written by run.py -->", "<!-- end of table -->")
PRESET = "configs/sleep_smollm2.py"
AFTER = "after consolidation"
OPEN_BOOK = "with the document in context"


@dataclasses.dataclass(frozen=True)
class Arm:
    """What a teacher writes.

    Attributes:
      multiple: tokens of variants, in multiples of the document.
      answer_in_view: the teacher of an answer sees the stored one.
    """

    multiple: float
    answer_in_view: bool = False

    @property
    def name(self) -> str:
        """As it stands in the table and in names of files."""
        return f"{self.multiple:g}x" + (" answer in view" if self.answer_in_view else "")


ARMS = tuple(
    Arm(multiple, in_view) for in_view in (False, True) for multiple in (0, 1, 2, 5, 10, 20)
)


def run_arm(arm: Arm, seed: int, arguments: argparse.Namespace, folder: pathlib.Path) -> dict:
    """A day, its night and its questions.

    Returns:
      `questions` and `paraphrases`, shares right closed book; `ceiling`, of the questions with the
      book open; `anchors`, their perplexity after the night by that before it; `known`, of texts;
      `written`, the tokens of each kind; `kl`, the divergence on held-out questions; `seconds`, of
      study and consolidation.
    """
    config = runpy.run_path(PRESET)["get_config"]()
    config.data.documents, config.seed = arguments.documents, seed
    config.study.multiple, config.study.answer_in_view = arm.multiple, arm.answer_in_view
    config.seeding.steps, config.dreaming.steps = arguments.steps, 0
    config.model.dtype = arguments.dtype
    config.gate.divergence = config.gate.anchors = 1e9  # every night is measured
    experiment = load_experiment(config)
    run = lifecycle.run(experiment, str(folder))
    scores, phases = run.day(0)["scores"], run.record["phases"]
    [night] = [facts for facts in phases.values() if "kl_after" in facts]
    written: dict[str, int] = {}
    for exchange in studied(experiment, run, 0):
        written[exchange.kind] = written.get(exchange.kind, 0) + len(exchange.completion)
    return {
        "arm": arm.name,
        "seed": seed,
        "questions": scores[AFTER]["questions"],
        "paraphrases": scores[AFTER]["paraphrases"],
        "ceiling": scores[OPEN_BOOK]["questions"],
        "anchors": scores[AFTER]["anchor_perplexity"] / scores["before sleep"]["anchor_perplexity"],
        "kl": night["kl_after"],
        "written": written,
        "seconds": sum(facts["seconds"] for facts in phases.values()),
    }


def table(runs: list[dict]) -> str:
    """Markdown: a row an arm, mean and standard deviation over seeds."""
    lines = [
        "| study | seeds | questions | held-out wordings | open book | anchors | held-out "
        "divergence | tokens written | minutes |",
        "|---" * 9 + "|",
    ]
    for name in dict.fromkeys(run["arm"] for run in runs):
        of_arm = [run for run in runs if run["arm"] == name]

        def cell(key: str, scale: float = 100, unit: str = " %", of_arm=of_arm) -> str:
            values = np.array([run[key] for run in of_arm]) * scale
            return f"{values.mean():.3g}{unit} ± {values.std(ddof=len(values) > 1):.2g}"

        tokens = np.mean([sum(run["written"].values()) for run in of_arm])
        minutes = np.mean([run["seconds"] for run in of_arm]) / 60
        cells = (
            *(cell("questions"), cell("paraphrases"), cell("ceiling")),
            *(cell("anchors", 1, ""), cell("kl", 1, "")),
        )
        lines.append(
            f"| {name} | {len(of_arm)} | {' | '.join(cells)} | {tokens:,.0f} | {minutes:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """All arms and seeds, then the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/study_breadth"))
    parser.add_argument("--documents", default="samples:7-14")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100, help="updates of a night, in every arm")
    parser.add_argument("--dtype", default="bfloat16", help="as model.dtype")
    parser.add_argument("--arms", nargs="+", default=[arm.name for arm in ARMS])
    parser.add_argument("--publish", action="store_true", help="rewrite the README's table")
    arguments = parser.parse_args()
    keep_freed_memory()
    name = arguments.documents.replace(":", "-")
    workdir = arguments.workdir / f"{name}-{arguments.steps}"
    settings = {"documents": arguments.documents, "steps": arguments.steps}
    claim(workdir, settings | {"dtype": arguments.dtype})
    runs = []
    for seed in range(arguments.seeds):
        for arm in ARMS:
            if arm.name not in arguments.arms:
                continue
            folder = workdir / f"{arm.name.replace(' ', '_')}-{seed}"
            path = folder.with_name(f"{folder.name}.json")
            if not path.exists():
                path.write_text(json.dumps(run_arm(arm, seed, arguments, folder)))
                shutil.rmtree(folder)
            runs.append(read_json(path))
    print(table(runs))
    if arguments.publish:
        publish(README, MARKS, table(runs))


if __name__ == "__main__":
    main()
