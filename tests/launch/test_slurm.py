"""launch/slurm.sh: one run or an array, with stand-ins for Slurm's programs."""

import pytest
from launch_scripts import ROOT, dry_run, run_script, stand_in

from sleep_jax.runtime.preemption import STATUS


@pytest.fixture
def slurm(tmp_path):
    """Runs slurm.sh with stand-ins for Slurm's programs: (status of the run, state of the job,
    variables) -> (status of the script, arguments of `scontrol`).
    """

    def submit(status, state, **more):
        log = tmp_path / "scontrol.log"
        log.write_text("")
        # Slurm may signal the script, too.
        stand_in(tmp_path, "srun", f"kill -TERM $PPID; exit {status}")
        stand_in(tmp_path, "squeue", f'[[ $* == *--jobs="$EXPECTED "* ]] && echo {state}')
        stand_in(tmp_path, "scontrol", f'echo "$@" >>{log}')
        task = {"SLURM_JOB_ID": "9", "SLURM_SUBMIT_DIR": str(ROOT), "EXPECTED": "9"} | more
        done = run_script("slurm.sh", "--config=a.py", path=tmp_path, **task)
        return done.returncode, log.read_text().split()

    return submit


def test_slurm_runs_the_command_line_or_one_line_of_a_file_for_each_array_task(commands):
    task = {"SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": str(ROOT)}
    [single] = dry_run("slurm.sh", "--config=a.py", "--config.x=a b", **task)
    assert single[-3:] == ["launch.py", "--config=a.py", "--config.x=a b"] and single[0] == "srun"
    [second] = dry_run("slurm.sh", str(commands), SLURM_ARRAY_TASK_ID="2", **task)
    assert second[-4:] == ["launch.py", "--config=b.py", "--config.x=(1, 2)", "--workdir=/runs/b"]
    done = run_script("slurm.sh", str(commands), SLURM_ARRAY_TASK_ID="3", **task)
    assert done.returncode == 2 and "has no line 3" in done.stderr
    done = run_script("slurm.sh", str(commands), **task)
    assert done.returncode == 2 and "sbatch --array=1-2 " in done.stderr
    done = run_script("slurm.sh", "command.txt", **task)
    assert done.returncode == 2 and "command.txt: no such file of commands" in done.stderr
    commands.write_text("rm -r runs\n")
    done = run_script("slurm.sh", str(commands), SLURM_ARRAY_TASK_ID="1", **task)
    assert done.returncode == 2 and "is no 'python launch.py ...': rm -r runs" in done.stderr
    done = run_script("slurm.sh", "--config=a.py")
    assert done.returncode == 2 and "type: sbatch launch/slurm.sh --config=a.py" in done.stderr


def test_slurm_requeues_preempted_runs_alone(slurm):
    assert slurm(STATUS, "RUNNING") == (STATUS, ["requeue", "9"])
    assert slurm(STATUS, "COMPLETING") == (STATUS, [])  # cancelled
    for status in (0, 1, 2, 143):
        assert slurm(status, "RUNNING") == (status, [])
    # The last task of an array has the id of the whole.
    task = {"SLURM_ARRAY_JOB_ID": "9", "SLURM_ARRAY_TASK_ID": "4", "EXPECTED": "9_4"}
    assert slurm(STATUS, "RUNNING", **task) == (STATUS, ["requeue", "9_4"])
