"""The presets in `configs/`: what each can be read as, what it says, and who may build on one."""

import math
import pathlib
import subprocess
import sys

import pytest

from sleep_jax.cli.config_files import load
from sleep_jax.config import default, read
from sleep_jax.memory.schedule import plan
from sleep_jax.programs.abstract import decoder_of
from sleep_jax.run_schedule import run_schedule
from sleep_jax.setting import AUTO

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted(ROOT.glob("configs/**/[!_]*.py"))
PRESETS = [str(path) for path in FILES]
VARIANTS = [f"{path}:{levels}" for path in PRESETS if "levels_" in path for levels in "234"]


@pytest.mark.parametrize("preset", [*PRESETS, *VARIANTS])
def test_preset_is_a_valid_config(preset):
    read(load(preset))


@pytest.mark.parametrize(
    ("name", "rate"),
    # 1e-2 * sqrt(16 * 576 / (64 * width)), width 4096, 2048, 4096.
    [("seeding_8b", 1.875e-3), ("seeding_1p7b", 2.652e-3), ("seeding_llama3_8b", 1.875e-3)],
)
def test_large_preset_has_a_rate_that_follows_its_width_and_does_not_think(name, rate):
    config = load(str(ROOT / f"configs/{name}.py"))
    assert config.seeding.learning_rate == AUTO and not config.model.thinking
    night = read(config).seeding.at_level(decoder_of(config), 1)
    assert night.learning_rate == pytest.approx(rate, rel=1e-3)


def test_paper_preset_differs_in_rate_and_gate_alone():
    ours, theirs = (load(str(ROOT / f"configs/{x}.py")) for x in ("seeding_8b", "seeding_8b_paper"))
    assert (theirs.seeding.learning_rate, theirs.gate.divergence) == (5e-6, math.inf)
    theirs.seeding.learning_rate, theirs.gate.divergence = AUTO, ours.gate.divergence
    assert theirs.to_dict() == ours.to_dict()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_docstring_gives_the_command_and_what_to_expect(path):
    text = path.read_text().split('"""')[1]
    for line_start in ("score   ", "time    ", "memory  ", "device  ", "    python launch.py --"):
        assert f"\n{line_start}" in text
    assert str(path.relative_to(ROOT)) in text


def test_file_elsewhere_builds_on_a_preset(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from configs import sleep_tiny\n"
        "def get_config():\n"
        "    c = sleep_tiny.get_config()\n"
        "    c.memory.slots = (7,)\n"
        "    return c\n"
    )
    done = subprocess.run(
        [sys.executable, ROOT / "launch.py", "--config=mine.py", "--plan=3"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "at most 3 of 7 slots in use" in done.stdout


@pytest.mark.parametrize(
    "name",
    ["sleep_tiny", "sleep_smollm2", "seal", "ladder"]
    + ["seeding_8b", "seeding_1p7b", "seeding_llama3_8b"]
    + [f"levels_{model}:{k}" for model in ("tiny", "smollm2") for k in (2, 3, 4)]
    + ["sweeps/alpha_tiny", "sweeps/seeding_ablation"],
)
def test_presets_change_only_known_settings(name):
    file, _, variant = name.partition(":")
    config = load(f"configs/{file}.py:{variant}" if variant else f"configs/{file}.py")
    defaults = default()
    assert set(config.to_dict()) == set(defaults.to_dict())
    for section in (
        "mesh",
        "study",
        "seeding",
        "dreaming",
        "data",
        "model",
        "memory",
        "wake",
        "gate",
    ):
        assert set(config[section]) == set(defaults[section])
    memory = read(config).memory
    if config.memory.unit == "episodes":
        assert run_schedule(memory, [300] * config.data.episodes)
        assert not any(s.exceeds_slots for s in plan(memory, config.data.episodes))
