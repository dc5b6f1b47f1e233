"""What wakes up: the judge by its name."""

import re
import runpy

import jax
import pytest

from sleep_jax import config as settings
from sleep_jax import experiment
from sleep_jax.dreaming.templates import FORMS
from sleep_jax.experiment import load_judge
from sleep_jax.interop.tiny import tiny_model
from sleep_jax.memory.memory_config import LevelConfig, MemoryConfig
from sleep_jax.rewards.judge import JUDGES
from sleep_jax.run_schedule import run_schedule


def test_judge_rules_by_name():
    pairs = ["The lamp is red at 5 km.", "a Lamp"], ["At 5 km, the lamp is red.", "The lamp!"]
    assert load_judge("agreement", None, None, None)(*pairs).tolist() == [1, 1]
    assert load_judge("exact", None, None, None)(*pairs).tolist() == [0, 1]


def test_model_judge_warns_of_poor_calibration(cfg, variables, tokenizer):
    with pytest.warns(UserWarning, match="this judge accepts"):  # its weights are random
        judge = load_judge("model", cfg, variables["params"], tokenizer)
    assert judge(["the same", "the red lamp"], ["the same", ""]).tolist() == [1, 0]
    assert judge.score(["a lamp"], ["a goat"]) == judge.score(["a goat"], ["a lamp"])


def test_unknown_judge_raises_before_loading(monkeypatch):
    monkeypatch.setattr(experiment, "load_model", None)  # to call it would be another error
    config = settings.default()
    config.seeding.judge = "jury"
    with pytest.raises(ValueError, match=r"seeding.judge='jury'; choose from ") as error:
        experiment.load_experiment(config)
    assert all(name in str(error.value) for name in JUDGES)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("scorer", "bleu", "dreaming.scorer='bleu'; choose from likelihood, "),
        ("scorer", "grid", "dreaming.scorer='grid'; choose from likelihood, "),
        ("reward", "best", "dreaming.reward='best'; choose from binary, "),
    ],
)
def test_invalid_reward_raises_before_loading(monkeypatch, field, value, message):
    monkeypatch.setattr(experiment, "load_model", None)
    config = settings.default()
    config.dreaming[field] = value
    with pytest.raises(ValueError, match=re.escape(message)):
        experiment.load_experiment(config)


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("study.questions", -1, "study.questions=-1; give a whole number at least 0"),
        ("study.max_answer_tokens", 0, "study.max_answer_tokens=0; give a whole number at least 1"),
        ("dreaming.held_out", 0, "dreaming.held_out=0 leaves no question to reward"),
        ("dreaming.instructions", ("recipe",), "dreaming.instructions names 'recipe'"),
    ],
)
def test_invalid_writing_raises_before_loading(monkeypatch, setting, value, message):
    monkeypatch.setattr(experiment, "load_model", None)
    config = settings.default()
    config.update_from_flattened_dict({setting: value})
    with pytest.raises(ValueError, match=re.escape(message)):
        experiment.load_experiment(config)


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("evaluation.max_new_tokens", -1, "=-1; give a whole number at least 1"),
        ("dreaming.top_p", 1.5, "=1.5; give a number from 1e-06 to 1"),
        ("seeding.learning_rate", float("inf"), "=inf; give auto, or a number above 0"),
        ("gate.anchors", float("nan"), "=nan; give a number above 0, or inf"),
        (
            "memory.learning_rates",
            (float("nan"),),
            "=(nan,); give a tuple of one or more, each -1, or a number",
        ),
        ("data.episodes", 0, "=0; give a whole number at least 1"),
        ("seed", -1, "=-1; give a whole number from 0 to 4294967295"),
        ("seeding.protocol", "foo", "='foo'; choose from commit_then_clear, paper"),
        ("model.dtype", "int32", "='int32'; choose from bfloat16, float32"),
        ("model.name", "", "=''; give text that is not empty (a folder"),
        ("model.date", "26 Jul 2024", "='26 Jul 2024'; give a day as YYYY-MM-DD"),
        ("model.thought_tokens", 0, "=0; give a whole number at least 1"),
        ("data.documents", "", "=''; give text that is not empty (text, PDF"),
        ("data.documents", "/none.txt", "='/none.txt' does not exist"),
        ("dreaming.templates", "/none.toml", "='/none.toml': no such file"),
        ("seeding.teacher_weights", (0.7,), "=(0.7,) sum to 0.7; they have to sum to 1"),
        ("seeding.teacher_weights", (0.5, 0.5), "=(0.5, 0.5) has 2 entries, but there are 1"),
        ("seeding.prefix_range", (0.5,), "=(0.5,); give a tuple of 2, each a number from 0 to 1"),
        ("seeding.prefix_range", (0.1, 0.9, 1), "=(0.1, 0.9, 1); give a tuple of 2, each a number"),
        ("seeding.prefix_range", (0.9, 0.1), "=(0.9, 0.1); give the lower share first"),
        ("memory.slots", (2.0,), "=(2.0,); give a tuple of one or more, each a whole number"),
        ("memory.periods", (), "=(); give a tuple of one or more, each a whole number"),
        ("memory.layers", "0, one", "='0, one'; give text that is not empty (layers with memory"),
        ("seed", 2**32, "=4294967296; give a whole number from 0 to 4294967295 ("),
        ("seed", 10**20, "=100000000000000000000; give a whole number from 0 to 4294967295"),
        ("study.temperature", 1e-40, "=1e-40; give 0, or a number at least 1e-06 ("),
        (
            "seeding.batch_size",
            2**31,
            "=2147483648; give a whole number at least 1, that 32 bits hold",
        ),
    ],
)
def test_invalid_field_raises_before_loading(monkeypatch, setting, value, message):
    monkeypatch.setattr(experiment, "load_model", None)
    config = settings.default()
    config.update_from_flattened_dict({setting: value})
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(f"{setting}{message}")):
        experiment.load_experiment(config)


def test_largest_seeds_have_distinct_keys():
    seeds = (0, 2**31 - 1, 2**31, 2**32 - 1)
    assert len({tuple(jax.random.key_data(jax.random.key(x)).tolist()) for x in seeds}) == 4


def test_unknown_template_raises_before_loading(monkeypatch):
    monkeypatch.setattr(experiment, "load_model", None)
    config = settings.default()
    config.dreaming.instructions = ("facts", "sonnets")
    with pytest.raises(ValueError, match=r"dreaming\.instructions has 'sonnets'"):
        experiment.load_experiment(config)


@pytest.mark.parametrize(
    ("slots", "router", "top_k", "days", "is_said"),
    [
        ((3,), "none", 0, 3, True),
        ((3,), "sigmoid", 0, 3, True),
        ((3,), "sigmoid", 3, 9, True),  # as many on as there are
        ((3,), "sigmoid", 1, 2, True),  # the second day ends with one slot, and that is on
        ((3,), "sigmoid", 1, 3, False),
        ((1, 3), "sigmoid", 1, 3, False),  # the second level has two
        ((2, 3), "sigmoid", 2, 5, True),  # the first hands its two on, the second has two at last
    ],
)
def test_random_expert_without_effect_warns(recwarn, slots, router, top_k, days, is_said):
    *fast, slow = slots
    levels = (*(LevelConfig(n, n) for n in fast), LevelConfig(0, slow))
    memory = MemoryConfig(levels, "episodes", router=router, top_k=top_k, on_full="reuse")
    experiment._check_random_expert(memory, run_schedule(memory, [9] * days))
    is_warning = ["dreaming.random_expert=True is a no-op" in str(w.message) for w in recwarn]
    assert is_warning == [True] * is_said


def test_random_expert_of_one_day_warns_once():
    config = settings.default()
    config.dreaming.random_expert = True
    with pytest.warns(UserWarning, match="random_expert=True is a no-op") as seen:
        experiment.load_experiment(config)
    assert len(seen) == 1


def test_teacher_with_too_few_positions_raises(monkeypatch):
    def load_model(name, **options):
        cfg, params, tokenizer = tiny_model(dtype="float32")
        return cfg.replace(max_position=64), params, tokenizer

    monkeypatch.setattr(experiment, "load_model", load_model)
    config = runpy.run_path("configs/sleep_tiny.py")["get_config"]()
    config.seeding.teachers, config.seeding.teacher_weights = ("small",), (0.5, 0.5)
    with pytest.raises(ValueError, match=r"^seeding\.teachers\[0\]='small' was trained on .* 64 "):
        experiment.load_experiment(config)


def test_chat_replies_have_room_for_a_thought():
    config = runpy.run_path("configs/sleep_tiny.py")["get_config"]()
    brief = settings.read(config)
    config.model.thinking, config.model.thought_tokens = True, 100
    long = settings.read(config)
    assert long.study.max_chat_tokens == brief.study.max_chat_tokens + 100
    assert long.study.max_answer_tokens == brief.study.max_answer_tokens
    assert long.study.max_question_tokens == brief.study.max_question_tokens
    writing, longer = brief.dreaming.writing, long.dreaming.writing
    assert [longer.max_tokens(f) - writing.max_tokens(f) for f in FORMS] == [100, 100, 0]
    assert longer.max_dream_tokens == writing.max_new_tokens + 100
    assert long.evaluation.max_new_tokens == brief.evaluation.max_new_tokens + 100
    config.model.thought_tokens = 300
    message = (
        r"model\.thought_tokens=300 beside study\.max_answer_tokens=8 exceed "
        r"seeding\.max_target_length=288"
    )
    with pytest.raises(ValueError, match=message):
        settings.read(config)


def test_thinking_without_template_support_raises():
    config = runpy.run_path("configs/sleep_tiny.py")["get_config"]()
    config.model.thinking, config.model.thought_tokens = True, 8
    with pytest.raises(
        ValueError, match=r"model\.thinking=True, but the chat template of the tiny"
    ):
        experiment.load_experiment(config)
