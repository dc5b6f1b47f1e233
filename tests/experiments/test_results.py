"""The results page: it is that of the results, verdicts by hand, and pages of experiments whose
results are not there yet."""

import json
import math
import shutil

import numpy as np
import pytest

EXPERIMENT = "results"
MODULES = ("claims", "modules", "tables", "method", "page")


def test_page_is_that_of_the_results(lab):
    """If not: python experiments/results/page.py"""
    assert lab.page.PAGE.read_text(encoding="utf-8") == lab.page.page()


@pytest.mark.parametrize(
    ("bounds", "is_higher", "against", "kind"),
    [
        ((1.0, 2.0), True, 0.0, "holds"),
        ((-2.0, -1.0), False, 0.0, "holds"),
        ((-1.0, 2.0), True, 0.0, "does not show"),
        ((-1.0, 2.0), False, 0.0, "does not show"),
        ((0.0, 2.0), True, 0.0, "does not show"),
        ((-2.0, 0.0), False, 0.0, "does not show"),
        ((-2.0, -1.0), True, 0.0, "contradicted"),
        ((1.0, 2.0), False, 0.0, "contradicted"),
        ((-math.inf, math.inf), True, 0.0, "does not show"),
        ((1.2, 2.0), True, 1.0, "holds"),
        ((0.5, 2.0), True, 1.0, "does not show"),
        ((0.2, 0.9), True, 1.0, "contradicted"),
        ((0.5, 1.5), False, 2.0, "holds"),
        ((1.5, 2.5), False, 2.0, "does not show"),
        ((2.5, 3.0), False, 2.0, "contradicted"),
    ],
)
def test_verdict_follows_from_the_interval(lab, bounds, is_higher, against, kind):
    figure = lab.claims.Figure(sum(bounds) / 2, *bounds)
    claim = lab.claims.Claim("it is so", figure, is_higher=is_higher, against=against)
    assert (claim.kind, claim.verdict) == (kind, kind)


def test_verdict_of_what_was_not_run_says_what_it_needs(lab):
    claim = lab.claims.Claim("it is so", "a larger machine")
    assert (claim.kind, claim.verdict) == ("not run", "not run: needs a larger machine")
    assert claim.shown == ""


def test_every_verdict_of_the_page_is_of_a_kind(lab):
    kinds = {
        claim.kind
        for section in (*lab.tables.sections(), *lab.method.sections())
        for claim in section.claims
    }
    assert kinds <= {*lab.claims.KINDS}


def test_over_seeds_by_hand(lab):
    """Differences 1, 2 and 3: mean 2, standard error 1 / sqrt(3), t of 2 degrees 4.3027."""
    figure = lab.claims.over_seeds([0.05, 0.07, 0.09], [0.04, 0.05, 0.06], 100)
    half = 4.3026527 / math.sqrt(3)
    assert (figure.mean, figure.low, figure.high) == pytest.approx((2, 2 - half, 2 + half))
    assert str(figure) == "+2.0 points [-0.5, +4.5] (7.0 and 5.0)"
    alone = lab.claims.over_seeds([3.0], [1.0])
    assert str(alone) == "+2.0 points (one seed) (3.0 and 1.0)"
    assert lab.claims.Claim("it is so", alone).kind == "does not show"


def test_interval_of_a_count_by_hand(lab):
    """Of three right of three the lower bound is 0.025 ** (1 / 3), of none of three the upper one
    its complement."""
    low = 100 * 0.025 ** (1 / 3)
    every, none = lab.claims.of_count(3, 3), lab.claims.of_count(0, 3)
    assert (every.mean, every.low, every.high) == pytest.approx((100, low, 100))
    assert (none.mean, none.low, none.high) == pytest.approx((0, 0, 100 - low))
    assert str(every) == "100 % [29, 100] (3 of 3)"
    assert lab.claims.Claim("it is so", none).kind == "does not show"


def test_figures_have_no_minus_zero(lab):
    assert str(-lab.claims.Figure(1.1, 0.0, 3.6)) == "-1.1 points [-3.6, +0.0]"


def test_difference_has_the_paper_s_side(lab):
    """Without gradient selection the paper's figure is lower after one passage, higher after
    many."""
    figure = lab.claims.Figure(1.0, 0.5, 2.0)
    name, row = "knowledge ablated", "no gradient selection"
    one, many = (
        lab.tables.less(name, row, figure, column) for column in ("one passage", "continued")
    )
    assert (one.paper, one.kind) == ("+1.0 (48.1 and 47.1)", "holds")
    assert (many.paper, many.kind) == ("-0.9 (44.3 and 45.2)", "contradicted")
    every = lab.tables.less("maths ablated", "no semantic reward", figure)
    assert (every.paper, every.kind) == ("+0.3, -0.2, +1.6", "holds")


def test_ratio_of_times_by_hand(lab):
    figure = lab.tables._times({0: 8.0, 1: 2.0, 2: 9.0}, {0: 2.0, 1: 2.0})
    assert figure.mean == pytest.approx(2.0)  # sqrt(4 * 1); seed 2 has no other
    assert figure.low * figure.high == pytest.approx(4.0)


@pytest.fixture
def experiments(lab, tmp_path):
    """A folder with the results of all experiments, to be changed."""
    for path in lab.modules.EXPERIMENTS.glob("*/results.json"):
        (tmp_path / path.parent.name).mkdir()
        shutil.copy(path, tmp_path / path.parent.name)
    return tmp_path


def claims_about(sections, experiment):
    [section] = [x for x in sections if x.experiment == experiment]
    return section, {(x.text, x.setting): x for x in section.claims}


LATER = ("class_incremental", "six_nights", "twenty_nights")


def test_page_says_what_has_not_come_to_its_end(lab, experiments):
    for name in LATER:
        (experiments / name / "results.json").unlink(missing_ok=True)
    sections = [*lab.tables.sections(experiments), *lab.method.sections(experiments)]
    for name in LATER:
        section, claims = claims_about(sections, name)
        assert section.ours.endswith("not run to the end yet")
        assert {claim.kind for claim in claims.values()} == {"not run"}
    assert "not run: needs its runs to come to their end" in lab.page.page(experiments)


def write(folder, name, results):
    (folder / name).mkdir(exist_ok=True)
    (folder / name / "results.json").write_text(json.dumps(results))


def test_six_nights_fill_the_page(lab, experiments):
    def run(seed, share, rise, seconds):
        recall = [[{"questions": share, "paraphrases": 0.0}] * days for days in (1, 2)]
        can = [{"scores": {"instructions": x}, "items": {"instructions": 48}} for x in (0.5, share)]
        return {"seed": seed, "recall": recall, "anchors": [20.0, 20 * (1 + rise)],
                "before": 20.0, "seconds": [seconds, seconds],
                "capability": dict(zip(("before", "after"), can))}  # fmt: skip

    slept = [run(0, 0.50, 0.01, 40.0), run(1, 0.75, 0.012, 40.0)]
    tuned = [run(0, 0.25, 0.0, 10.0), run(1, 0.49, 0.0, 10.0)]
    write(experiments, "six_nights", {"sleep": slept, "sequential LoRA, rate 0.001": tuned})
    section, claims = claims_about(lab.method.sections(experiments), "six_nights")
    assert section.ours.endswith("seeds: 2")
    forgets = claims[
        lab.method.FORGETS_LESS, "all days at the end, less sequential LoRA, rate 0.001"
    ]
    # 25 and 26 points; t of one degree is 12.7: 25.5 +- 6.4.
    assert forgets.shown == "+26 points [+19, +32] (62 and 37)" and forgets.kind == "holds"
    [known] = [x for x in claims.values() if x.text.startswith("General texts")]
    assert known.ours.mean == pytest.approx(1.1) and known.kind == "does not show"
    [followed] = [x for x in claims.values() if x.text.startswith("Instructions")]
    # 0 and 25 points more, held against -1.
    assert followed.ours.mean == pytest.approx(12.5) and followed.kind == "does not show"
    assert followed.setting == "48 instructions"
    cost = lab.tables.cost(experiments)
    [ratio] = [x for x in cost.claims if "six_nights" in x.setting]
    assert ratio.ours.mean == pytest.approx(4.0) and ratio.kind == "holds"


def test_twenty_nights_fill_the_page(lab, experiments):
    def runs(*shares):
        documents = [[{"recall": [True] * right + [False] * (4 - right)} for right in shares]]
        return [{"seed": 0, "right": documents}]

    arms = {"sleep": runs(3, 4, 3, 4), "lora": runs(1, 2, 1, 2), "open book": runs(4, 4, 4, 4)}
    write(experiments, "twenty_nights", {"facts": arms})
    _, claims = claims_about(lab.method.sections(experiments), "twenty_nights")
    [claim] = claims.values()
    assert claim.shown == "+50 points [+50, +50]" and claim.kind == "holds"


def test_classes_fill_the_page(lab, experiments):
    def run(arm, *shares):
        return {"arm": arm, "seed": 0, "classes": dict(zip("abcd", shares)), "accuracy": [[1.0]]}

    sizes = {"dataset": "clinc150", "groups": 5, "group_size": 6, "rank": 16, "train": 10,
             "updates": 30}  # fmt: skip
    runs = [run("sleep", 1, 1, 0, 1), run("EWC", 0, 0, 0, 0), run("replay", 1, 1, 0, 1)]
    write(experiments, "class_incremental", {"sizes": sizes, "anchors": 20.0, "runs": runs})
    section, claims = claims_about(lab.tables.sections(experiments), "class_incremental")
    kinds = {text: claim.kind for (text, _), claim in claims.items()}
    assert kinds["Sleep less EWC, CLINC150"] == "holds"
    assert kinds["Sleep less replay, CLINC150"] == "does not show"
    assert kinds["Sleep less ICL, CLINC150"] == "not run"
    assert claims["Sleep less EWC, CLINC150", ""].shown == "+75 points [+25, +100] (75 and 0)"
    assert "5 groups of 6 classes" in section.ours


@pytest.mark.parametrize("name", ["preset", "untuned", "earlier"])
def test_tables_of_the_first_night_are_those_of_its_results(lab, name):
    table = lab.modules.module_of("first_night", "table")
    begin, end = table.marks(name)
    [published] = table.README.read_text(encoding="utf-8").split(begin)[1].split(end)[:1]
    assert published.strip() == table.table(lab.modules.results_of("first_night")[name])


def test_table_of_the_seeding_ablation_is_that_of_its_results_up_to_rounding(lab):
    """Its results have two digits, so that spreads and intervals may differ in the last one."""
    table = lab.modules.module_of("seeding_ablation", "table")
    page = (table.HERE / "README.md").read_text(encoding="utf-8")
    [published] = page.split(table.MARKS[0])[1].split(table.MARKS[1])[:1]
    again = table.comparison.report(table.results())
    rows = [[line.split("|") for line in text.strip().splitlines()] for text in (published, again)]
    for cells, others in zip(*rows, strict=True):
        for cell, other in zip(cells, others, strict=True):
            numbers, words = zip(*map(_numbers, (cell, other)))
            assert words[0] == words[1]
            np.testing.assert_allclose(*numbers, atol=0.025)


def _numbers(cell):
    words = cell.translate(str.maketrans(dict.fromkeys("()[],%±", " "))).split()
    found = [float(x) for x in words if x.lstrip("+-").replace(".", "").isdigit()]
    return found, [x for x in words if not x.lstrip("+-").replace(".", "").isdigit()]


def test_figures_of_the_two_days_stand_in_its_table(lab):
    results = lab.modules.results_of("two_days")
    page = (lab.modules.EXPERIMENTS / "two_days" / "README.md").read_text(encoding="utf-8")
    for when, days in results["right"].items():
        for day, right in days.items():
            [row] = [x for x in page.splitlines() if x.startswith(f"| questions of {day} |")]
            assert f"{100 * right / results['of']:.0f} %" in row, when
    for transaction in results["divergence"].values():
        assert "{:.2f} -> {:.2f}".format(*transaction) in page
