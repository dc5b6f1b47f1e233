"""What the tests of launch/ share: running a script, and stand-ins for the programs it calls."""

import pathlib
import subprocess
import time

ROOT = pathlib.Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
TPU = {"PROJECT": "p", "ZONE": "z", "TPU_NAME": "t", "ACCELERATOR_TYPE": "v5litepod-16"}
RUN = ("--config=a.py", "--workdir=gs://bucket/run")


def run_script(script, *arguments, path="", **variables):
    """Runs a script of launch/ with these environment variables alone; returns what it ended with.

    Args:
      script: name of its file.
      *arguments: of the script.
      path: folder with stand-ins, first on PATH and HOME.
      **variables: of the environment.
    """
    environment = {"PATH": f"{path}:/usr/bin:/bin", "HOME": str(path or "/nonexistent")}
    return subprocess.run(
        [LAUNCH / script, *arguments],
        env=environment | variables, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def dry_run(script, *arguments, **variables):
    """The commands that a script would run, as lists of words: what it prints with DRY_RUN=1."""
    done = run_script(script, *arguments, DRY_RUN="1", **variables)
    assert done.returncode == 0, done.stderr
    commands = [f"printf '%s\\0' {line}" for line in done.stdout.splitlines()]
    printed = [subprocess.run(["bash", "-c", x], capture_output=True, text=True) for x in commands]
    return [x.stdout.split("\0")[:-1] for x in printed]


def stand_in(folder, name, body):
    """Writes a bash program of this name into a folder; returns its path."""
    file = folder / name
    file.write_text(f"#!/bin/bash\n{body}\n")
    file.chmod(0o755)
    return file


def wait_for(file, words):
    """The text of a file as soon as it holds these words, which it has to within four seconds."""
    for _ in range(200):
        if file.exists() and words in file.read_text():
            return file.read_text()
        time.sleep(0.02)
    raise AssertionError(f"{file} never said {words!r}")
