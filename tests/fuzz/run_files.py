"""The files of a run, as inspection, reports and comparisons read them."""

import hashlib
import json
import pathlib

from formats import Format
from mutations import change_json, change_lines

from sleep_jax.inspect import tables
from sleep_jax.inspect.run import Run
from sleep_jax.phases.evaluate import STAGES
from sleep_jax.report import comparison, figures, html_report, run_record
from sleep_jax.runtime.checkpoints import DIGESTS, damage
from sleep_jax.runtime.progress import figure, printable

REPLIES = {stage: ["Odrin did.", "In Velmora."] for stage in STAGES}
ASKED = [
    {"document": "The lighthouse", "question": "Who built it?", "answers": ["Odrin", "O."]},
    {"document": "The lighthouse", "question": "Where?", "answers": ["Velmora"]},
]
SCORES = {
    stage: {"questions": 0.5, "paraphrases": 0.5, "anchor_perplexity": 20.5} for stage in STAGES
}
DAYS = [
    {"asked": ASKED, "replies": REPLIES, "scores": SCORES, "recall": [{"questions": 1.0}] * day}
    for day in (1, 2)
]  # fmt: skip
PHASES = {
    "wake": {"tokens": 120, "seconds": 2.0, "surprise": 3.5, "programs": 3, "memory": 1.5},
    "consolidate": {
        "levels": "0 -> 1",
        "tokens": 40,
        "seconds": 9.0,
        "kl_after": 0.25,
        "accepted": True,
    },
    "evaluate": {"tokens": 0, "seconds": 1.0},
    "wake-2": {"tokens": 120, "seconds": 2.0},
    "evaluate-2": {"tokens": 0, "seconds": 1.0, "skipped": "level 1 is full"},
}
FACTS = {
    "phase": "evaluate-2",
    "record": {
        "config": {"seed": 0, "seeding": {"steps": 3}, "model": {"name": "tiny"}},
        "base": {"model": {"name": "tiny", "weights": "0123456789abcdef"}},
        "run": {"phases": PHASES, "days": DAYS},
    },
}
METADATA = {
    "tree_metadata": {
        f"('current', '{name}')": {
            "key_metadata": [{"key": "current", "key_type": 2}, {"key": name, "key_type": 2}],
            "value_metadata": {"value_type": "jax.Array", "skip_deserialize": name == "none"},
        }
        for name in ("memory", "slots", "none")
    },
    "use_zarr3": False,
    "store_array_data_equal_to_fill_value": True,
}


def _line(phase: str, step: int, **values) -> dict:
    return {"phase": phase, "step": step, "time": 1.7e9 + step, **values}


METRICS = [
    *(_line("consolidate", i, kl=2.0 - i / 4, reward=i / 8, loss="inf") for i in range(4)),
    _line("consolidate", 4, held_out_kl_before=2.0, held_out_kl_after=0.5, accepted=1.0),
    _line("consolidate", 5, sample="Odrin built it.", importances=[0.5, "nan", 1.0]),
    _line("try", 0, importance=0.5, reward=1.0),
    *(
        _line("evaluate", i, questions=0.5, anchor_perplexity=20.5, chat_perplexity=9.5)
        for i in range(len(STAGES))
    ),
    _line("evaluate", len(STAGES), day_1_questions=0.5, day_1_paraphrases=0.25),
]
_RECORD = "checkpoints/4/record/metadata"
_STATE = "checkpoints/4/state/_METADATA"
_DIGESTS = f"checkpoints/4/{DIGESTS}"


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


FILES = {
    _RECORD: json.dumps(FACTS).encode(),
    _STATE: json.dumps(METADATA).encode(),
    "metrics.jsonl": "".join(json.dumps(x) + "\n" for x in METRICS).encode(),
}
FILES[_DIGESTS] = json.dumps(
    {name: _sha(FILES[f"checkpoints/4/{name}"]) for name in ("record/metadata", "state/_METADATA")}
).encode()


def _read_record(folder: pathlib.Path) -> None:
    run = Run(folder)
    run.state()
    facts, base, config = run.record, run.base, run.config
    rows = [row | {"slots": {}} for row in run_record.timeline(facts)]
    scores = {"stages": run.scores(), "recall": run_record.recall(facts)}
    shown = [*tables.timeline(rows), *tables.scores(scores), *tables.samples(run.samples())]
    shown += [*tables.config(config), ("base", ("name",), [(x["name"],) for x in base.values()])]
    for title, columns, lines in shown:
        cells = [title, *columns, *(cell for line in lines for cell in line)]
        words = [printable(x) if isinstance(x, str) else figure(x) for x in cells]
        "".join(words).encode("utf-8")
    json.dumps(facts)
    html_report.headline([dict.fromkeys(("questions",)) | row for row in scores["stages"]])


def _read_state(folder: pathlib.Path) -> None:
    ".".join(Run(folder).latest._names).encode("utf-8")


def _read_digests(folder: pathlib.Path) -> None:
    for is_thorough in (False, True):
        problem = damage(folder / "checkpoints" / "4", is_thorough=is_thorough)
        (problem or "").encode("utf-8")
    if problem is None:  # then the hash of every file is right
        sealed = json.loads((folder / _DIGESTS).read_bytes())
        hashes = {name: _sha((folder / "checkpoints/4" / name).read_bytes()) for name in sealed}
        assert sealed and hashes == sealed
    assert len(Run(folder).problems) == bool(
        damage(folder / "checkpoints" / "4", is_thorough=False)
    )


def _read_metrics(folder: pathlib.Path) -> None:
    run = Run(folder)
    for rows in tables.curves(run.curves()):
        assert rows
    figures._series("kl", figures._of_phase("consolidate", run.metrics))
    comparison.nights(folder)
    comparison.at_the_start(folder)
    comparison.at_the_end(folder)


def _format(name: str, file: str, change, read) -> Format:
    return Format(name, file, [FILES[file]], change, read, FILES)


FORMATS = (
    _format("checkpoint record", _RECORD, change_json, _read_record),
    _format("checkpoint state", _STATE, change_json, _read_state),
    _format("digests.json", _DIGESTS, change_json, _read_digests),
    _format("metrics.jsonl", "metrics.jsonl", change_lines, _read_metrics),
)
