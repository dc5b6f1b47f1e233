import json
import math

import pytest

from sleep_jax.fields import (
    Fields,
    as_object,
    as_text,
    named,
    parse_json,
    read_object,
    reason,
    shown,
)

VALUES = {"n": 3, "x": 0.5, "s": "a", "b": True, "null": None, "l": ["a"], "o": {"n": 4}}
FIELDS = Fields(VALUES | {"os": [{"n": 5}]}, "a.json")


def test_values_of_the_right_type_are_returned():
    assert (FIELDS.whole("n"), FIELDS.number("x", 0, 1), FIELDS.text("s")) == (3, 0.5, "a")
    assert FIELDS.flag("b") is True
    assert (FIELDS.texts("l"), FIELDS.listing("l")) == (["a"], ["a"])
    assert FIELDS.section("o").whole("n") == 4
    assert [x.whole("n") for x in FIELDS.objects("os")] == [5]
    assert Fields({"n": 8.0}, "f").whole("n") == 8
    assert FIELDS.number("n", 0, 9) == 3.0


def test_absent_fields_and_null_take_the_default():
    assert FIELDS.whole("absent", default=7) == 7
    assert FIELDS.text("null", None) is None
    assert dict(FIELDS.section("null", None)) == {}
    with pytest.raises(ValueError, match=r"^a\.json has no absent; give it a whole number from 0"):
        FIELDS.whole("absent")
    with pytest.raises(ValueError, match=r"^a\.json: null=None; give true or false"):
        FIELDS.flag("null", False)


@pytest.mark.parametrize(
    "value", [True, "3", None, 2.5, -1, 10, 10**400, math.nan, math.inf, [3], {"n": 3}]
)
def test_whole_refuses_other_types_and_ranges(value):
    with pytest.raises(ValueError, match=r"^f: n=.*; give a whole number from 0 to 9$"):
        Fields({"n": value}, "f").whole("n", 0, 9)


@pytest.mark.parametrize("value", [True, "0.5", None, -0.1, 1.1, math.nan, math.inf, 10**400, []])
def test_number_refuses_other_types_and_ranges(value):
    with pytest.raises(ValueError, match=r"^f: x=.*; give a number from 0 to 1$"):
        Fields({"x": value}, "f").number("x", 0, 1)


@pytest.mark.parametrize("value", [3, None, ["a"], "\ud800"])
def test_text_refuses_other_types_and_lone_surrogates(value):
    with pytest.raises(ValueError, match=r"^f: s=.*; give a string of whole characters$"):
        Fields({"s": value}, "f").text("s")
    with pytest.raises(ValueError, match="give a string of whole characters"):
        as_text(value, "s")


def test_errors_name_nested_fields_with_dots():
    outer = Fields({"a": {"b": {"c": 1}}, "l": [{}, {"c": 2}, 3]}, "f")
    with pytest.raises(ValueError, match=r"^f: a\.b\.c=1; give a list$"):
        outer.section("a").section("b").listing("c")
    with pytest.raises(ValueError, match=r"^f: l\[2\]=3; give an object$"):
        outer.objects("l")
    good = Fields({"l": [{}, {"c": 2}]}, "f").objects("l")
    with pytest.raises(ValueError, match=r"^f: l\[1\]\.c=2; give a string"):
        good[1].text("c")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[" * 100_000,
        "9" * 5000,
        '{"a": "\\ud800"}',
        b"\xff",
        b'"\xed\xa0\x80"',
        '"\ud800"',
    ],
)
def test_parse_json_refuses_in_one_line(content):
    with pytest.raises(ValueError, match=r"^cannot parse f: ") as error:
        parse_json(content, "f")
    assert len(str(error.value).splitlines()) == 1 and len(str(error.value)) < 400
    str(error.value).encode("utf-8")


def test_parse_json_returns_the_value():
    value = {"a": [1, 0.5, None, True, "ü🌙"]}
    assert parse_json(json.dumps(value), "f") == value  # the moon is a pair of surrogates there
    assert parse_json(json.dumps(value, ensure_ascii=False).encode(), "f") == value


def test_read_object_refuses_other_values(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("[3]")
    with pytest.raises(ValueError, match=r"a\.json holds \[3\]; it must be an object"):
        read_object(path)
    with pytest.raises(FileNotFoundError):
        read_object(tmp_path / "b.json")
    assert as_object({"a": 1}, "f")["a"] == 1


def test_shown_and_named_are_short():
    deep = []
    for _ in range(10_000):
        deep = [deep]
    for value in (
        deep,
        "x" * 10**6,
        list(range(10**5)),
        dict.fromkeys(range(99), "y" * 99),
        10**400,
    ):
        assert len(shown(value)) <= 100
    assert named("a.b") == "a.b"
    assert named("a\nb") == "a\\nb" and len(named("x" * 999)) < 100
    assert reason(ValueError("a\n b\ud800")) == "a b\\ud800"
    assert reason(ValueError()) == "ValueError"
