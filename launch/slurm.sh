#!/usr/bin/env bash
# A run on a Slurm cluster, or many runs as an array.
#
#   sbatch --gres=gpu:8 launch/slurm.sh --config=FILE ...
#   sbatch --nodes=2 --ntasks-per-node=8 --gres=gpu:8 launch/slurm.sh --config=FILE ...
#   sbatch --array=1-12 --gres=gpu:1 launch/slurm.sh COMMANDS.txt
#
# The first is one process with all accelerators of a node. The second is several processes: JAX wants
# one task a GPU then. In the third every task of the array runs one line of COMMANDS.txt, line 1 for
# task 1: a launch.py command as one would type it, or as `launch.py --sweep_print` prints it.
# Partition, account and time are sbatch's own: --partition, --account, --time, or SBATCH_PARTITION,
# SBATCH_ACCOUNT, SBATCH_TIMELIMIT in the environment. Submit from the root of the checkout.
#
# Optional:
#   PYTHON             of the environment that sleep_jax is installed in [python]
#   DRY_RUN=1          print the command; also without Slurm: DRY_RUN=1 launch/slurm.sh ...
#
# Two minutes before its time limit a run gets SIGTERM, saves a checkpoint and ends; the job, or the
# task of an array, is requeued and resumes. So is one that Slurm preempts; a cancelled job is not.
#SBATCH --job-name=sleep_jax
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%x-%A_%a.log
set -euo pipefail
# Slurm runs a copy of this file, from elsewhere.
root=${SLURM_SUBMIT_DIR:-$(dirname "${BASH_SOURCE[0]}")/..}
# shellcheck source=launch/common.sh
source "$root/launch/common.sh"
help_if_asked "$@"
if [[ -z "${SLURM_JOB_ID:-}" && "${DRY_RUN:-0}" != 1 ]]; then
  echo "error: not inside a Slurm job; type: sbatch launch/slurm.sh $*" >&2
  exit 2
fi
arguments=("$@")
if [[ "$1" != --* ]]; then
  if [[ -z "${SLURM_ARRAY_TASK_ID:-}" && -r "$1" ]]; then
    last=$(grep -n . "$1" | tail -n 1 | cut -d: -f1)
    echo "error: which line of $1? Submit an array: sbatch --array=1-$last ..." >&2
    exit 2
  fi
  arguments_of "$1" "${SLURM_ARRAY_TASK_ID:-1}"
fi

# Whether the job is neither cancelled nor preempted; Slurm itself requeues preempted jobs.
is_running() { [[ $(squeue --noheader --jobs="$job" --format=%T) == RUNNING ]]; }

cd "$root"
# SLURM_JOB_ID of the last task of an array is the id of the whole array.
job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
job=${job:-${SLURM_JOB_ID:-}}
# The run handles a SIGTERM to this script, too.
trap : TERM
# Tasks that stop end within a moment of one another, each with its own status; when one fails, the
# others have a minute.
status=0
run srun --kill-on-bad-exit=0 --wait=60 "${PYTHON:-python}" launch.py "${arguments[@]}" || status=$?
if ((status == stopped)); then
  if is_running && scontrol requeue "$job"; then
    echo "preempted; job $job is queued again"
  else
    echo "preempted; run the same sbatch command to resume"
  fi
fi
exit "$status"
