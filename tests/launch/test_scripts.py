"""What all scripts of launch/ have in common."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest
from launch_scripts import LAUNCH, ROOT, TPU, run_script

SCRIPTS = sorted(x.name for x in LAUNCH.glob("*.sh") if os.access(x, os.X_OK))


def test_scripts_pass_shellcheck():
    environment = pathlib.Path(sys.executable).parent
    shellcheck = shutil.which("shellcheck", path=f"{environment}:{os.environ['PATH']}")
    if shellcheck is None:
        pytest.skip("shellcheck comes with pip install -e '.[test]'")
    files = [*LAUNCH.glob("*.sh"), ROOT / ".ci" / "run"]
    done = subprocess.run(
        [shellcheck, "-x", *files], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_the_header_of_the_script(script):
    text = (LAUNCH / script).read_text()
    assert "\nset -euo pipefail\n" in text
    shown = run_script(script, "--help")
    assert shown.returncode == 0 and f"launch/{script}" in shown.stdout
    assert shown.stdout == run_script(script).stdout
    assert "DRY_RUN=1" in shown.stdout and "#" not in shown.stdout


@pytest.mark.parametrize("script", ["tpu_vm.sh", "gke.sh"])
def test_missing_variable_is_named(script):
    done = run_script(script, "--config=x" if script == "gke.sh" else "create", DRY_RUN="1")
    names = ["NAME"] if script == "gke.sh" else ["PROJECT", "ZONE", "TPU_NAME"]
    assert done.returncode == 2 and not done.stdout
    assert all(f"error: {name} is not set" in done.stderr for name in names)


def test_missing_program_is_named(tmp_path):
    for name in ("bash", "env", "basename", "dirname", "awk"):
        (tmp_path / name).symlink_to(shutil.which(name))
    done = subprocess.run(
        [LAUNCH / "tpu_vm.sh", "create"], env={"PATH": str(tmp_path), **TPU},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2 and "gcloud is not installed; see https://" in done.stderr
