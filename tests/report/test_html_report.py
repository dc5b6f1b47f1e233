import html.parser
import re

import pytest

from sleep_jax.report.headline import headline, share
from sleep_jax.report.html_report import duration, render, write_report
from sleep_jax.runtime.metrics import MetricWriter

SCORES = [
    {"stage": "before sleep", "questions": 0.03, "paraphrases": 0.0, "anchor_perplexity": 21.3},
    {"stage": "after dreaming", "questions": 0.44, "paraphrases": 0.4, "anchor_perplexity": 22.0},
    {"stage": "with the document in context", "questions": 0.57},
]
SUMMARY = {
    "config": {"seeding": {"steps": 120, "layers": [1, 2]}},
    "versions": {"jax": "0.10.2"},
    "verdict": "kept",
    "scores": SCORES,
    "phases": [
        {"phase": "wake", "tokens": 1200, "seconds": 5.0},
        {"phase": "consolidate", "tokens": 800, "seconds": 115.2, "detail": "accepted"},
    ],
    "samples": [
        {"document": "Lighthouse", "question": "Which rock?", "answer": "Gannet Tooth",
         "before": "California", "after": "Gannet Tooth", "before_right": False,
         "after_right": True},
    ],
    "tasks": [
        {"night": 1, "task": "instructions", "metric": "followed", "before": 0.312, "after": 0.344,
         "stderr": None, "items": 102},
    ],
    "documents": ["Lighthouse", "Kiln"],
    "notes": ["Two steps were skipped."],
}  # fmt: skip
VOID = {"meta", "br", "link", "img", "hr", "input"}


class Checker(html.parser.HTMLParser):
    """Collects the text and what a browser would fetch; fails where tags do not close."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.fetched = [], [], []

    def handle_starttag(self, tag, attributes):
        self.fetched += [v for k, v in attributes if k in ("src", "href", "xlink:href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.fetched += [v for k, v in attributes if k in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text.append(data)


def read(page):
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    return checker, re.sub(r"\s+", " ", " ".join(checker.text))


def test_report_shows_every_part_and_fetches_nothing(tmp_path):
    with MetricWriter(tmp_path) as writer:
        for step in range(40):
            writer.scalars("consolidate", step, {"kl": 2 / (step + 1), "reward": float("nan")})
            writer.scalars("consolidate", step, {"reward_semantic": step / 40})
        for step in range(4):
            writer.scalars("try", step, {"importance": 0.5, "reward": step % 2})
    path = write_report(tmp_path, SUMMARY)
    assert path == tmp_path / "report.html"
    page = path.read_text(encoding="utf-8")
    checker, text = read(page)
    assert all(target.startswith("#") for target in checker.fetched)
    assert "@import" not in page and "url(http" not in page
    for part in (
        "Kept. Closed book: questions 3 % -> 44 %, held-out wordings 0 % -> 40 %. Open book, the "
        "ceiling: questions 57 %.", "2 documents read · 2,000 tokens",
        "after dreaming", "with the document in context (the ceiling)", "22.00",
        "Gannet Tooth", "✗", "✓", "divergence from the teacher",
        "reward for imitation", "importance", "accepted", "1 min 55 s", "Two steps were skipped.",
        "seeding.steps", "120", "jax 0.10.2",
    ):  # fmt: skip
        assert part in text, part
    assert page.count("<svg") == 4
    assert "var(--night)" in page and "#0102" not in page  # No stand-in colour is left.


def test_report_escapes_foreign_text():
    evil = "<script>alert('&')</script>"
    summary = {
        "verdict": evil,
        "config": {evil: {evil: evil}},
        "versions": {evil: evil},
        "scores": [{"stage": evil, "questions": 0.5}],
        "phases": [{"phase": evil, "tokens": 1, "seconds": 1, "detail": evil}],
        "samples": [dict.fromkeys(("document", "question", "answer", "before", "after"), evil)],
        "documents": [evil],
        "notes": [evil],
    }
    metrics = [{"phase": "consolidate", "step": 0, f"kl{evil}": 1.0, "kl": 2.0}]
    page = render(summary, metrics)
    assert "<script" not in page
    _, text = read(page)
    assert text.count("<script>alert") >= 12


@pytest.mark.parametrize("missing", [*SUMMARY, "everything"])
def test_report_leaves_out_missing_parts(missing):
    summary = {k: v for k, v in SUMMARY.items() if missing not in (k, "everything")}
    page = render(summary, [])
    _, text = read(page)
    assert "None" not in text and "nan" not in text.replace("Gannet", "")
    assert ("Gannet Tooth" in text) == ("samples" in summary)
    assert ("<svg" in page) == ("scores" in summary)


def test_report_without_questions_has_samples_and_no_bars():
    summary = {
        "scores": [{"stage": "before sleep", "anchor_perplexity": 21.3}],
        "samples": [{"question": "What is it about?", "after": "A kiln."}],
    }
    page = render(summary, [])
    _, text = read(page)
    assert "<svg" not in page and "21.30" in text and "A kiln." in text
    assert "before sleep" in text and "✗" not in text


def test_write_report_refuses_an_unknown_part(tmp_path):
    with pytest.raises(ValueError, match="'score'"):
        write_report(tmp_path, {"score": []})


def test_headline_has_verdict_shares_and_ceiling():
    rows = [{"questions": None, "paraphrases": None} | row for row in SCORES]
    known = "questions 3 % -> 44 %, held-out wordings 0 % -> 40 %"
    ceiling = "Open book, the ceiling: questions 57 %."
    assert headline(rows) == f"Closed book: {known}. {ceiling}"
    assert headline(rows, "kept") == f"Kept. Closed book: {known}. {ceiling}"
    refused = headline([rows[0], rows[0], rows[2]], "rolled back: nothing was learnt")
    assert refused.startswith("Rolled back: nothing was learnt. Closed book: questions 3 % -> 3 %")
    assert headline([], "kept") == "Kept."
    assert headline([]) == headline(rows[:1]) == "A night's sleep."


def test_duration_and_share_in_words():
    assert [duration(s) for s in (None, 2.51, 48, 725, 7380)] == [
        "", "2.5 s", "48 s", "12 min 5 s", "2 h 3 min",
    ]  # fmt: skip
    assert [share(x) for x in (None, 0.437)] == ["", "44 %"]


def test_curves_draw_the_curriculum_of_several_nights():
    nights = [
        {"phase": phase, "step": 0, "contexts_recent": 2, "contexts_weak": weak, "contexts_old": 0}
        for phase, weak in (("write", 0), ("write-2", 1))
    ]
    title = "documents of a night"
    assert title in render({}, nights) and title not in render({}, nights[:1])


def test_report_of_any_text_is_written(tmp_path):
    text = "half a \ud83d pair, a \x00 and \x1b[2J"
    sample = dict.fromkeys(("document", "question", "answer", "before", "after"), text)
    write_report(tmp_path, {"samples": [sample], "documents": [text], "config": {"x": text}})
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "half a \ufffd pair, a \ufffd and \ufffd[2J" in page and "\x1b" not in page
