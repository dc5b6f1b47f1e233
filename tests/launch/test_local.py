"""launch/local.sh: several processes on this machine."""

import pathlib
import signal
import subprocess
import sys
import time

from launch_scripts import LAUNCH, dry_run, run_script, stand_in, wait_for

from sleep_jax.runtime.preemption import STATUS


def test_local_processes_share_an_address(tmp_path):
    commands = dry_run("local.sh", "3", "--config=a.py", PYTHON=sys.executable)
    assert [x[-1] for x in commands] == ["--process_id=2", "--process_id=1", "--process_id=0"]
    assert len({x[-3] for x in commands}) == 1 and commands[0][-3].startswith(
        "--coordinator=127.0.0.1:"
    )
    assert {x[-2] for x in commands} == {"--num_processes=3"}


def test_failure_of_a_local_process_stops_the_others(tmp_path):
    python = stand_in(
        tmp_path, "python",
        f'[[ $* == *process_id=1* ]] && exit 3; echo $$ >{tmp_path}/pid; exec sleep 60',
    )  # fmt: skip
    begin = time.monotonic()
    done = run_script("local.sh", "2", "--config=a.py", PYTHON=str(python), PORT="1234")
    assert done.returncode == 3 and "ended with status 3" in done.stderr
    assert time.monotonic() - begin < 30
    pid = tmp_path / "pid"
    if pid.exists():  # else it was stopped before it spoke
        time.sleep(0.2)
        assert not pathlib.Path(f"/proc/{pid.read_text().strip()}").exists()
    assert run_script("local.sh", "many", "--config=a.py").returncode == 2


def test_sigterm_reaches_all_local_processes(tmp_path):
    trap = f"trap 'sleep 0.2; echo saved >>{tmp_path}/said; exit {STATUS}' TERM"
    python = stand_in(
        tmp_path, "python",
        f"{trap}\necho begun >>{tmp_path}/begun\nfor i in {{1..200}}; do sleep 0.05; done",
    )  # fmt: skip
    variables = {"PATH": "/usr/bin:/bin", "PYTHON": str(python), "PORT": "1234"}
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    script = subprocess.Popen([LAUNCH / "local.sh", "2", "--config=a.py"], env=variables, **quiet)
    wait_for(tmp_path / "begun", "begun\nbegun")
    script.send_signal(signal.SIGTERM)
    printed, _ = script.communicate(timeout=30)
    assert script.returncode == STATUS and "error" not in printed, printed
    assert "preempted; run the same command to resume" in printed
    assert (tmp_path / "said").read_text() == "saved\nsaved\n"


def test_preempted_local_process_waits_for_the_others(tmp_path):
    late = f"trap 'echo cut >>{tmp_path}/said' TERM; sleep 0.3; echo saved >>{tmp_path}/said"
    python = stand_in(
        tmp_path, "python", f"[[ $* == *process_id=1* ]] || {{ {late}; }}\nexit {STATUS}"
    )
    done = run_script("local.sh", "2", "--config=a.py", PYTHON=str(python), PORT="1234")
    assert done.returncode == STATUS and not done.stderr
    assert (tmp_path / "said").read_text() == "saved\n"
