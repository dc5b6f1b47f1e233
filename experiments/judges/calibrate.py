"""Scores every judge on the labelled probe, finds the thresholds, and says what passes.

    python experiments/judges/calibrate.py [--model SmolLM2-135M-Instruct] [--workdir runs/judges]

Thresholds come from the calibration half, all figures from the test half. Writes results.json and
the ROC figure into the workdir; with --publish beside this file, where it rewrites the tables of
the README as well. With --judges cosine,agreement only these are measured; the rest stays as in
results.json.
"""

import argparse
import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from roc import area, draw, rates

from sleep_jax.interop.load import load_model
from sleep_jax.interop.resolve import resolve
from sleep_jax.models.encoder import load_encoder
from sleep_jax.report.publish import publish
from sleep_jax.rewards.agreement import agreement
from sleep_jax.rewards.calibration import choose_threshold, read_probe, score_pairs
from sleep_jax.rewards.judge import is_exact, rule_judge
from sleep_jax.rewards.semantic import CosineScore, GatedScore
from sleep_jax.rewards.yes_no import YesNoScore

HERE = pathlib.Path(__file__).parent
MARKS = ("<!-- tables: written by calibrate.py -->", "<!-- end of tables -->")
RULES = ("agreement", "exact")  # scores of 0 or 1: nothing to calibrate
RESAMPLES = 2000


def yes_no(model: str) -> YesNoScore:
    """The judge that asks a model."""
    cfg, params, tokenizer = load_model(model, dtype="bfloat16")
    return YesNoScore(cfg, jax.tree.map(jnp.asarray, params), tokenizer)


def judges(model: str) -> dict:
    """Functions that make each judge's score, by name."""
    cosine = functools.cache(lambda: CosineScore(load_encoder(resolve("all-MiniLM-L6-v2"))))
    return {
        "embedding": lambda: GatedScore(cosine()),
        "cosine": cosine,
        "agreement": lambda: rule_judge(agreement).score,
        "exact": lambda: rule_judge(is_exact).score,
        "model": lambda: yes_no(model),
    }


def interval(measure, scores: np.ndarray, same: np.ndarray) -> list[float]:
    """95 % bootstrap interval of a measure; pairs are resampled within each label."""
    rng = np.random.default_rng(0)
    labels = [np.flatnonzero(same == label) for label in (True, False)]
    drawn = []
    for _ in range(RESAMPLES):
        chosen = np.concatenate([rng.choice(rows, len(rows)) for rows in labels if len(rows)])
        drawn.append(measure(scores[chosen], same[chosen]))
    return np.percentile(drawn, (2.5, 97.5)).tolist()


def measure(name: str, score, halves) -> dict:
    """The figures of one judge.

    Returns:
      `threshold`; `true` and `false`, the true and false positive rates, and `area` with
      `interval`s, on the test half; `calibration`, the same two rates on the other half; `kinds`:
      pairs accepted and in all of each kind, and for kinds that differ the area against all pairs
      that say the same; `scores`, of the test half.
    """
    scores, same = score_pairs(score, halves[0])
    threshold = 0.5 if name in RULES else round(choose_threshold(scores, same), 3)
    calibration = [float(rate) for rate in rates(scores, same, threshold)]

    scores, same = score_pairs(score, halves[1])
    measures = {
        "true": lambda s, l: rates(s, l, threshold)[0],
        "false": lambda s, l: rates(s, l, threshold)[1],
        "area": area,
    }
    out = {key: float(f(scores, same)) for key, f in measures.items()}
    out["interval"] = {key: interval(f, scores, same) for key, f in measures.items()}
    kinds = np.array([pair.kind for pair in halves[1]])
    out["kinds"] = {}
    for kind in dict.fromkeys(kinds):
        chosen = scores[kinds == kind] >= threshold
        row = {"passed": int(chosen.sum()), "of": len(chosen)}
        row["interval"] = interval(lambda s, _: np.mean(s >= threshold), scores[kinds == kind],
                                   same[kinds == kind])  # fmt: skip
        if not same[kinds == kind].any():
            rows = same | (kinds == kind)
            row["area"] = area(scores[rows], same[rows])
        out["kinds"][str(kind)] = row
    finite = [float(s) if np.isfinite(s) else None for s in scores]
    return {"threshold": threshold, "calibration": calibration, **out, "scores": finite}


def tables(results: dict, halves) -> str:
    """Two Markdown tables: all judges on the test half, and what passes of each kind."""
    alike = sum(pair.same for pair in halves[1])
    lines = [
        f"| judge | threshold | passes of {alike} that say the same | passes of "
        f"{len(halves[1]) - alike} that do not | area under ROC | (calibration half) |",
        "|---" * 6 + "|",
    ]
    for name, row in results.items():
        cells = ["" if name in RULES else f"{row['threshold']:.3f}"]
        for key in ("true", "false"):
            low, high = row["interval"][key]
            cells.append(f"{100 * row[key]:.0f} % ({100 * low:.0f}-{100 * high:.0f})")
        low, high = row["interval"]["area"]
        cells.append(f"{row['area']:.2f} ({low:.2f}-{high:.2f})")
        cells.append(" / ".join(f"{100 * rate:.0f} %" for rate in row["calibration"]))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", "| kind | " + " | ".join(results) + " |", "|---" * (len(results) + 1) + "|"]
    kinds = {pair.kind: pair.same for pair in halves[1]}
    for kind, is_same in kinds.items():
        rows = [row["kinds"][kind] for row in results.values()]
        cells = [f"{row['passed']}/{row['of']}" for row in rows]
        for i, (name, row) in enumerate(zip(results, rows)):
            if not is_same and name in ("cosine", "model"):
                cells[i] += f" ({row['area']:.2f})"
        lines.append(f"| {kind}{' (same)' if is_same else ''} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measures, draws, prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="SmolLM2-135M-Instruct", help="the yes/no judge")
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/judges"))
    parser.add_argument("--judges", default="", help="judges to measure, with commas; all")
    parser.add_argument("--publish", action="store_true")
    arguments = parser.parse_args()
    halves, makers = read_probe(), judges(arguments.model)
    folder = HERE if arguments.publish else arguments.workdir
    folder.mkdir(parents=True, exist_ok=True)
    chosen = arguments.judges.split(",") if arguments.judges else list(makers)
    results = {}
    if set(chosen) < set(makers):
        results = json.loads((folder / "results.json").read_text())
    for name in chosen:
        results[name] = measure(name, makers[name](), halves)
    text = tables(results, halves)
    (folder / "results.json").write_text(json.dumps(results, indent=1))
    draw(results, halves[1], folder / "roc")
    if arguments.publish:
        publish(HERE / "README.md", MARKS, text)
    print(text)


if __name__ == "__main__":
    main()
