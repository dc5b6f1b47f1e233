"""The model card of an export: what was read, the settings, what was measured."""

import importlib.metadata
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from sleep_jax import config
from sleep_jax.continuation import known_run
from sleep_jax.export.run_model import RunModel
from sleep_jax.export.verify import Verification
from sleep_jax.interop.packaged import PACKAGED
from sleep_jax.report import run_record
from sleep_jax.report.headline import headline
from sleep_jax.runtime.workdir import flat_config

_HUB = r"[\w-][\w.-]*/[\w.-]+"
LIBRARIES = {"hf": "transformers", "gguf": "gguf", "delta": "sleep_jax", "peft": "peft"}
_CHECKS, _SETTINGS = "## This export", "## Settings"
_UNVERIFIED, _REFUSED = "- It was not verified.", "- It was refused:"
_PERCENT = ("questions", "chance", "paraphrases")


def card(
    model: RunModel, to: str, how_to_use: str, facts: Sequence[str], checked: Verification | None
) -> str:
    """The README.md of an export.

    Args:
      model: the run.
      to: the format, a key of `LIBRARIES`.
      how_to_use: an example, as Markdown code.
      facts: what is to be said of the files, a line each.
      checked: how it was compared with the run; None: it was not.
    """
    record, settings = model.checkpoint.record["run"], model.base.settings
    nights = len([x for x in record["phases"] if x.startswith("consolidate")])
    is_merged = to == "hf" and settings.memory.expert == "lora"
    name = settings.model.name.rstrip("/").rpartition("/")[2]
    lines = ["---", *_front_matter(settings.model.name, to), "---", "", f"# {name}, having slept"]
    lines += [
        "",
        f"{name} read the documents below and consolidated them in {nights} "
        f"night{'s' if nights > 1 else ''} into memory slots, by [Knowledge Seeding and "
        "dreaming](https://arxiv.org/abs/2606.03979), with sleep_jax "
        f"{importlib.metadata.version('sleep_jax')}. The weights of the base are "
        f"{'the sum of what they were and of the slots' if is_merged else 'unchanged'}.",
        "",
        *facts,
        "",
        how_to_use,
        "",
        "## What was read",
        "",
        *(f"- Day {i}: {'; '.join(titles)}" for i, titles in enumerate(titles_by_day(model), 1)),
        "",
        "## Measured",
        "",
        *_measured(record),
        "",
        _CHECKS,
        "",
        *([f"- {line}" for line in checked.lines()] if checked else [_UNVERIFIED]),
        *([f"{_REFUSED} {'; '.join(checked.problems)}."] if checked and checked.problems else []),
        "",
        _SETTINGS,
        "",
        "Those that differ from the defaults of sleep_jax:",
        "",
        *(f"- `{change}`" for change in _settings(model.checkpoint.record["config"])),
    ]
    return "\n".join(lines) + "\n"


def without_checks(text: str) -> str:
    """A card without what it says of its comparison with the run: the same for the same export."""
    before, _, rest = text.partition(_CHECKS)
    return before + rest.partition(_SETTINGS)[2]


def is_verified(text: str) -> bool:
    """Whether a card says that its export was compared with the run, and accepted."""
    return not any(line.startswith((_UNVERIFIED, _REFUSED)) for line in text.splitlines())


def base_name(name: str) -> str:
    """The name of a base on the Hub; of one that is not there, `model.name` as it is."""
    return next((x.hub for x in PACKAGED if name in (x.name, x.hub)), name)


def _front_matter(name: str, to: str) -> list[str]:
    hub = base_name(name)
    is_hub = re.fullmatch(_HUB, hub) and not pathlib.Path(hub).exists()
    base = [f"base_model: {hub}"] if is_hub else []
    return [*base, f"library_name: {LIBRARIES[to]}", "tags:", "- sleep_jax"]


def titles_by_day(model: RunModel) -> list[list[str]]:
    """The titles of the documents of each day that is over; where the run did not keep its
    documents and they are not there as they were, of those that questions were asked about."""
    days = model.checkpoint.record["run"]["days"]
    titles = [[asked["document"] for asked in day.get("asked", ())] for day in days]
    try:
        known = known_run(model.run.workdir).days
    except (OSError, ValueError):
        known = ()
    if len(known) >= len(days):
        titles = [[document.title for document in day.documents] for day in known[: len(days)]]
    return [[*dict.fromkeys(day)] for day in titles]


def _measured(record: Mapping[str, Any]) -> list[str]:
    """The scores of the last day that was evaluated, and recall by day."""
    days = [rows for day in record["days"] if (rows := run_record.scores(day))]
    if not days:
        return ["Nothing yet: its last night has not been evaluated."]
    scores = days[-1]
    lines = [headline(scores, run_record.verdict(record)), ""]
    names = [x for x in (*_PERCENT, "anchor_perplexity") if any(x in row for row in scores)]
    lines += _table(
        ["", *(x.replace("_", " ") for x in names)],
        [[run_record.title_of(x["stage"]), *(_cell(x, y) for y in names)] for x in scores],
    )
    if nights := run_record.recall(record):
        shares = [[f"{100 * x:.0f} %" for x in row] for row in nights]
        lines += ["", "Questions about each day answered right after each night:", ""]
        lines += _by_night(shares)
    if nights := run_record.kept(record):
        lines += ["", "Own questions answered without the documents, of those right with them:", ""]
        lines += _by_night(nights)
    return lines


def _cell(row: Mapping[str, Any], name: str) -> str:
    if row.get(name) is None:
        return ""
    return f"{100 * row[name]:.0f} %" if name in _PERCENT else f"{row[name]:.2f}"


def _by_night(nights: Sequence[Sequence[str]]) -> list[str]:
    columns = ["after night", *(f"day {i + 1}" for i in range(len(nights)))]
    rows = [[str(i + 1), *row, *[""] * (len(nights) - len(row))] for i, row in enumerate(nights)]
    return _table(columns, rows)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [columns, ["---"] * len(columns), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def _settings(recorded: Mapping[str, Any]) -> list[str]:
    defaults = flat_config(config.default().to_dict())
    given = flat_config(recorded)
    return [f"{name} = {x}" for name, x in given.items() if defaults.get(name) != x]
