"""Writes docs/results.md: every table of the paper and every claim of its method, beside what this
project has of it.

    python experiments/results/page.py

The paper's figures are in paper.json, ours in the results.json of each experiment; `claims.py` has
the rules of the verdicts.
"""

import collections
import pathlib
import re
from collections.abc import Sequence

import method
import tables
from claims import KINDS, RULES, Claim, Section
from modules import EXPERIMENTS

PAGE = EXPERIMENTS.parent / "docs" / "results.md"
HEAD = """\
# Results and the paper

What *Language Models Need Sleep* (arXiv 2606.03979) reports, and what came out here, at the sizes
that could be run: SmolLM2-135M and a decoder of 0.9M parameters, on 2 CPU cores. The paper's models
have 1 to 8 billion parameters. The Hope architecture is not built: attention is the sequence mixer.

`python experiments/results/page.py` writes this page from the results of the experiments. Where our
settings are ours and not the paper's: [Settings](settings.md#where-our-settings-are-ours).

## Verdicts

{rules}

Claims of each table by verdict:

{overview}
"""
OF_PAPER = "# Tables of the paper"
OF_METHOD = """\
# Claims of the method

What the paper says of its method and has no table of."""


def page(folder: pathlib.Path = EXPERIMENTS) -> str:
    """The whole page.

    Args:
      folder: of the experiments whose results are read.
    """
    of_paper, of_method = tables.sections(folder), method.sections(folder)
    head = HEAD.format(rules=RULES, overview=_overview([*of_paper, *of_method]))
    parts = [head, OF_PAPER, *map(_section, of_paper), OF_METHOD, *map(_section, of_method)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _overview(of_page: Sequence[Section]) -> str:
    """How many verdicts of each kind there are, a line a section."""
    lines = []
    for section in of_page:
        counts = collections.Counter(claim.kind for claim in section.claims)
        anchor = re.sub(r"[^\w\- ]", "", section.title.lower()).replace(" ", "-")
        lines.append([f"[{section.title}](#{anchor})", *(str(counts[k] or "") for k in KINDS)])
    return _table(["", *KINDS], lines)


def _section(section: Section) -> str:
    """What the paper has, what is here, and the claims."""
    lines, paper = [f"## {section.title}", ""], section.paper or {}
    if paper:
        lines.append(f"- **Paper**: {paper['data']}. {_sentence(paper['setting'])}")
        lines.append(f"  Beside it: {paper['baselines']}.")
    if "reported" in paper:
        lines.append(f"  Reported: {paper['reported']}.")
    ours = section.ours or "nothing was run"
    if section.experiment:
        ours = f"[{section.experiment}](../experiments/{section.experiment}/README.md): {ours}"
    lines.append(f"- **Here**: {ours}.")
    if section.command:
        lines.append(f"  `{section.command}`")
    if "figures" in paper:
        rows = [[row, *(f"{x:.1f}" for x in values)] for row, values in paper["figures"].items()]
        lines += ["", _table(["in the paper", *paper["columns"]], rows)]
    return "\n".join([*lines, "", _claims(section.claims)])


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _claims(claims: Sequence[Claim]) -> str:
    """As a table, without columns that are empty."""
    rows = [(x.text, x.paper, x.setting, x.shown, x.verdict) for x in claims]
    heads = ["claim", "in the paper", "run", "here", "verdict"]
    shown = [i for i in range(len(heads)) if any(row[i] for row in rows)]
    return _table([heads[i] for i in shown], [[row[i] for i in shown] for row in rows])


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def main() -> None:
    """Writes the page."""
    PAGE.write_text(page(), encoding="utf-8")
    print(f"written: {PAGE}")


if __name__ == "__main__":
    main()
