"""The morning after: closing tables for the terminal and the summary that `report.html` shows."""

import importlib.metadata
from typing import Any

from sleep_jax.inspect import record
from sleep_jax.phases.night import Night
from sleep_jax.runtime import report
from sleep_jax.runtime.headline import headline
from sleep_jax.runtime.progress import clock, say, table
from sleep_jax.sleeper import Sleeper

PACKAGES = ("sleep_jax", "jax", "flax", "optax", "orbax-checkpoint")


def summarise(sleeper: Sleeper, night: Night) -> dict[str, Any]:
    """The summary of a run; its keys are those of `runtime.report`."""
    columns = report.COLUMNS["phases"]
    return {
        "verdict": record.verdict(night.record),
        "scores": record.scores(night.record["days"][-1]),
        "recall": record.recall(night.record),
        "phases": [{name: row[name] for name in columns} for row in record.timeline(night.record)],
        "samples": samples(sleeper, night),
        "documents": [document.title for document in sleeper.documents],
        "notes": notes(sleeper),
        "config": sleeper.config.to_dict(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def notes(sleeper: Sleeper) -> list[str]:
    """How the figures were taken."""
    asked = [q for q in sleeper.days[-1].questions if not q.is_paraphrase]
    if not asked:
        return [
            "These documents came without questions: the ones shown are the model's own, written "
            "with the document in view and left out of training."
        ]
    documents = len(sleeper.days[-1].documents)
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


def samples(sleeper: Sleeper, night: Night) -> list[dict[str, Any]]:
    """Some questions of the last day with the model's words before and after, one a document, those
    it learnt first."""
    chosen: dict[str, dict[str, Any]] = {}
    for row in record.samples(night.record["days"][-1]):
        chosen.setdefault(row["document"], row)
    return list(chosen.values())[: sleeper.config.evaluation.samples]


def retention(score: dict[str, Any]) -> list[str]:
    """The anchor cells of a row; empty where the stage has none."""
    names = ("anchor_perplexity", "chat_perplexity")
    return [f"{score[name]:.2f}" if name in score else "" for name in names]


def show(summary: dict[str, Any]) -> None:
    """Prints the verdict and the closing tables."""
    say("", headline(summary["scores"], summary["verdict"]), "")
    scored = [s for s in summary["scores"] if "questions" in s]
    if scored:
        table(
            "Answers right without the document in context",
            ("", "questions", "by chance", "held-out wordings", "anchor perplexity", "of chats"),
            [
                (
                    record.title_of(s["stage"]),
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
    table(
        "Phases",
        ("phase", "tokens", "time", "tokens/s", "programs", "GiB", "detail"),
        [
            (
                p["phase"],
                p["tokens"],
                clock(p["seconds"]),
                p["tokens_per_second"],
                p["programs"],
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
