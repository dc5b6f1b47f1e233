"""The tables of the paper, and what this project has of each."""

import pathlib
import statistics
from collections.abc import Mapping, Sequence

import numpy as np
from claims import Claim, Figure, Section, over_seeds
from modules import EXPERIMENTS, module_of, results_of

from sleep_jax.fields import read_json
from sleep_jax.report.comparison import interval

PAPER = read_json(pathlib.Path(__file__).with_name("paper.json"))
SMOLLM2, TINY = "SmolLM2-135M-Instruct", "a decoder of 0.9M parameters"
SLEEP = "Sleep"
NOT_ENDED = "its runs to come to their end"


def sections(folder: pathlib.Path = EXPERIMENTS) -> list[Section]:
    """All tables, in the paper's order.

    Args:
      folder: of the experiments whose results are read.
    """
    return [
        class_incremental(folder),
        levels(),
        languages(),
        babilong(),
        maths(),
        maths_ablated(folder),
        knowledge(folder),
        knowledge_ablated(folder),
        arc(folder),
        cost(folder),
    ]


def section(name: str, claims: Sequence[Claim], *ours: str) -> Section:
    """A table of paper.json beside ours.

    Args:
      name: of the table.
      claims: of it.
      *ours: `experiment`, `ours` and `command` of the section.
    """
    return Section(PAPER[name]["title"], claims, *ours, paper=PAPER[name])


def less(
    name: str, row: str, ours: Figure | str, column: str = "", setting: str = "", of: str = SLEEP
) -> Claim:
    """The claim that two rows of a table differ as the paper says.

    Args:
      name: of the table.
      row: the other one.
      ours: the same difference; or what it needs.
      column: of the table; empty: all, and the mean difference says which side is the paper's.
      setting: which of our runs it is.
      of: the row that the other one is taken from.
    """
    table = PAPER[name]
    indices = [i for i, title in enumerate(table["columns"]) if column in ("", title)]
    pairs = [[table["figures"][x][i] for x in (of, row)] for i in indices]
    gaps = [a - b for a, b in pairs]
    shown = ", ".join(f"{gap:+.1f}" for gap in gaps)
    if len(pairs) == 1:
        shown += " ({:.1f} and {:.1f})".format(*pairs[0])
    text = f"{of} less {row}" + (f", {column}" if column else "")
    return Claim(text, ours, shown, statistics.mean(gaps) > 0, setting=setting)


DATASETS = {"clinc150": "CLINC150", "banking77": "Banking77", "dbpedia": "DBpedia"}
LEARNERS = {
    "in context": "ICL",
    "EWC": "EWC",
    "InCA": "InCA",
    "fine-tuning": "fine-tuning",
    "replay": "replay",
}


def class_incremental(folder: pathlib.Path) -> Section:
    """Sleep less each method, all classes at the end."""
    figures = module_of("class_incremental", "figures")
    results = results_of("class_incremental", folder)
    sizes, arms, ours = {"dataset": "clinc150"}, {}, "not run to the end yet"
    if results:
        sizes = results["sizes"]
        arms = figures.by_arm([run | {"is_done": True} for run in results["runs"]])
        ours = (
            f"seeds: {len(arms.get('sleep', []))}; {sizes['groups']} groups of "
            f"{sizes['group_size']} classes, a slot of rank {sizes['rank']} for each, "
            f"{sizes['train']} texts a class, {sizes['updates']} updates a group"
        )
    claims = []
    for dataset, title in DATASETS.items():
        if dataset != sizes["dataset"]:
            needs = f"its published files, and `run.py --dataset {dataset}`"
            claims.append(Claim(f"Sleep highest on {title}", needs, "a figure"))
            continue
        for arm, method in LEARNERS.items():
            both = [arms.get(name, []) for name in ("sleep", arm)]
            gap = figures.paired_difference(*both)
            means = [100 * np.mean([*map(figures.final_accuracy, runs)]) for runs in both if runs]
            beside = "({:.0f} and {:.0f})".format(*means) if gap else ""
            shown = {"form": "+.0f", "beside": beside}
            figure = Figure(*(100 * x for x in gap), **shown) if gap else NOT_ENDED
            paper = "a figure" if method in ("ICL", "EWC", "InCA") else "not in the paper"
            claims.append(Claim(f"Sleep less {method}, {title}", figure, paper))
    needs = "the Hope architecture, which is not built"
    claims.append(Claim("Sleep less Hope without distillation", needs, "a figure"))
    command = "python experiments/class_incremental/run.py --data CLINC150 --publish"
    return section("class-incremental", claims, "class_incremental", f"{SMOLLM2}; {ours}", command)


def levels() -> Section:
    """Long contexts."""
    needs = "the data sets, and a model whose context holds their documents"
    said = ("More consolidation stages help", "A higher lowest frequency hurts")
    return section("levels", [Claim(text, needs, "a figure") for text in said])


def languages() -> Section:
    """Books about a language."""
    needs = "MTOB's books, and a model that can learn to translate from them"
    said = (
        "Three stages nearly recover the scores of a single language",
        "Sleep is above ICL after two languages",
    )
    return section("languages", [Claim(text, needs, "a figure") for text in said])


def babilong() -> Section:
    """Up to 10M tokens."""
    needs = "its texts, and a machine that reads 10M tokens"
    return section("babilong", [Claim("Answers hold up to 10M tokens", needs, "a figure")])


def maths() -> Section:
    """Qwen3-8B."""
    needs = "Qwen3-8B on an accelerator, and 16 graded samples of each problem"
    claims = [less("maths", row, needs) for row in ("base", "SFT", "GRPO", "OPSD")]
    preset = "a preset of the paper's sizes and rate, compiled for TPU slices and not run"
    return section("maths", claims, "", f"`configs/seeding_8b_paper.py`: {preset}")


def maths_ablated(folder: pathlib.Path) -> Section:
    """The same variants, on what is left of two documents."""
    table, claims = module_of("seeding_ablation", "table"), []
    runs = table.results(folder / "seeding_ablation" / "results.json").variants
    full = runs["full seeding"]
    for row in ("no imitation", "no semantic reward", "no expansion"):
        for name, asked in {
            "questions": "all questions",
            "earlier": "those of earlier days",
        }.items():
            both = ([of[seed][name] for seed in full] for of in (full, runs[row]))
            ours = over_seeds(*both, 100, form="+.0f")
            claims.append(less("maths ablated", row, ours, setting=asked))
    needs = "an arm of OPSD with a slot of its own"
    claims.append(less("maths ablated", "OPSD + expansion", needs))
    ours = (
        f"{SMOLLM2}, seeds: {len(full)}; not maths, but right answers about two documents of "
        "invented facts, read on two days; 40 updates a night, no dreams"
    )
    command = "python launch.py --sweep=configs/sweeps/seeding_ablation.py"
    return section("maths ablated", claims, "seeding_ablation", ours, command)


COLUMNS = {"one passage": "single", "continued": "stream"}


def knowledge(folder: pathlib.Path) -> Section:
    """Sleep less each method."""
    results, claims = results_of("knowledge_incorporation", folder), []
    seal = {"single": "SEAL, one round", "stream": "SEAL, no reinforcement"}
    for column, kind in COLUMNS.items():
        arms = {"base": "base", "fine-tuned": "fine-tuned on the passage", "SEAL": seal[kind]}
        for row, arm in arms.items():
            ours = _sleep_less(results[kind]["arms"], arm)
            claims.append(less("knowledge", row, ours, column, arm))
        needs = "an arm with several levels"
        claims.append(less("knowledge", SLEEP, needs, column, of="Sleep + 4 levels"))
    return section("knowledge", claims, *_of_passages(results))


def knowledge_ablated(folder: pathlib.Path) -> Section:
    """Sleep less its variants."""
    results, claims = results_of("knowledge_incorporation", folder), []
    for column, kind in COLUMNS.items():
        for row in ("no gradient selection", "no random expert", "no dreaming"):
            ours = _sleep_less(results[kind]["arms"], f"sleep, {row}")
            claims.append(less("knowledge ablated", row, ours, column))
    return section("knowledge ablated", claims, *_of_passages(results))


def _sleep_less(arms: Mapping, arm: str) -> Figure | str:
    """The difference, as the arm's own to sleep has it or that of sleep to the base."""
    if arm not in arms:
        return "a second slot to draw the expert from, and one passage fills one"
    beside = "({:.1f} and {:.1f})".format(*(arms[name]["contains"] for name in ("sleep", arm)))
    if arm in arms["sleep"]["over"]:
        return Figure(*arms["sleep"]["over"][arm], beside=beside)
    return -Figure(*arms[arm]["over"]["sleep"], beside=beside)


def _of_passages(results: Mapping) -> tuple[str, str, str]:
    """Folder, setting and command."""
    of, seeds = results["stream"], results["stream"]["arms"]["sleep"]["seeds"]
    ours = (
        f"{SMOLLM2}, seeds: {seeds}; {of['passages']} passages, {of['questions']} questions; a "
        "reply is right if it contains the answer (no judge); continued: four nights, and SEAL "
        "without its round of reinforcement; SEAL has the updates of fine-tuning, fewer than its "
        "authors give it"
    )
    command = "python experiments/knowledge_incorporation/run.py --data FOLDER"
    return "knowledge_incorporation", ours, command


def arc(folder: pathlib.Path) -> Section:
    """Recipes as dreams."""
    results, claims = results_of("few_shot_grids", folder), []
    rows = {"ICL": "in context", "test-time training": "test-time training, SEAL's recipe"}
    for name, arms in results["sets"].items():
        for row, arm in rows.items():
            both = (_shares(arms[x]) for x in ("dreams, after", arm))
            ours = over_seeds(*both, 100, form="+.0f")
            claims.append(less("arc", row, ours, setting=f"{name} tasks"))
    claims.append(less("arc", "SEAL", "Llama-3.2-1B, and both methods on it"))
    gain = Figure(*results["gain"]["generated"])
    better = "Rewarded dreams make a better writer: dreams after learning less before"
    claims.append(Claim(better, gain, setting="generated tasks"))
    of = {name: arms["in context"]["of"] for name, arms in results["sets"].items()}
    ours = (
        f"{TINY}, trained here, seeds: {len(of['generated'])}; {of['ARC'][0]} tasks of ARC and "
        f"{of['generated'][0]} generated ones; one round of ReST-EM, 5 recipes a task at test; "
        "share of dreams less share of tasks"
    )
    command = "python experiments/few_shot_grids/run.py --data ARC_FOLDER"
    return section("arc", claims, "few_shot_grids", ours, command)


def _shares(row: Mapping) -> list[float]:
    """Of each seed."""
    return [count / of for count, of in zip(row["counts"], row["of"])]


def cost(folder: pathlib.Path) -> Section:
    """Seconds of sleep in multiples of those of fine-tuning, at equal updates."""
    runs = module_of("long_horizon", "figures").by_arm(results_of("long_horizon", folder))
    seconds = {arm: {run["seed"]: run["seconds"] for run in group} for arm, group in runs.items()}
    cheaper, paper, claims = "SFT is cheaper at equal steps: Sleep in times of it", "4 times", []
    for arm in ("commit_then_clear", "lasting"):
        ours = _times(seconds[arm], seconds["fine-tuning"])
        setting = f"`{arm}`"
        claims.append(Claim(cheaper, ours, paper, against=1.0, setting=setting))
    ours: Figure | str = NOT_ENDED
    if len(six := results_of("six_nights", folder) or {}) > 1:
        slept, tuned = [*six.values()][:2]
        ours = _times(
            *({x["seed"]: statistics.mean(x["seconds"]) for x in of} for of in (slept, tuned))
        )
    setting = f"{SMOLLM2}, [six_nights](../experiments/six_nights/README.md)"
    claims.append(Claim(cheaper, ours, paper, against=1.0, setting=setting))
    needs = "scores of both after several lengths of training"
    longer = "SFT needs longer for the score of Sleep"
    claims.append(Claim(longer, needs, "4.3, 3.6 and 4.8 times", against=1.0))
    ours = (
        f"{TINY}, seeds: {len(runs['lasting'])}; twenty nights, on CPU cores that other jobs "
        "shared, compilation included"
    )
    return section("cost", claims, "long_horizon", ours, "python experiments/long_horizon/run.py")


def _times(ours: Mapping[int, float], others: Mapping[int, float]) -> Figure:
    """Geometric mean of the ratios of common seeds, and its t interval."""
    logs = [float(np.log(ours[seed] / others[seed])) for seed in ours if seed in others]
    bounds = interval(logs) if len(logs) > 1 else (-np.inf, np.inf)
    return Figure(*(float(np.exp(x)) for x in (np.mean(logs), *bounds)), "times", ".1f")
