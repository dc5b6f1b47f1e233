"""The functions of a sweep file, by hand."""

import pytest

from sleep_jax.cli import sweep as hyper
from sleep_jax.cli.sweep import Element


def settings(elements):
    return [{k.removeprefix("config."): v for k, v in e.settings.items()} for e in elements]


A, B = hyper.sweep("config.a", [1, 2]), hyper.sweep("config.b.c", ["x", "y"])


def test_product_zipit_and_chainit():
    assert settings(hyper.product([A, B])) == [
        {"a": 1, "b.c": "x"},
        {"a": 1, "b.c": "y"},
        {"a": 2, "b.c": "x"},
        {"a": 2, "b.c": "y"},
    ]
    assert settings(hyper.zipit([A, B])) == [{"a": 1, "b.c": "x"}, {"a": 2, "b.c": "y"}]
    assert settings(hyper.chainit([A, B])) == [{"a": 1}, {"a": 2}, {"b.c": "x"}, {"b.c": "y"}]
    assert settings(hyper.product([hyper.seeds(2), A[:1]])) == [
        {"seed": 0, "a": 1},
        {"seed": 1, "a": 1},
    ]


def test_functions_nest_and_take_empty_lists():
    nested = hyper.product([hyper.chainit([A[:1], hyper.zipit([A, B])[1:]]), hyper.seeds(1)])
    assert settings(nested) == [{"a": 1, "seed": 0}, {"a": 2, "b.c": "y", "seed": 0}]
    assert hyper.product([]) == [Element()] and hyper.chainit([]) == []


def test_element_has_names_of_variant_and_folder():
    [named] = hyper.variant("no imitation", {"config.seeding.alpha": 1.0})
    seeded = named | hyper.seeds(3)[2]
    assert (seeded.variant, seeded.seed) == ("no imitation", 2)
    assert (named.name, seeded.name) == ("no_imitation", "no_imitation,seed=2")
    [both] = hyper.product([A[:1], hyper.sweep("config.memory.slots", [(1, 2)]), hyper.seeds(1)])
    assert (both.variant, both.name) == ("a=1, memory.slots=1-2", "a=1,memory.slots=1-2,seed=0")
    assert Element().name == "as_configured" and hyper.seeds(1)[0].name == "seed=0"
    [path] = hyper.sweep("config.data.documents", ["../my notes/a.txt"])
    assert path.name == "data.documents=.._my_notes_a.txt"  # one folder, without a separator


def test_contradictory_sweeps_are_refused():
    with pytest.raises(ValueError, match=r"^config\.a: set twice in one element"):
        hyper.product([A, A])
    with pytest.raises(ValueError, match="zipit: sweeps of 2, 1 elements"):
        hyper.zipit([A, B[:1]])
    with pytest.raises(ValueError, match=r"write config\.seeding\.alpha for a field of a sweep"):
        hyper.sweep("seeding.alpha", [1.0])
