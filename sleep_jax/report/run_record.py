"""Reads the record of a run: its phases, answers, and recall by day.

The record is the JSON in every checkpoint (`phases.run_state.RunState.record`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sleep_jax.evals.kept import KeptAnswers
from sleep_jax.evals.metrics import contains_answer
from sleep_jax.fields import Fields, as_object
from sleep_jax.phases.day_slots import text_of
from sleep_jax.phases.hours import FORGET, ends_day, hour_of
from sleep_jax.runtime.progress import figure

COSTS = ("tokens", "seconds", "programs", "compiled", "memory")  # of a phase


def checked(facts: Any, where: str) -> dict[str, Any]:
    """The JSON of a checkpoint, {phase, record}, with the types of all that is read here checked.

    Args:
      facts: the parsed JSON.
      where: name of its file in errors.

    Raises:
      ValueError: a field is missing or of another type.
    """
    read = as_object(facts, where)
    read.text("phase")
    record = read.section("record")
    record.section("config")
    base = record.section("base", None)
    for model in map(base.section, base):
        model.text("name"), model.text("weights")
    run = record.section("run")
    phases = run.section("phases")
    for phase in map(phases.section, phases):
        _check_figures(phase)
        for cost in COSTS:
            phase.number(cost, 0, 1e18, None)
    for day in run.objects("days"):
        _check_day(day)
    return dict(read)


def _check_day(day: Fields) -> None:
    """Checks the parts of a day that `samples`, `scores`, `recall` and `kept` read."""
    stages = day.section("scores", None)
    for row in (*map(stages.section, stages), *day.objects("recall", [])):
        _check_figures(row)
        for share in ("questions", "paraphrases", "chance"):
            row.number(share, 0, 1, None)
    for kept in day.objects("kept_answers", []):
        asked = kept.whole("asked")
        kept.whole("right", most=kept.whole("open_book", most=asked))
    for task in day.objects("tasks", []):
        _check_figures(task)
        task.text("task"), task.text("metric"), task.whole("items"), task.flag("is_higher_better")
    if "asked" not in day:
        return
    day.section("scores")
    asked, replies = day.objects("asked"), day.section("replies")
    for question in asked:
        question.text("document"), question.text("question")
        if not question.texts("answers"):
            question.refuse("answers", "at least one accepted answer")
    if not any("context" not in stage for stage in replies):
        day.refuse("replies", "those of a stage without context")
    for stage in replies:
        if len(replies.texts(stage)) != len(asked):
            replies.refuse(stage, f"a reply to each of {len(asked)} questions")


def _check_figures(read: Fields) -> None:
    """Checks facts that tables show: each is a number, a text, true, false or null."""
    for name, value in read.items():
        if isinstance(value, str):
            read.text(name)
        elif type(value) is int:
            read.whole(name, -(2**63), 2**63)
        elif not isinstance(value, bool | float | None):
            read.refuse(name, "a number, a text, true, false or null")


def timeline(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The finished phases in order: {index, phase, day (from 1), hour, tokens, seconds,
    tokens_per_second, programs, compiled (of them, those that were not kept), memory (GiB at most
    until then), detail}.

    Args:
      record: of a night.
    """
    rows, day = [], 1
    for index, (label, facts) in enumerate(record["phases"].items()):
        is_afterwards = label.partition("-")[0] == FORGET
        rows.append({"index": index, "phase": label, "day": day - is_afterwards})
        rows[-1]["hour"] = hour_of(label)
        rows[-1] |= {name: facts.get(name) for name in COSTS} | {"tokens_per_second": _pace(facts)}
        rows[-1]["detail"] = detail(facts)
        day += ends_day(label)
    return rows


def _pace(facts: Mapping[str, Any]) -> float | None:
    """Tokens a second of a phase; None without tokens."""
    is_timed = facts.get("tokens") and facts.get("seconds")
    return facts["tokens"] / facts["seconds"] if is_timed else None


def detail(facts: Mapping[str, Any]) -> str:
    """The facts of a phase without its costs, e.g. `kl before 1.88, kl after 0.11`."""
    others = {name: x for name, x in facts.items() if name not in COSTS}
    return ", ".join(f"{name.replace('_', ' ')} {figure(x)}" for name, x in others.items())


def recall(record: Mapping[str, Any]) -> list[list[float]]:
    """Share of each day's questions answered right after each night, [nights][days so far]; empty
    for a single day or without questions.
    """
    days = [[row.get("questions") for row in day.get("recall", [])] for day in record["days"]]
    days = [day for day in days if day]
    return days if len(days) > 1 and all(None not in day for day in days) else []


def kept(record: Mapping[str, Any]) -> list[list[str]]:
    """Own questions about each day answered right after each night, of those that were right with
    the book open, e.g. `4 of 5`: [nights][days so far], "" for a day without questions; empty
    before the first night that asks some.
    """
    nights = [[f"{x}" if x.asked else "" for x in _kept(day)] for day in record["days"]]
    return nights if any(map(any, nights)) else []


def kept_table(
    nights: Sequence[Sequence[str]],
) -> tuple[str, Sequence[str], list[Sequence[str]]]:
    """(title, columns, rows) of `kept`."""
    columns = ("after night", *(f"day {i + 1}" for i in range(len(nights))))
    rows = [(str(i + 1), *row, *[""] * (len(nights) - len(row))) for i, row in enumerate(nights)]
    return "Own questions right without the documents, of those right with them", columns, rows


def tasks(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Scores of tasks before and after each night: {night (from 1), task, metric, before, after,
    stderr (after), items}."""
    return [
        {
            "night": night,
            "task": row["task"],
            "metric": metric_title(row["metric"], row["is_higher_better"]),
            **{name: row.get(name) for name in ("before", "after", "stderr", "items")},
        }
        for night, day in enumerate(record["days"], 1)
        for row in day.get("tasks", [])
    ]


def metric_title(metric: str, is_higher_better: bool) -> str:
    """Name of a metric in tables."""
    return metric if is_higher_better else f"{metric} (less is better)"


def tasks_table(
    rows: Sequence[Mapping[str, Any]],
) -> tuple[str, Sequence[str], list[Sequence[Any]]]:
    """(title, columns, rows) of `tasks`."""
    return "Tasks before and after each night", [*rows[0]], [[*row.values()] for row in rows]


def _kept(day: Mapping[str, Any]) -> list[KeptAnswers]:
    return [*map(KeptAnswers.from_record, day.get("kept_answers", []))]


def samples(day: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The questions asked after a day's night, with the replies before and after it.

    Args:
      day: of the record.

    Returns:
      {document, question, answer, before, after}, and with scores also {before_right,
      after_right}; questions that were learnt come first. Empty before the day's evaluation.
    """
    if "asked" not in day:
        return []
    before, after = (day["replies"][stage] for stage in _first_and_last(day["replies"]))
    has_scores = any("questions" in score for score in day["scores"].values())
    rows = []
    for question, reply_before, reply_after in zip(day["asked"], before, after):
        answers = question["answers"]
        row = {
            "document": question["document"],
            "question": question["question"],
            "answer": answers[0],
            "before": reply_before,
            "after": reply_after,
        }
        if has_scores:
            row["before_right"] = contains_answer(reply_before, answers)
            row["after_right"] = contains_answer(reply_after, answers)
        rows.append(row)
    # The sort is stable: the order of the documents stays.
    return sorted(rows, key=lambda r: r.get("before_right", False) - r.get("after_right", False))


def scores(day: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The stages of a day's evaluation: {stage, questions, paraphrases, anchor_perplexity, ...}."""
    return [{"stage": stage, **score} for stage, score in (day.get("scores") or {}).items()]


def verdict(record: Mapping[str, Any]) -> str:
    """Outcome of the last complete night, as of `verdicts`; "" before the first one."""
    return next((outcome for outcome in reversed(verdicts(record)) if outcome), "")


def verdicts(record: Mapping[str, Any]) -> list[str]:
    """Outcome of the night of each day that was begun: `kept`, or `rolled back: ...` or `skipped:
    ...` with the reason; `kept, but for its dreams: ...` if only the dreams were rolled back; ""
    where there was none yet. A night of several consolidations has the outcome of the last, that of
    the context.
    """
    outcomes, is_over = [], True
    for label, facts in record["phases"].items():
        kind = label.partition("-")[0]
        if kind == FORGET:
            continue
        if is_over:
            outcomes.append("")
        is_over = ends_day(label)
        if kind == "consolidate":
            outcomes[-1] = _outcome(facts) or "kept"
        elif kind == "learn" and outcomes[-1] == "kept" and "rolled_back" in facts:
            outcomes[-1] = f"kept, but for its dreams: {facts['rolled_back']}"
    return outcomes


def verdict_now(record: Mapping[str, Any]) -> str:
    """The verdict, and which days were forgotten since."""
    forgotten = [i for i, day in enumerate(record["days"]) if "forgotten" in day]
    if not forgotten:
        return verdict(record)
    days = (
        f"days {text_of(forgotten)} were" if len(forgotten) > 1 else f"day {forgotten[0] + 1} was"
    )
    return f"{verdict(record)}; {days} forgotten since"


def _outcome(facts: Mapping[str, Any]) -> str:
    named = {"rolled_back": "rolled back", "skipped": "skipped"}
    return "".join(f"{words}: {facts[name]}" for name, words in named.items() if name in facts)


def title_of(stage: str) -> str:
    """Name of a stage in tables: open book is the ceiling, not a result of the night."""
    return f"{stage} (the ceiling)" if "context" in stage else stage


def _first_and_last(stages: Sequence[str]) -> tuple[str, str]:
    """The closed-book stages before and after the night."""
    closed = [stage for stage in stages if "context" not in stage]
    return closed[0], closed[-1]
