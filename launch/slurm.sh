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
# Two minutes before its time is over a run gets SIGTERM; a preempted one is queued again. The same
# command goes on where the run was.
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
  need SLURM_ARRAY_TASK_ID
  [[ -r "$1" ]] || { echo "error: $1: no such file of commands" >&2; exit 2; }
  line=$(sed -n "${SLURM_ARRAY_TASK_ID}p" "$1")
  [[ -n "$line" ]] || { echo "error: $1 has no line $SLURM_ARRAY_TASK_ID" >&2; exit 2; }
  # xargs reads quotes as a shell does, and runs nothing.
  mapfile -t arguments < <(xargs -n1 printf '%s\n' <<<"$line")
  [[ "${arguments[1]:-}" == *launch.py ]] || {
    echo "error: line $SLURM_ARRAY_TASK_ID of $1 is no 'python launch.py ...': $line" >&2
    exit 2
  }
  arguments=("${arguments[@]:2}")
fi
cd "$root"
run srun --kill-on-bad-exit=1 "${PYTHON:-python}" launch.py "${arguments[@]}"
