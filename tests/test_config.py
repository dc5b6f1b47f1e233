"""The config of a run: any value of a field is in its range or refused in words."""

import dataclasses
import math
import re

import pytest
from flax.traverse_util import flatten_dict

from sleep_jax.cli.config_files import load
from sleep_jax.cli.help import help_text
from sleep_jax.config import RunConfig, default, read
from sleep_jax.settings import every

SETTINGS = every(RunConfig)
PRESET = "configs/sleep_tiny.py"
NUMBERS = [name for name, setting in SETTINGS.items() if setting.kind in (int, float)]
ONE_BELOW_0 = {"mesh.data", "mesh.fsdp", "mesh.tensor", "dreaming.margin"}
INFINITE = {
    ("wake.max_grad_norm", math.inf),
    ("gate.divergence", math.inf),
    ("gate.anchors", math.inf),
    ("gate.tasks", math.inf),
    ("dreaming.margin", -math.inf),
}
# What 0 means where a number may be 0. Where it begins with "0: " the field's help says so.
MEANING_OF_0 = {
    "seed": "a seed like any other",
    "checkpoint.max_to_keep": "0: all",
    "checkpoint.save_interval_steps": "0: none",
    "data.limit": "0: all",
    "memory.periods": "0: never",
    "memory.slots": "0: none",
    "memory.learning_rates": "0: the wake weights keep",
    "memory.top_k": "0: all",
    "study.recitations": "0: not at all",
    "study.completions": "0: none",
    "study.questions": "0: none",
    "study.rehearsals": "0: none",
    "study.readings": "0: none",
    "study.free_texts": "0: none",
    "study.max_rehearsal_tokens": "0: max_answer_tokens",
    "study.earlier_questions": "0: none",
    "study.temperature": "0: greedy",
    "study.multiple": "0: none",
    "study.variant_temperature": "0: greedy",
    "seeding.warmup": "0: none",
    "seeding.teacher_memory": "0: none",
    "seeding.teacher_decay": "0: none",
    "seeding.known_share": "0: as drawn",
    "seeding.epochs": "0: seeding.steps",
    "seeding.eval_steps": "0: none",
    "evaluation.own_questions": "0: none",
    "evaluation.task_items": "0: all",
    "gate.answers": "0: any",
    "seeding.null_space": "0: it sees all",
    "seeding.null_space_spare": "null_space alone decides",
    "seeding.num_prompts": "0: none",
    "seeding.max_grad_norm": "0: any",
    "seeding.max_grad_norm_ratio": "0: any",
    "seeding.rollout_warmup": "0: none",
    "seeding.rollout_start": "from the first update on",
    "seeding.max_consecutive_errors": "the first update that is not finite stops the night",
    "seeding.alpha": "imitation alone",
    "seeding.lam": "the teacher's sequences alone",
    "seeding.jsd_beta": "forward KL",
    "seeding.divergence_cap": "0: no cap",
    "seeding.kl_coef": "0: none",
    "seeding.entropy_coef": "0: none",
    "seeding.importance_cap": "0: none",
    "seeding.gamma": "r_abs alone",
    "seeding.prefix_range": "a sequence without a prefix",
    "seeding.threshold": "only an equal sequence earns r_abs",
    "dreaming.temperature": "0: greedy",
    "dreaming.rejection.min_words": "0: any",
    "dreaming.rejection.max_repeated": "nothing may have been said before",
    "dreaming.rejection.min_script": "0: any",
    "dreaming.rejection.min_known": "0: any",
    "dreaming.rejection.similarity": "0: never",
    "dreaming.curriculum.recent": "0: all",
    "dreaming.curriculum.weak": "0: none",
    "dreaming.curriculum.old": "0: none",
    "dreaming.keep_top": "0: none",
    "dreaming.keep_random": "0: none",
    "dreaming.interaction": "0: nothing",
    "dreaming.held_out": "refused, but in a run without dreams",
    "dreaming.max_per_document": "0: all",
    "dreaming.alpha": "the policy gradient alone",
    "dreaming.steps": "0: no dreams",
    "dreaming.ce_coef": "0: none",
    "dreaming.margin": "any rise is enough",
    "dreaming.trial.batch_size": "0: all",
    "dreaming.trial.max_grad_norm": "0: any",
    "evaluation.report_samples": "0: none",
}


def given(name, value):
    """A config with a value of any type."""
    c = default()
    with c.ignore_type():
        c.update_from_flattened_dict({name: value})
    return c


def refusal(name, value):
    """The error where a value is refused; None where it is not."""
    try:
        read(given(name, value))
    except (ValueError, OSError) as error:
        return str(error)
    return None


def filled(name, entry):
    """An entry as the value of the field, in a tuple where it is one."""
    entries = SETTINGS[name].entries
    return entry if entries is None else (entry,) * (entries or 1)


def assert_refused(name, value):
    message = refusal(name, value)
    assert message is not None, f"{name}={value!r} passed"
    assert message.startswith(f"{name}={value!r}; ") and len(message) < 300 and "\n" not in message


def test_defaults_are_valid():
    settings = read(default())
    assert settings == dataclasses.replace(settings)
    assert settings.memory.levels and settings.dreaming.writing.templates


@pytest.mark.parametrize("name", SETTINGS)
def test_every_field_has_help_and_range(name):
    setting = SETTINGS[name]
    assert 5 < len(setting.help) <= 100
    if setting.kind in (int, float):
        assert setting.least is not None or setting.above is not None
    assert setting.kind in (int, float, bool, str)
    assert setting.read(setting.default) is not None or setting.none == setting.default


@pytest.mark.parametrize("name", NUMBERS)
def test_number_out_of_range_is_refused(name):
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
def test_zero_is_refused_or_documented(name):
    value = filled(name, SETTINGS[name].kind(0))
    meaning = MEANING_OF_0.get(name)
    if meaning is None:
        return assert_refused(name, value)
    SETTINGS[name].read(value)  # in its range, whatever stands beside it
    if meaning.startswith("0: "):
        assert meaning in SETTINGS[name].help
    if message := refusal(name, value):  # where other settings contradict it
        assert f"{name}={SETTINGS[name].kind(0)}" in message


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


def test_unknown_field_of_a_preset_is_compared_with_none_that_is_unlike_it():
    c = default()
    c.seeding.zzzzzz = 3
    with pytest.raises(ValueError, match=r"seeding\.zzzzzz=3; no such field, --help"):
        read(c)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"wake.context": 100, "memory.periods": (1, 0), "memory.learning_rates": (0.1, 0.0)},
            "wake.context=100 holds less than memory.stride=256 tokens",
        ),
        (
            {"study.max_rehearsal_tokens": 321},
            "study.max_rehearsal_tokens=321 is more than a row scores, seeding.max_target_length",
        ),
        (
            {"study.readings": 1, "study.rehearsals": 0},
            "study.readings=1 asks .* study.rehearsals=0 writes none; set study.rehearsals to 1",
        ),
        (
            {"study.is_screened": True, "memory.from_context": False},
            "study.is_screened=True with memory.from_context=False, where nothing is studied; set",
        ),
        (
            {
                "study.is_screened": True,
                "memory.periods": (1, 0),
                "memory.learning_rates": (0.1, 0.0),
                "wake.context": 512,
            },
            "study.is_screened=True with memory.learning_rates=.*: levels learn every sentence by",
        ),
        (
            {"study.max_answer_tokens": 321},
            "study.max_answer_tokens=321 is more than a row scores, seeding.max_target_length=320",
        ),
        (
            {
                "memory.router": "sigmoid",
                "memory.router_key": "contrast",
                "study.rehearsals": 0,
            },
            "memory.router_key='contrast' .* study.rehearsals=0 writes nothing; raise it, or set",
        ),
        (
            {"study.multiple": 1, "study.max_variant_tokens": 321},
            "study.max_variant_tokens=321 is more than a row scores, seeding.max_target_length=320",
        ),
        (
            {"dreaming.restart": "base", "memory.on_full": "reuse"},
            "dreaming.restart='base' with memory.on_full='reuse'",
        ),
        (
            {"memory.expert": "lora", "seeding.null_space": 0.5},
            "seeding.null_space=0.5 with memory.expert='lora': .*; set seeding.null_space=0, or",
        ),
        (
            {f"study.{x}": 0 for x in ("recitations", "completions", "questions", "rehearsals")},
            "study.questions=0, study.rehearsals=0 leave a night nothing to learn; set one",
        ),
        (
            {"study.earlier_questions": 4, "seeding.known_teacher": "base"},
            "study.earlier_questions=4 with seeding.known_teacher='base', .*'before', or ",
        ),
        (
            {"study.questions": 0},
            "study.questions=0 leaves no question that could reward a dream; .* dreaming.steps=0",
        ),
        (
            {"seeding.alpha": 0.0, "seeding.num_prompts": 0},
            "seeding.num_prompts=0 with seeding.alpha=0.0, which learns from rollouts, "
            ".*mode='joint'",
        ),
        (
            {"seeding.mode": "staged", "seeding.num_prompts": 0},
            "seeding.num_prompts=0 with seeding.mode='staged', .* set seeding.mode='joint'",
        ),
        (
            {"seeding.alpha": 0.0, "seeding.rollout_start": 1.0},
            "seeding.rollout_start=1.0 with seeding.alpha=0.0, which learns from rollouts",
        ),
        (
            {"seeding.lam": 1.0, "seeding.num_prompts": 0},
            "seeding.num_prompts=0 with seeding.lam=1.0, which learns from rollouts, and there are "
            "none",
        ),
        (
            {"dreaming.temperature": 0.0, "dreaming.estimator": "grpo"},
            "dreaming.temperature=0 with dreaming.estimator='grpo': .* 'rest_em'",
        ),
        ({"seeding.teachers": ("a",)}, "seeding.teacher_weights=(1.0,) has 1 entries, .* 2 teach"),
    ],
)
def test_contradictory_settings_are_refused(changes, says):
    c = default()
    c.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=re.escape(says).replace(r"\.\*", ".*")):
        read(c)


def test_help_of_a_preset_shows_every_field_and_marks_what_it_changed():
    text = help_text(["launch.py", f"--config={PRESET}"], "", settings=SETTINGS)
    lines = text.partition("(* differs from the default):")[2].splitlines()
    given = {line[2:].partition("=")[0]: line[0] for line in lines if "--config." in line[:12]}
    assert set(given) == {f"--config.{name}" for name in SETTINGS}
    preset, defaults = (flatten_dict(c.to_dict(), sep=".") for c in (load(PRESET), default()))
    changed = {f"--config.{name}" for name in preset if preset[name] != defaults[name]}
    assert {name for name, mark in given.items() if mark == "*"} == changed
    assert max(map(len, lines)) <= 80
