"""What the paper says of its method and has no table of, and what this project has of it."""

import pathlib
from collections.abc import Sequence

from claims import Claim, Figure, Section, of_count, over_seeds
from modules import EXPERIMENTS, module_of, results_of

from sleep_jax.phases.evaluate import STAGES

SMOLLM2, TINY = "SmolLM2-135M-Instruct", "a decoder of 0.9M parameters"
NOT_ENDED = "its runs to come to their end"
FORGETS_LESS = "Sleep forgets less than fine-tuning over many days"


def sections(folder: pathlib.Path = EXPERIMENTS) -> list[Section]:
    """An experiment each.

    Args:
      folder: of the experiments whose results are read.
    """
    return [
        first_night(folder),
        rollouts(folder),
        two_days(folder),
        six_nights(folder),
        twenty_nights(folder),
        long_horizon(folder),
        judges(folder),
    ]


def first_night(folder: pathlib.Path) -> Section:
    """Right answers after a night."""
    results, asked = results_of("first_night", folder), 24
    claims = []
    for table, documents in {
        "preset": "the documents that settings were chosen on",
        "earlier": "the same, an earlier preset, three seeds",
        "untuned": "eight documents that were in no tuning, in two runs",
    }.items():
        runs = results[table]
        before, after = (
            sum(round(asked * run[stage]["questions"]) for run in runs)
            for stage in (STAGES[0], STAGES[2])
        )
        _check_none_before(before)
        figure = of_count(after, asked * len(runs))
        text = "A night moves what was read into new parameters"
        claims.append(Claim(text, figure, setting=documents))
    ours = f"{SMOLLM2}, questions about four documents a run, none answered before the night"
    command = "python launch.py --config=configs/sleep_smollm2.py"
    return Section("A first night", claims, "first_night", ours, command)


def rollouts(folder: pathlib.Path) -> Section:
    """Full seeding less that without rollouts."""
    table = module_of("seeding_ablation", "table")
    runs = table.results(folder / "seeding_ablation" / "results.json").variants
    full, without = runs["full seeding"], runs["off-policy only"]

    def gap(name: str, **shown) -> Figure:
        return over_seeds(*([of[seed][name] for seed in full] for of in (full, without)), **shown)

    perplexity = gap("anchor_perplexity", unit="perplexity", form="+.2f")
    claims = [
        Claim("Student rollouts keep general texts likely", perplexity, is_higher=False),
        Claim("Student rollouts add right answers", gap("questions", scale=100, form="+.0f")),
    ]
    ours = f"{SMOLLM2}, seeds: {len(full)}; two nights; with rollouts less without"
    command = "python launch.py --sweep=configs/sweeps/seeding_ablation.py"
    return Section("On-policy distillation", claims, "seeding_ablation", ours, command)


def two_days(folder: pathlib.Path) -> Section:
    """What is left of day 1 once its level was cleared."""
    results = results_of("two_days", folder)
    right, of = results["right"], results["of"]
    _check_none_before(right["before sleep"]["day 1"])
    left = of_count(right["after night 2"]["day 1"], of)
    text = "What has climbed a level is known when the level below it is cleared"
    then = f"{right['after night 1']['day 1']} of {of} before it climbed"
    claims = [Claim(text, left, setting=then)]
    ours = f"{SMOLLM2}, one seed; two levels, a document a day, questions of day 1 after night 2"
    command = (
        "python launch.py --config=configs/levels_smollm2.py:2 --config.data.documents=samples:2 "
        "--config.data.episodes=2 --config.dreaming.steps=10"
    )
    return Section("Two days, two levels", claims, "two_days", ours, command)


def _check_none_before(count: int) -> None:
    if count:
        raise ValueError(f"{count} questions were right before: pair them, a share says too much")


def six_nights(folder: pathlib.Path) -> Section:
    """Six nights of a real model."""
    arms, figures = results_of("six_nights", folder), module_of("six_nights", "figures")
    stays = "General texts stay likely: their perplexity rises by at most 2 %"
    keeps = "Of what a day had after its own night at least 80 % is left after the last"
    command = "python experiments/six_nights/run.py --publish"
    claims, ours = [], f"{SMOLLM2}, two documents a day; "
    if arms is None:
        ours += "not run to the end yet"
        claims = [Claim(text, NOT_ENDED) for text in (FORGETS_LESS, keeps, stays)]
        return Section("Six nights", claims, "six_nights", ours, command)
    slept = {run["seed"]: run for run in arms["sleep"]}
    for arm, runs in arms.items():
        if arm != "sleep":
            ends = [
                [figures.summarise(x, "questions")["at the end"] for x in (slept[run["seed"]], run)]
                for run in runs
            ]
            figure = over_seeds(*zip(*ends), form="+.0f")
            claims.append(Claim(FORGETS_LESS, figure, setting=f"all days at the end, less {arm}"))
    if len(arms) == 1:
        claims.append(Claim(FORGETS_LESS, NOT_ENDED))
    kept = [figures.summarise(run, "questions")["of the former"] for run in slept.values()]
    figure = over_seeds(kept, [0.0] * len(kept), unit="%")
    claims.append(Claim(keeps, figure, against=80.0))
    rises = [100 * (run["anchors"][-1] / run["before"] - 1) for run in slept.values()]
    figure = over_seeds(rises, [0.0] * len(rises), unit="%")
    claims += [Claim(stays, figure, is_higher=False, against=2.0), *_followed(arms["sleep"])]
    return Section("Six nights", claims, "six_nights", f"{ours}seeds: {len(slept)}", command)


def twenty_nights(folder: pathlib.Path) -> Section:
    """Twenty nights of a real model, beside those that store no text."""
    figures = module_of("twenty_nights", "figures")
    arms = (results_of("twenty_nights", folder) or {}).get("facts")
    command = "python experiments/twenty_nights/run.py --publish"
    ours = f"{SMOLLM2}, a document of invented facts a day; "
    if arms is None:
        ours += "not run to the end yet"
        claims = [Claim(FORGETS_LESS, NOT_ENDED)]
        return Section("Twenty nights", claims, "twenty_nights", ours, command)
    claims, slept = [], arms[figures.SLEEP]
    for arm, runs in arms.items():
        if arm.startswith("lora") and len(runs) == len(slept):
            shares = [[figures.shares(run, "recall") for run in of] for of in (slept, runs)]
            figure = Figure(*figures.paired_interval(*shares), form="+.0f")
            setting = f"all documents at the end, less {arm}"
            claims.append(Claim(FORGETS_LESS, figure, setting=setting))
    claims += _followed(slept)
    return Section("Twenty nights", claims, "twenty_nights", f"{ours}seeds: {len(slept)}", command)


def _followed(runs: Sequence[dict]) -> list[Claim]:
    """What the nights cost in instructions; none where it was not measured."""
    measured = [run["capability"] for run in runs if "capability" in run]
    if not measured:
        return []
    times = ([x[when]["scores"]["instructions"] for x in measured] for when in ("after", "before"))
    items = measured[0]["after"]["items"]["instructions"]
    text = "Instructions are followed as before the first night: at most 1 point less"
    figure = over_seeds(*times, 100, form="+.0f")
    return [Claim(text, figure, against=-1.0, setting=f"{items} instructions")]


def long_horizon(folder: pathlib.Path) -> Section:
    """Twenty nights of a tiny decoder."""
    figures = module_of("long_horizon", "figures")
    runs = {
        arm: {run["seed"]: figures.summarise(run) for run in group}
        for arm, group in figures.by_arm(results_of("long_horizon", folder)).items()
    }

    def claim(text: str, arm: str, other: str, name: str) -> Claim:
        both = ([of[seed][name] for seed in runs[arm]] for of in (runs[arm], runs[other]))
        return Claim(text, over_seeds(*both, 100, form="+.0f"), setting=f"{arm} less {other}")

    asked = {
        "all": FORGETS_LESS,
        "oldest": "Sleep keeps the oldest five days better than fine-tuning",
        "anchors": "Sleep keeps what was known before better than fine-tuning",
    }
    arms = (
        ("commit_then_clear", "fine-tuning"),
        ("lasting", "fine-tuning"),
        ("lasting", "fine-tuning with replay"),
    )
    claims = [claim(text, *both, name) for both in arms for name, text in asked.items()]
    own, expansion = "commit_then_clear", "Expansion protects earlier nights"
    claims.append(claim(expansion, own, "one slot", "all"))
    teacher = "The teacher is the model before the pending update: the newest day after its night"
    claims.append(claim(teacher, "paper", own, "newest"))
    ours = (
        f"{TINY}, seeds: {len(runs[own])}; twenty nights; {own} is the protocol alone, with the "
        "teacher taken after the update; lasting has eight changes to the night"
    )
    command = "python experiments/long_horizon/run.py"
    title = "Twenty nights of a tiny decoder"
    return Section(title, claims, "long_horizon", ours, command)


def judges(folder: pathlib.Path) -> Section:
    """The default judge."""
    judge = results_of("judges", folder)["embedding"]
    area = Figure(judge["area"], *judge["interval"]["area"], "under ROC", ".2f")
    text = "A frozen reward model tells which texts say the same: area above 0.5"
    passes = f"passes {judge['true']:.0%} of those that do and {judge['false']:.0%} of the others"
    claims = [Claim(text, area, against=0.5, setting=f"{passes} at its threshold")]
    ours = "the default judge, all-MiniLM-L6-v2 and rules, on hand-written pairs of texts"
    return Section(
        "The semantic reward", claims, "judges", ours, "python experiments/judges/calibrate.py"
    )
