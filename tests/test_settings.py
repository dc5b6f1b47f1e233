"""Settings of a small class: its config, what is read back, what is refused."""

import dataclasses
import math
import re

import pytest

from sleep_jax.settings import (
    Settings,
    borrowed,
    columns,
    defaults,
    every,
    part,
    read,
    setting,
)


@dataclasses.dataclass(frozen=True)
class Kettle(Settings, section="kitchen"):
    litres: float = setting(1.5, "what it holds", above=0, most=9)
    colour: str = setting("red", "of its lid", choices=("red", "blue"), name="lid")
    tag: str = setting("", "what is written on it")
    cap: float | None = setting(None, "degrees at most; 0: any", above=0, none=0)
    power: float | str = setting(2.0, "in kilowatts; auto: by litres", above=0, words=("auto",))


@dataclasses.dataclass(frozen=True)
class Shelf(Settings, section="kitchen"):
    width: int = setting(3, "of a shelf", least=1, name="widths")
    cups: int = setting(0, "on a shelf", least=0)


def boiled(**fields):
    return "boiled", Kettle(**fields)


@dataclasses.dataclass(frozen=True)
class House(Settings):
    doors: int = setting(1, "to the street", least=1, also=(-1,))
    rooms: tuple[str, ...] = setting((), "their names")
    size: tuple[float, float] = setting((2.0, 3.0), "in metres", least=0, most=math.inf)
    is_warm: bool = setting(True, "is heated")
    stairs: str | tuple[int, ...] = setting("none", "none, or steps", parse=lambda x: int(x, 8))
    kettle: Kettle = part(Kettle)
    guest: tuple = part(Kettle, boiled)
    shelves: tuple[Shelf, ...] = columns(Shelf)
    spare: int = borrowed(7, "doors")
    plain: int = 5

    def check(self):
        if self.doors > 3 and not self.is_warm:
            raise ValueError("doors let the cold in")


def config(**changes):
    c = defaults(House)
    c.stairs = "17"
    with c.ignore_type():
        c.update_from_flattened_dict(changes)
    return c


def test_config_has_every_setting_at_its_default():
    assert defaults(House).to_dict() == {
        "doors": 1,
        "rooms": (),
        "size": (2.0, 3.0),
        "is_warm": True,
        "stairs": "none",
        "kitchen": {
            "litres": 1.5,
            "lid": "red",
            "tag": "",
            "cap": 0.0,
            "power": 2.0,
            "widths": (3,),
            "cups": (0,),
        },
    }


def test_read_gives_what_the_config_says():
    kettle = Kettle(litres=2.0, colour="blue", cap=90.0)
    given = {"kitchen.litres": 2, "kitchen.lid": "blue", "kitchen.cap": 90.0, "doors": 2}
    house = read(House, config(**given, rooms=["a", "b"], **{"kitchen.widths": (1, 2)}))
    assert house == House(
        doors=2,
        rooms=("a", "b"),
        stairs=0o17,
        kettle=kettle,
        guest=("boiled", kettle),
        shelves=(Shelf(1), Shelf(2)),
        spare=2,
    )
    assert read(House, config()).kettle.cap is None
    assert type(read(House, config(size=(1, math.inf))).size[0]) is float


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("doors", 0, "a whole number at least 1"),
        ("doors", True, "-1, or a whole number at least 1 (to the street)"),
        ("doors", 1.0, "-1, or a whole number"),
        ("doors", 2**31, "at least 1, that 32 bits hold"),
        ("size", (1.0,), "a tuple of 2, each a number at least 0, or inf"),
        ("size", (1.0, float("nan")), "a tuple of 2"),
        ("size", 1.0, "a tuple of 2"),
        ("size", (1.0, 1e-40), "or inf, that 32 bits hold"),
        ("rooms", ("a", ""), "a tuple, each text that is not empty"),
        ("rooms", "ab", "a tuple, each text"),
        ("is_warm", 1, "True or False"),
        ("stairs", "9", "give text that is not empty (none, or steps)"),
        ("kitchen.litres", 10.0, "a number above 0 and at most 9"),
        ("kitchen.litres", "2", "a number above 0"),
        ("kitchen.lid", "pink", "choose from red, blue (of its lid)"),
        ("kitchen.lid", ["red"], "choose from red, blue"),
        ("kitchen.tag", 3, "give text (what"),
        ("kitchen.cap", "0", "give 0, or a number above 0"),
        ("kitchen.cap", -1.0, "give 0, or a number above 0"),
        ("kitchen.power", "full", "give auto, or a number above 0 (in kilowatts"),
        ("kitchen.power", ["auto"], "give auto, or a number above 0"),
        ("kitchen.power", -1.0, "give auto, or a number above 0"),
        ("kitchen.widths", (1, 0), "a tuple of one or more, each a whole number at least 1"),
        ("kitchen.widths", (), "a tuple of one or more"),
        ("kitchen.widths", (1.0,), "a tuple of one or more"),
    ],
)
def test_read_names_field_value_and_what_is_allowed(field, value, says):
    with pytest.raises(ValueError, match=re.escape(says)) as error:
        read(House, config(**{field: value}))
    assert str(error.value).startswith(f"{field}={value!r}; ")


def test_word_may_stand_for_a_number():
    c = config()
    for value in ("auto", 3.5, "auto"):  # a config holds either
        c.kitchen.power = value
        assert read(House, c).kettle.power == value
    with pytest.raises(TypeError):
        c.kitchen.litres = "auto"


def test_columns_take_an_entry_for_each_or_one_for_all():
    shelves = read(House, config(**{"kitchen.widths": (1, 2), "kitchen.cups": (4,)})).shelves
    assert shelves == (Shelf(1, 4), Shelf(2, 4))
    with pytest.raises(
        ValueError, match=r"kitchen\.cups=\(1, 2, 3\) has 3 entries, .*widths has 2"
    ):
        read(House, config(**{"kitchen.widths": (1, 2), "kitchen.cups": (1, 2, 3)}))


def test_read_names_unknown_and_missing_fields():
    c = config()
    c.kitchen.litre = 2.0
    with pytest.raises(ValueError, match=r"kitchen\.litre=2\.0; no such field.* kitchen\.litres"):
        read(House, c)
    c = config()
    del c.kitchen["tag"]
    with pytest.raises(ValueError, match=r"kitchen\.tag is missing"):
        read(House, c)


def test_objects_made_directly_are_checked_too():
    with pytest.raises(ValueError, match=r"kitchen\.lid='pink'; choose from red, blue"):
        Kettle(colour="pink")
    with pytest.raises(ValueError, match=r"kitchen\.cap=0\.0"):
        Kettle(cap=0.0)  # what stands for None in a config
    with pytest.raises(ValueError, match="let the cold in"):
        House(doors=4, is_warm=False)
    assert House().spare == 7 and House().shelves == ()


def test_every_lists_settings_once_in_order():
    assert list(every(House)) == [
        "doors", "rooms", "size", "is_warm", "stairs", "kitchen.litres", "kitchen.lid",
        "kitchen.tag", "kitchen.cap", "kitchen.power", "kitchen.widths", "kitchen.cups",
    ]  # fmt: skip


def test_every_refuses_one_path_with_two_declarations():
    @dataclasses.dataclass(frozen=True)
    class OtherKettle(Settings, section="kitchen"):
        litres: float = setting(2.5, "what it holds", above=0)

    @dataclasses.dataclass(frozen=True)
    class Kitchen(Settings):
        kettle: Kettle = part(Kettle)
        other: OtherKettle = part(OtherKettle)

    with pytest.raises(TypeError, match=r"kitchen\.litres is declared twice"):
        every(Kitchen)
