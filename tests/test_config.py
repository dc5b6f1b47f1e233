"""The config of a run: whatever a field is given, it is refused in words or it is in its range."""

import dataclasses
import math
import re

import pytest
from flax.traverse_util import flatten_dict

from sleep_jax.config import RunConfig, default, read
from sleep_jax.runtime.config_files import load
from sleep_jax.runtime.help import help_text
from sleep_jax.settings import every

SETTINGS = every(RunConfig)
PRESET = "configs/sleep_tiny.py"
NUMBERS = [name for name, setting in SETTINGS.items() if setting.kind in (int, float)]
ONE_BELOW_0 = {"mesh.data", "mesh.fsdp", "mesh.tensor", "dreaming.margin"}
INFINITE = {
    ("gate.divergence", math.inf),
    ("gate.anchors", math.inf),
    ("dreaming.margin", -math.inf),
}
# Numbers that may be 0; for some others of the config that is refused.
MAY_BE_0 = {
    "seed", "checkpoint.keep", "checkpoint.updates", "data.limit", "memory.chunks",
    "memory.learning_rates", "memory.top_k", "memory.scale", "wake.clip", "study.recitations",
    "study.completions", "study.questions", "study.rehearsals", "study.temperature",
    "seeding.learning_rate", "seeding.warmup", "seeding.dreams", "seeding.rollouts_from",
    "seeding.max_skipped", "seeding.alpha", "seeding.lam", "seeding.beta", "seeding.cap",
    "seeding.penalty_weight", "seeding.entropy_weight", "seeding.importance_cap", "seeding.gamma",
    "seeding.cut", "seeding.threshold", "dreaming.temperature", "dreaming.rejection.min_words",
    "dreaming.rejection.max_repeated", "dreaming.rejection.min_script",
    "dreaming.rejection.min_known", "dreaming.rejection.similarity", "dreaming.curriculum.recent",
    "dreaming.curriculum.weak", "dreaming.curriculum.old", "dreaming.top", "dreaming.random",
    "dreaming.interaction", "dreaming.cap", "dreaming.batch", "dreaming.alpha",
    "dreaming.importance_cap", "dreaming.steps", "dreaming.learning_rate",
    "dreaming.cross_entropy", "dreaming.margin", "dreaming.trial.learning_rate",
    "dreaming.trial.alpha", "dreaming.trial.batch", "dreaming.trial.clip", "evaluation.samples",
}  # fmt: skip


def given(name, value):
    """A config with a value that no type of the default stands in the way of."""
    c = default()
    with c.ignore_type():
        c.update_from_flattened_dict({name: value})
    return c


def refusal(name, value):
    """What is said where the value is refused; None where it is not."""
    try:
        read(given(name, value))
    except (ValueError, OSError) as error:
        return str(error)
    return None


def filled(name, entry):
    """An entry as the field's whole value: a tuple where it is one."""
    entries = SETTINGS[name].entries
    return entry if entries is None else (entry,) * (entries or 1)


def assert_refused(name, value):
    said = refusal(name, value)
    assert said is not None, f"{name}={value!r} passed"
    assert said.startswith(f"{name}={value!r}; ") and len(said) < 300 and "\n" not in said


def test_defaults_are_read_and_made_again():
    settings = read(default())
    assert settings == dataclasses.replace(settings)
    assert settings.memory.levels and settings.dreaming.writing.templates


@pytest.mark.parametrize("name", SETTINGS)
def test_every_field_says_what_it_means_and_may_be(name):
    setting = SETTINGS[name]
    assert 5 < len(setting.help) <= 100
    if setting.kind in (int, float):
        assert setting.least is not None or setting.above is not None
    assert setting.kind in (int, float, bool, str)
    assert setting.read(setting.default) is not None or setting.none == setting.default


@pytest.mark.parametrize("name", NUMBERS)
def test_number_beyond_its_range_is_refused(name):
    beyond = (10**20, -(10**20), -2) if SETTINGS[name].kind is int else (1e39, -1e39, 1e-40, -2.0)
    for number in (math.nan, *beyond):
        is_short_of_inf = (name, math.copysign(math.inf, number)) in INFINITE
        if not (is_short_of_inf and abs(number) > 1):
            assert_refused(name, filled(name, number))
    for number in (math.inf, -math.inf):
        if (name, number) not in INFINITE:
            assert_refused(name, filled(name, number))
    if name not in ONE_BELOW_0:
        assert_refused(name, filled(name, SETTINGS[name].kind(-1)))


@pytest.mark.parametrize("name", NUMBERS)
def test_zero_is_refused_or_means_something(name):
    value = filled(name, SETTINGS[name].kind(0))
    if name not in MAY_BE_0 | {"memory.slots", "dreaming.held_out"}:
        assert_refused(name, value)
    elif said := refusal(name, value):  # where it does not go with the others
        assert f"{name}=0" in said


@pytest.mark.parametrize("name", SETTINGS)
def test_another_type_is_refused(name):
    """ml_collections makes numbers of True where the default is one."""
    others = {
        int: (1.5, "x", "", None, (1,), [[1]]),
        float: ("x", "", None, (0.5,), 1j),
        bool: (1, 0.0, "yes", "", None, (True,)),
        str: (3, 1.5, True, None, ("x",), b"x"),
    }[SETTINGS[name].kind]
    for other in others:
        assert_refused(name, filled(name, other))


@pytest.mark.parametrize("name", [name for name, s in SETTINGS.items() if s.entries is not None])
def test_tuple_of_another_length_is_refused(name):
    setting = SETTINGS[name]
    entry = setting.default[0] if setting.default else "x"
    assert_refused(name, entry)
    if setting.default:
        assert_refused(name, ())
    for count in (1, 3) if setting.entries else ():
        assert_refused(name, (entry,) * count)


@pytest.mark.parametrize("name", [name for name, s in SETTINGS.items() if s.kind is str])
def test_unknown_and_empty_text_is_refused(name):
    setting = SETTINGS[name]
    for text in ("", "  "):
        if name != "mesh.slice":
            assert_refused(name, filled(name, text))
    if setting.choices is not None:
        assert_refused(name, filled(name, "nonsense"))
        for choice in setting.choices:
            assert setting.checked(filled(name, choice)) == filled(name, choice)


def test_misspelt_field_of_a_preset_is_named_with_the_nearest():
    c = default()
    c.seeding.stpes = 3
    with pytest.raises(ValueError, match=r"seeding\.stpes=3; no such field, .*seeding\.steps"):
        read(c)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"wake.context": 100, "memory.chunks": (1, 0), "memory.learning_rates": (0.1, 0.0)},
            "wake.context=100 holds less than memory.stride=256 tokens",
        ),
        (
            {"study.max_answer_tokens": 321},
            "study.max_answer_tokens=321 is more than a row scores, seeding.scored=320",
        ),
        (
            {"dreaming.restart": "base", "memory.on_full": "reuse"},
            "dreaming.restart='base' with memory.on_full='reuse'",
        ),
        ({"seeding.teachers": ("a",)}, "seeding.teacher_weights=(1.0,) has 1 entries, .* 2 teach"),
    ],
)
def test_settings_that_cannot_be_together_are_refused(changes, says):
    c = default()
    c.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=re.escape(says).replace(r"\.\*", ".*")):
        read(c)


def test_help_of_a_preset_shows_every_field_and_marks_what_it_changed():
    text = help_text(["launch.py", f"--config={PRESET}"], "", settings=SETTINGS)
    lines = text.partition("* marks what it changes:")[2].splitlines()
    given = {line[2:].partition("=")[0]: line[0] for line in lines if "--config." in line[:12]}
    assert set(given) == {f"--config.{name}" for name in SETTINGS}
    preset, defaults = (flatten_dict(c.to_dict(), sep=".") for c in (load(PRESET), default()))
    changed = {f"--config.{name}" for name in preset if preset[name] != defaults[name]}
    assert {name for name, mark in given.items() if mark == "*"} == changed
    assert max(map(len, lines)) <= 80
