"""Our side of the benchmarks against other libraries does its steps."""

import json
import subprocess
import sys

import pytest

SHAPE = {
    **{"vocab": 64, "width": 32, "hidden": 64, "layers": 2, "heads": 2, "kv_heads": 1},
    **{"head_dim": 16, "rope_theta": 1e4, "dtype": "float32", "prompt": 8, "new": 4},
}
TASKS = {
    "sampler": {"rows": 2, "temperature": 1.0},
    "seeding": {"rows": 4, "document": 8, "rank": 2, "slots": 2, "group": 2, "remat": "none"},
    "trials": {
        **{"trials": 2, "at_a_time": 2, "chunk": 2, "epochs": 1, "time": 16, "questions": 1},
        **{"rank": 2, "targets": ["gate", "up", "down"]},
    },
}
PHASES = {"sampler": set(), "seeding": {"rollout", "teacher", "update"}}
PHASES["trials"] = {"train", "answer"}


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_runner_answers_each_request_with_the_seconds_of_its_phases(task):
    spec = json.dumps(SHAPE | TASKS[task] | {"task": task})
    script = "benchmarks/peers/sleep_jax_runner.py"
    ran = subprocess.run(
        [sys.executable, script, spec], input="step\nstep\n", capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    answers = [json.loads(line) for line in ran.stdout.splitlines()]
    assert len(answers) == 2
    for answer in answers:
        assert answer["phases"].keys() == PHASES[task]
        assert answer["seconds"] >= sum(answer["phases"].values())


@pytest.mark.slow
def test_device_measures_every_part_and_writes_it(tmp_path):
    small = "--model SmolLM2-135M-Instruct --layers 2 --vocab 512 --new 4 --minutes 60"
    sizes = "--batches 2 --trials 2"
    command = [sys.executable, "benchmarks/device.py", *small.split(), *sizes.split()]
    out = tmp_path / "device.json"
    ran = subprocess.run([*command, f"--out={out}"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    lines = json.loads(out.read_text())
    parts = {line["part"] for line in lines}
    assert parts == {"resume", "device", "rollouts", "update", "trials", "memory"}
    assert lines[0]["value"].startswith("ends with the same bits")
    assert {line["part"] for line in lines if line.get("share", 0) > 0} == {"rollouts", "update"}
    assert "| rollouts | batch 2 |" in ran.stdout
