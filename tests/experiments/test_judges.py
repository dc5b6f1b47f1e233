"""The measures of the judges' experiment, by hand."""

import numpy as np

EXPERIMENT = "judges"
MODULES = ("roc", "calibrate")


SCORES, SAME = np.array([3.0, 1.0, 1.0, -np.inf]), np.array([True, True, False, False])


def test_roc_rates_area_and_curve(lab):
    assert lab.roc.rates(SCORES, SAME, 1.0) == (1.0, 0.5)
    assert lab.roc.rates(SCORES, SAME, 1.5) == (0.5, 0.0)
    # 3 beats both, 1 ties with one and beats the other.
    assert lab.roc.area(SCORES, SAME) == 3.5 / 4
    points = lab.roc.curve(SCORES, SAME)
    np.testing.assert_array_equal(points, [(0, 0), (0, 0.5), (0.5, 1), (1, 1)])
    x, y = points.T
    assert np.trapezoid(y, x) == lab.roc.area(SCORES, SAME)


def test_interval_contains_its_measure_and_is_a_point_without_spread(lab):
    low, high = lab.calibrate.interval(lab.roc.area, SCORES, SAME)
    assert low < lab.roc.area(SCORES, SAME) <= high
    assert lab.calibrate.interval(lambda s, _: np.mean(s > 0), np.ones(5), SAME[:1].repeat(5)) == [
        1.0,
        1.0,
    ]


def test_measure_counts_every_kind_and_table_has_its_row(lab):
    halves = lab.calibrate.read_probe()
    labels = {(p.a, p.b): p.same for half in halves for p in half}

    def oracle(candidates, references):
        return np.array([float(labels[pair]) for pair in zip(candidates, references)])

    results = {"cosine": lab.calibrate.measure("cosine", oracle, halves)}
    row = results["cosine"]
    assert (row["threshold"], row["true"], row["false"], row["area"]) == (0.5, 1.0, 0.0, 1.0)
    for kind, counts in row["kinds"].items():
        is_same = "area" not in counts
        assert counts["passed"] == is_same * counts["of"], kind
    assert sum(counts["of"] for counts in row["kinds"].values()) == len(halves[1])
    assert "| cosine | 0.500 | 100 % (100-100) | 0 % (0-0) |" in lab.calibrate.tables(
        results, halves
    )
