#!/usr/bin/env bash
# A run as several processes on this machine, to try what a pod will do; on CPUs unless JAX finds
# accelerators.
#
#   launch/local.sh PROCESSES --config=FILE ...
#
# e.g. launch/local.sh 2 --config=configs/sleep_tiny.py --workdir=/tmp/tiny
#
# Optional:
#   DEVICES            CPU devices of each process [1]
#   PORT               of the coordinator [a free one]
#   PYTHON             of the environment that sleep_jax is installed in [python]
#   DRY_RUN=1          print the commands, run none
#
# Process 0 prints to the terminal, the others into files that are named at the start. When one fails
# the others are stopped. A SIGTERM is passed on; when the run has saved a checkpoint this ends with
# status 75; run the same command to resume.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
help_if_asked "$@"
count=$1
shift
if [[ ! "$count" =~ ^[1-9][0-9]*$ || $# == 0 ]]; then
  echo "error: give the number of processes, then the arguments of launch.py; see --help" >&2
  exit 2
fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python}
free_port='import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'
port=${PORT:-$("$python" -c "$free_port")}
export JAX_NUM_CPU_DEVICES=${DEVICES:-1}
# Freed memory is kept for the next arrays (sleep_jax/runtime/allocator.py).
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=40000000000}

logs=$(mktemp -d)
pids=()
should_stop=0
stop() { [[ ${#pids[@]} == 0 ]] || kill "${pids[@]}" 2>/dev/null || true; }
trap 'should_stop=1; stop' TERM
trap 'stop; wait' EXIT
for ((i = count - 1; i >= 0; i--)); do
  command=("$python" launch.py "$@" --coordinator="127.0.0.1:$port" --num_processes="$count"
    --process_id="$i")
  if [[ "${DRY_RUN:-0}" == 1 ]]; then
    run "${command[@]}"
  elif ((i)); then
    echo "process $i: $logs/$i.log"
    "${command[@]}" >"$logs/$i.log" 2>&1 &
    pids+=($!)
  else
    "${command[@]}" &
    pids+=($!)
  fi
done
for ((i = 0; i < ${#pids[@]}; i++)); do
  status=0
  wait -n || status=$?
  if ((should_stop || status == stopped)); then
    wait # the processes agree on where to stop
    echo "preempted; run the same command to resume"
    exit "$stopped"
  fi
  if ((status)); then
    echo "error: a process ended with status $status; the others are stopped (logs in $logs)" >&2
    exit "$status"
  fi
done
