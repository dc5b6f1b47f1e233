"""A few hundred inputs of every format; `python tests/fuzz/fuzz.py` tries more."""

import random

import fuzz
import pytest
from mutations import VALUES, change, dumps, spoil

INPUTS = 300


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", fuzz.FORMATS)
def test_changed_files_are_read_or_rejected(name, tmp_path):
    faults = fuzz.try_inputs(fuzz.FORMATS[name], tmp_path, INPUTS)
    assert not faults, "\n".join(f"{kind}: {seen[0]}" for kind, seen in faults.items())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", fuzz.FORMATS)
def test_many_changed_files_are_read_or_rejected(name, tmp_path):
    faults = fuzz.try_inputs(fuzz.FORMATS[name], tmp_path, 20_000, seed=1)
    assert not faults, "\n".join(f"{kind}: {seen[0]}" for kind, seen in faults.items())


@pytest.mark.parametrize("name", fuzz.FORMATS)
def test_inputs_depend_on_seed_and_number(name):
    format = fuzz.FORMATS[name]
    first = [format.input(0, number) for number in range(40)]
    assert first == [format.input(0, number) for number in range(40)]
    assert len(set(first)) > 20
    assert first != [format.input(1, number) for number in range(40)]


def test_every_value_can_be_written():
    for value in VALUES:
        assert isinstance(dumps(random.Random(0), {"a": value}), bytes)
    assert change(random.Random(0), 3) in VALUES
    assert isinstance(spoil(random.Random(0), b""), bytes)


@pytest.mark.parametrize(
    "read, kind",
    [
        (lambda folder: [][0], "IndexError"),
        (lambda folder: int("x"), "names no file"),
        (lambda folder: bytearray(2**25), "memory"),
        (lambda folder: (folder / "x").read_bytes(), None),
        (lambda folder: None, None),
    ],
)
def test_judge_tells_faults_from_rejections(read, kind, tmp_path):
    fault = fuzz.judge(read, tmp_path, 10)
    assert fault is None if kind is None else fault.kind.startswith(kind)
