#!/usr/bin/env bash
# A run on a Cloud TPU VM, of one host or of many.
#
#   launch/tpu_vm.sh create                 creates the slice and waits for it
#   launch/tpu_vm.sh queue                  requests it as a queued resource, and exits
#   launch/tpu_vm.sh status                 prints the state of the slice, or of the request for it
#   launch/tpu_vm.sh setup                  copies this checkout (HEAD) to every worker, installs it
#   launch/tpu_vm.sh copy PATH ...          copies documents and the like, which are below this
#                                           directory and not committed, to every worker
#   launch/tpu_vm.sh run --config=FILE ...  starts python launch.py on every worker, and exits
#   launch/tpu_vm.sh tail                   follows the log of one worker
#   launch/tpu_vm.sh stop                   stops the run, which saves a checkpoint first
#   launch/tpu_vm.sh delete                 deletes the slice and the request for it
#
# Required:
#   PROJECT            the Google Cloud project
#   ZONE               e.g. us-east5-a
#   TPU_NAME           name of the slice
#   ACCELERATOR_TYPE   of create and queue, e.g. v5litepod-16, v4-32, v5p-16, v6e-16; what
#                      launch.py --aot says of it: --aot=v5litepod-16, or --aot=v5e:4x4
# Optional:
#   RUNTIME_VERSION    the image [the one for ACCELERATOR_TYPE]
#   SPOT=1             spot capacity: cheaper, and preempted at any time
#   WORKER             of tail: which worker [0]
#   HF_TOKEN           of run: for models that need a Hugging Face account; it is copied to every
#                      worker in a file
#   DRY_RUN=1          print the commands, run none
#
# Several hosts need a workdir that all of them can write to:
# launch/tpu_vm.sh run --config=configs/seeding_8b.py --workdir=gs://BUCKET/seeding_8b
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
help_if_asked "$@"
action=$1
shift
log=sleep_jax.log
pid=sleep_jax.pid

gcloud_tpu() { run gcloud compute tpus "$@" --project="$PROJECT" --zone="$ZONE"; }

# on WORKER COMMAND: runs a shell command there.
on() { gcloud_tpu tpu-vm ssh "$TPU_NAME" --worker="$1" --command="$2"; }

runtime_version() {
  if [[ -n "${RUNTIME_VERSION:-}" ]]; then
    echo "$RUNTIME_VERSION"
    return
  fi
  case "$ACCELERATOR_TYPE" in
    v5lite* | v5e*) echo v2-alpha-tpuv5-lite ;;
    v5p*) echo v2-alpha-tpuv5 ;;
    v6e*) echo v2-alpha-tpuv6e ;;
    v2* | v3* | v4*) echo tpu-ubuntu2204-base ;;
    *)
      echo "error: no image is known for ACCELERATOR_TYPE=$ACCELERATOR_TYPE; set RUNTIME_VERSION" >&2
      return 2
      ;;
  esac
}

# What every worker does with the copy. The Python of the images is too old for sleep_jax.
installation="set -e
mkdir -p ~/sleep_jax
tar -xzf ~/sleep_jax.tar.gz -C ~/sleep_jax
cd ~/sleep_jax
python3 -m pip install --quiet --user uv
[ -d .venv ] || python3 -m uv venv --quiet --python 3.12 .venv
python3 -m uv pip install --quiet --python .venv/bin/python -e '.[tpu,hf,gs,documents]'"

setup() {
  local root archive changed
  root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
  changed=$(git -C "$root" status --porcelain)
  if [[ -n "$changed" ]]; then
    echo "warning: what is not committed is not copied ($(head -n 3 <<<"$changed" | cut -c 4- |
      paste -sd ' ')$( (($(wc -l <<<"$changed") > 3)) && echo ' ...')); commit it and run setup" \
      "again, or, for documents: launch/tpu_vm.sh copy PATH" >&2
  fi
  archive=$(mktemp --suffix=.tar.gz)
  trap 'rm -f "$archive"' RETURN
  run git -C "$root" archive --format=tar.gz --output="$archive" HEAD
  gcloud_tpu tpu-vm scp "$archive" "$TPU_NAME:sleep_jax.tar.gz" --worker=all
  on all "$installation"
}

# copy PATH ...: below this directory, to the same place in the workers' checkout.
copy() {
  local archive path
  [[ $# -gt 0 ]] || { echo "error: what? e.g. copy my_notes/" >&2; exit 2; }
  for path in "$@"; do
    if [[ ! -e "$path" || "$path" == [/~]* || "/$path/" == */../* ]]; then
      echo "error: $path: give a file or folder below this directory, or put it into a bucket and" \
        "give gs://BUCKET/FOLDER" >&2
      exit 2
    fi
  done
  archive=$(mktemp --suffix=.tar.gz)
  trap 'rm -f "$archive"' RETURN
  run tar -czf "$archive" -- "$@"
  gcloud_tpu tpu-vm scp "$archive" "$TPU_NAME:copied.tar.gz" --worker=all
  on all "tar -xzf ~/copied.tar.gz -C ~/sleep_jax && rm ~/copied.tar.gz"
}

# The first commands of a worker: they check for the files of the arguments, and read the token.
preparation() {
  local path there
  while IFS= read -r path; do
    printf -v there '%q' "${path#\~/}"
    [[ "$path" == \~/* ]] && there=\~/$there
    printf '[ -e %s ] || { echo %q >&2; exit 2; }\n' "$there" "error: $path is not on this worker;\
 launch/tpu_vm.sh copy $path, or give gs://BUCKET/FOLDER"
  done < <(local_paths "$@")
  if [[ -n "${HF_TOKEN:-}" ]]; then
    # shellcheck disable=SC2016
    echo 'HF_TOKEN=$(cat ~/.sleep_jax_token) && export HF_TOKEN'
  fi
}

# Copies HF_TOKEN to every worker, where a command line would show it.
give_token() {
  local file
  [[ -n "${HF_TOKEN:-}" ]] || return 0
  file=$(mktemp)
  # shellcheck disable=SC2064
  trap "rm -f ${file@Q}" EXIT
  [[ "${DRY_RUN:-0}" == 1 ]] || printf '%s' "$HF_TOKEN" >"$file"
  gcloud_tpu tpu-vm scp "$file" "$TPU_NAME:.sleep_jax_token" --worker=all
}

start() {
  local arguments
  [[ $# -gt 0 ]] || { echo "error: which run? e.g. run --config=configs/seeding_8b.py" >&2; exit 2; }
  printf -v arguments '%q ' "$@"
  give_token
  on all "cd ~/sleep_jax || exit
$(preparation "$@")
if kill -0 \$(cat ~/$pid) 2>/dev/null; then
  echo 'error: a run is under way; wait for it, or: launch/tpu_vm.sh stop' >&2
  exit 1
fi
nohup .venv/bin/python launch.py ${arguments% } >>~/$log 2>&1 </dev/null &
echo \$! >~/$pid"
}

stop() { on all "kill -TERM \$(cat ~/$pid)"; }

need PROJECT ZONE TPU_NAME
need_program gcloud "see https://cloud.google.com/sdk/docs/install"
spot=()
[[ "${SPOT:-0}" == 1 ]] && spot=(--spot)
case "$action" in
  create)
    need ACCELERATOR_TYPE
    version=$(runtime_version)
    gcloud_tpu tpu-vm create "$TPU_NAME" --accelerator-type="$ACCELERATOR_TYPE" \
      --version="$version" "${spot[@]}"
    ;;
  queue)
    need ACCELERATOR_TYPE
    version=$(runtime_version)
    gcloud_tpu queued-resources create "$TPU_NAME" --node-id="$TPU_NAME" \
      --accelerator-type="$ACCELERATOR_TYPE" --runtime-version="$version" "${spot[@]}"
    ;;
  status)
    gcloud_tpu queued-resources describe "$TPU_NAME" --format='value(state.state)' ||
      gcloud_tpu tpu-vm describe "$TPU_NAME" --format='value(state)'
    ;;
  setup) setup ;;
  copy) copy "$@" ;;
  run) start "$@" ;;
  tail) on "${WORKER:-0}" "tail -n 50 -F ~/$log" ;;
  stop) stop ;;
  delete)
    # A queued slice is deleted with its request.
    gcloud_tpu queued-resources delete "$TPU_NAME" --force --quiet ||
      gcloud_tpu tpu-vm delete "$TPU_NAME" --quiet
    ;;
  *)
    echo "error: no action '$action'; --help lists them" >&2
    exit 2
    ;;
esac
