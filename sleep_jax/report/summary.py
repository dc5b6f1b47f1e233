"""The summary of a run, which `html_report` shows, and its tables for the terminal."""

import importlib.metadata
from typing import Any

from sleep_jax.experiment import Experiment
from sleep_jax.phases.run_state import RunState
from sleep_jax.report import html_report, run_record
from sleep_jax.report.headline import headline
from sleep_jax.runtime.progress import clock, say, table
from sleep_jax.runtime.workdir import FREE, GIVEN, config_difference

MOST_TITLES = 4  # of a day, in the table of days
PACKAGES = ("sleep_jax", "jax", "flax", "optax", "orbax-checkpoint")


def summarise(experiment: Experiment, run: RunState) -> dict[str, Any]:
    """The summary of a run, with the parts that `html_report` describes."""
    columns = html_report.COLUMNS["phases"]
    return {
        "verdict": run_record.verdict_now(run.record),
        "scores": run_record.scores(run.record["days"][-1]),
        "recall": run_record.recall(run.record),
        "kept": run_record.kept(run.record),
        "tasks": run_record.tasks(run.record),
        "phases": [
            {name: row[name] for name in columns} for row in run_record.timeline(run.record)
        ],
        "samples": samples(experiment, run),
        "days": days(experiment, run),
        "documents": [document.title for document in experiment.documents],
        "notes": notes(experiment),
        "config": experiment.config.to_dict(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def days(experiment: Experiment, run: RunState) -> list[dict[str, Any]]:
    """The days of a run of several: what was read, what became of the night, and the settings that
    are not those of the night before.
    """
    verdicts, rows = run_record.verdicts(run.record), []
    for number, day in enumerate(experiment.days, 1):
        titles = [document.title for document in day.documents]
        more = f" and {len(titles) - MOST_TITLES} more" if len(titles) > MOST_TITLES else ""
        night = verdicts[number - 1] if number <= len(verdicts) else ""
        forgotten = "; forgotten since" if run.is_forgotten(number - 1) else ""
        changes = settings_changed(experiment, number - 1)
        rows.append(
            {
                "day": number,
                "documents": f"{', '.join(titles[:MOST_TITLES])}{more}",
                "night": f"{night}{forgotten}",
                "settings": "; ".join(changes),
            }
        )
    return rows if len(rows) > 1 else []


def settings_changed(experiment: Experiment, day: int) -> list[str]:
    """The settings of the night of a day that the night before it had otherwise, as `name: old ->
    new`, without those that change no result or say what is read.
    """
    if not day:
        return []
    old, new = (
        (x.config or experiment.config).to_dict() for x in experiment.days[day - 1 : day + 1]
    )
    return [x for x in config_difference(old, new) if not x.startswith((*FREE, *GIVEN))]


def notes(experiment: Experiment) -> list[str]:
    """Notes on how the scores were measured."""
    asked = [q for q in experiment.days[-1].questions if not q.is_paraphrase]
    if not asked:
        return [
            "These documents came without questions: the ones shown are the model's own, written "
            "with the document in view and left out of training."
        ]
    documents = len(experiment.days[-1].documents)
    return [
        f"{len(asked)} questions about {documents} documents, each also in a held-out wording; "
        "neither was trained on. A reply is right if it contains the short answer or one of its "
        "listed forms. Replies are greedy, the question is the whole user turn.",
        "By chance: the share right if every reply is held against the other questions about its "
        "document.",
        "Ceiling: the model before sleep with the document in its context, asked 'Using the text "
        "above, answer the question: ...'.",
        "Anchor perplexity: per token, over general texts and over general question-answer chats "
        "that were not trained on; it should stay where it was.",
    ]


def samples(experiment: Experiment, run: RunState) -> list[dict[str, Any]]:
    """Questions of the last day with the replies before and after the night, one for each document,
    learnt ones first.
    """
    chosen: dict[str, dict[str, Any]] = {}
    for row in run_record.samples(run.record["days"][-1]):
        chosen.setdefault(row["document"], row)
    return list(chosen.values())[: experiment.config.evaluation.report_samples]


def retention(score: dict[str, Any]) -> list[str]:
    """The anchor cells of a row; "" where a stage has none."""
    names = ("anchor_perplexity", "chat_perplexity")
    return [f"{score[name]:.2f}" if name in score else "" for name in names]


def show_summary(summary: dict[str, Any]) -> None:
    """Prints the verdict and the closing tables."""
    say("", headline(summary["scores"], summary["verdict"]), "")
    scored = [s for s in summary["scores"] if "questions" in s]
    if scored:
        table(
            "Answers right without the document in context",
            ("", "questions", "by chance", "held-out wordings", "anchor perplexity", "of chats"),
            [
                (
                    run_record.title_of(s["stage"]),
                    *(
                        f"{100 * s[k]:.0f} %" if k in s else ""
                        for k in ("questions", "chance", "paraphrases")
                    ),
                    *retention(s),
                )
                for s in scored
            ],
        )
    else:
        table(
            "Retention",
            ("", "anchor perplexity", "of chats"),
            [(s["stage"], *retention(s)) for s in summary["scores"] if "anchor_perplexity" in s],
        )
    if nights := summary["recall"]:
        table(
            "Questions about each day answered right after each night",
            ("after night", *(f"day {i + 1}" for i in range(len(nights)))),
            [
                (
                    str(i + 1),
                    *(f"{100 * share:.0f} %" for share in row),
                    *[""] * (len(nights) - len(row)),
                )
                for i, row in enumerate(nights)
            ],
        )
    if nights := summary["kept"]:
        table(*run_record.kept_table(nights))
    if rows := summary.get("tasks"):
        table(*run_record.tasks_table(rows))
    if summary.get("days"):
        rows = [[*row.values()] for row in summary["days"]]
        table("Days", ("day", "documents", "night", "settings changed"), rows)
    table(
        "Phases",
        ("phase", "tokens", "time", "tokens/s", "programs", "compiled", "GiB", "detail"),
        [
            (
                p["phase"],
                p["tokens"],
                clock(p["seconds"]),
                p["tokens_per_second"],
                p["programs"],
                p["compiled"],
                p["memory"],
                p["detail"],
            )
            for p in summary["phases"]
        ],
    )
    for s in summary["samples"]:
        table(
            s["question"],
            ("", s["document"]),
            [("answer", s["answer"]), ("before sleep", s["before"]), ("after sleep", s["after"])],
        )
