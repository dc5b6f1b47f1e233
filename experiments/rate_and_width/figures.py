"""The results of all nights: what is left of the divergence by rate, and the README's table."""

import json
import math
import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from sleep_jax.report.publish import publish, save_figure

README = pathlib.Path(__file__).with_name("README.md")
MARKS = ("<!-- table: written by run.py -->", "<!-- end of table -->")


def left(night: dict) -> float:
    """What a night leaves of the divergence, as a share."""
    return night["kl_after"] / night["kl_before"]


def by_decoder(nights: list[dict]) -> dict[tuple[int, int], list[dict]]:
    """The nights of each width and rank, in order."""
    keys = sorted({(x["width"], x["rank"]) for x in nights})
    return {key: [x for x in nights if (x["width"], x["rank"]) == key] for key in keys}


def curve(nights: list[dict]) -> tuple[list[float], list[float]]:
    """(factors of the automatic rate, geometric mean over seeds of what is left at each)."""
    factors = sorted({x["factor"] for x in nights})
    means = [
        np.exp(np.mean([math.log(left(x)) for x in nights if x["factor"] == f])) for f in factors
    ]
    return factors, means


def table(nights: list[dict]) -> str:
    """A row for each width and rank, means over seeds, as Markdown."""
    titles = (
        "width", "rank", "seeds", "automatic rate", "divergence left at it", "best rate tried",
        "left there", "first-order fall at the automatic rate", "KL on known, nats",
        "right: open book, after the night", "known: before, after",
    )  # fmt: skip
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for (width, rank), group in by_decoder(nights).items():
        factors, means = curve(group)
        best = int(np.argmin(means))
        automatic = [x for x in group if x["factor"] == 1]
        rate = automatic[0]["rate"]
        mean = {
            k: np.mean([x[k] for x in automatic]) for k, v in automatic[0].items() if v is not None
        }
        cells = (
            f"{width}", f"{rank}", f"{len(automatic)}", f"{rate:.2g}",
            f"{means[factors.index(1)]:.1%}", f"{factors[best] * rate:.2g} (x {factors[best]:g})",
            f"{means[best]:.1%}", f"{mean['first_order_fall']:.1f}", f"{mean['known_kl']:.4f}",
            f"{mean['open_book']:.0%}, {mean['recall_after']:.0%}",
            f"{mean['known_before']:.0%}, {mean['known_after']:.0%}",
        )  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(nights: list[dict], path: pathlib.Path) -> None:
    """Left: what is left of the divergence by rate, as a factor of the automatic one. Right: the
    automatic rate and the best one tried, by rank times width."""
    figure, (curves, rule) = plt.subplots(1, 2, figsize=(9.6, 3.6), layout="constrained")
    sizes = []
    for (width, rank), group in by_decoder(nights).items():
        factors, means = curve(group)
        style = "-" if rank == min(x["rank"] for x in nights) else "--"
        curves.plot(factors, means, style, marker="o", ms=3, lw=1.4, label=f"{width}, rank {rank}")
        automatic = next(x["rate"] for x in group if x["factor"] == 1)
        good = [f * automatic for f, m in zip(factors, means) if m < 2 * min(means)]
        sizes.append((rank * width, automatic, automatic * factors[int(np.argmin(means))], good))
    curves.axhline(0.2, color="grey", lw=0.8, ls=":")
    curves.axvline(1, color="grey", lw=0.8, ls=":")
    curves.set(yscale="log", xlabel="rate / automatic rate")
    curves.set_xscale("log", base=2)
    curves.xaxis.set_major_formatter("{x:g}")
    curves.set_ylabel("share of the divergence left")
    curves.legend(frameon=False, fontsize=7)
    sizes.sort()
    rule.plot([x[0] for x in sizes], [x[1] for x in sizes], "k-", lw=1.2, label="automatic")
    for size, _, _, good in sizes:
        rule.plot([size] * 2, [min(good), max(good)], color="tab:blue", lw=3, alpha=0.3)
    rule.plot(
        [x[0] for x in sizes], [x[2] for x in sizes], "o", color="tab:blue", label="best tried"
    )
    rule.set(xscale="log", yscale="log", xlabel="rank * width", ylabel="learning rate")
    rule.legend(frameon=False, fontsize=8)
    for axes in (curves, rule):
        axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)
    plt.close(figure)


def report(folder: pathlib.Path, nights: list[dict], readme: pathlib.Path | None = None) -> str:
    """Writes results.json and the figure into a folder, and the table into a README.

    Returns:
      The table.
    """
    text = table(nights)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(nights))
    draw(nights, folder / "rates")
    if readme is not None:
        publish(readme, MARKS, text)
    return text
