#!/usr/bin/env bash
# A run on GKE, or many: fills in gke_jobset.yaml and applies it, one pod a TPU host.
#
#   launch/gke.sh --config=FILE ...         starts python launch.py with these arguments; the disk
#                                           of a pod is deleted with it: give --workdir=gs://BUCKET/RUN
#   launch/gke.sh COMMANDS.txt              starts every line of a file as a JobSet of its own, NAME-1
#                                           for line 1: launch.py commands, e.g. those that
#                                           launch.py --sweep_print prints
#   launch/gke.sh logs                      follows the log of the first pod
#   launch/gke.sh delete                    deletes the JobSet
#   launch/gke.sh image                     builds the image of this checkout and pushes it
#
# Required:
#   NAME               name of the JobSet; for logs and delete of one of COMMANDS.txt: NAME-1
#   IMAGE              the image, e.g. REGION-docker.pkg.dev/PROJECT/REPOSITORY/sleep_jax:1
#   ACCELERATOR        of a run: cloud.google.com/gke-tpu-accelerator of the node pool, e.g.
#                      tpu-v5-lite-podslice, tpu-v5p-slice, tpu-v6e-slice
#   TOPOLOGY           of a run: cloud.google.com/gke-tpu-topology of the node pool, e.g. 4x4
# Optional:
#   CHIPS              chips of a host [4]
#   SLICES             how many slices [1]
#   RESTARTS           how often a preempted or failed run is restarted, and resumes [100]
#   HF_TOKEN           for models that need a Hugging Face account; the pods read it from a Secret,
#                      NAME-hf-token, which `delete` deletes, too
#   SERVICE_ACCOUNT    the pods' Kubernetes service account, which may write to the bucket [default]
#   DRY_RUN=1          print the manifest or the command, apply nothing
#
# The cluster needs the JobSet controller and kubectl its credentials (launch/README.md). Several
# hosts write to a bucket: launch/gke.sh --config=configs/seeding_8b.py --workdir=gs://BUCKET/run
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
help_if_asked "$@"
folder=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# hosts_of TOPOLOGY CHIPS: 4x4 in hosts of 4 chips are 4.
hosts_of() {
  local chips=1 side
  for side in ${1//x/ }; do
    [[ "$side" =~ ^[1-9][0-9]*$ ]] || { echo "error: TOPOLOGY=$1; give e.g. 4x4" >&2; return 2; }
    chips=$((chips * side))
  done
  if ((chips % $2)); then
    echo "error: TOPOLOGY=$1 has $chips chips, no multiple of CHIPS=$2 of a host; set CHIPS" >&2
    return 2
  fi
  echo $((chips / $2))
}

# as_yaml ARGUMENT ...: a JSON list, which is YAML, too.
as_yaml() {
  local argument list=""
  for argument in "$@"; do
    argument=${argument//\\/\\\\}
    list+="\"${argument//\"/\\\"}\", "
  done
  echo "[${list%, }]"
}

# manifest NAME ARGUMENT ...
manifest() {
  local jobset=$1 word before="" workdir="" text field hosts longest LC_ALL=C
  shift
  need_count 1 CHIPS SLICES
  need_count 0 RESTARTS
  for word in "$@"; do
    [[ "$before" == --workdir ]] && workdir=$word
    [[ "$word" == --workdir=* ]] && workdir=${word#*=}
    before=$word
  done
  if [[ "$workdir" != /* && "$workdir" != *://* ]]; then
    echo "error: --workdir=$workdir: a pod's own disk goes with it; give --workdir=gs://BUCKET/RUN," \
      "or a folder that you mount in gke_jobset.yaml" >&2
    return 2
  fi
  while IFS= read -r field; do
    [[ "$field" == [/~]* || ! -e "$folder/../$field" ]] || continue
    echo "error: $field is not in the image: put it into this checkout and say launch/gke.sh image" \
      "again, or into a bucket and give gs://BUCKET/FOLDER" >&2
    return 2
  done < <(local_paths "$@")
  hosts=$(hosts_of "$TOPOLOGY" "$CHIPS") || return
  # What Kubernetes calls the last pod has to be a label.
  longest=$jobset-slice-$((SLICES - 1))-$((hosts - 1))-abcde
  if [[ ! "$jobset" =~ ^[a-z]([a-z0-9-]*[a-z0-9])?$ ]] || ((${#longest} > 63)); then
    echo "error: NAME: a JobSet cannot be called $jobset; lower-case letters, digits and - may be" \
      "in it, a letter first, $((63 - ${#longest} + ${#jobset})) characters at most" >&2
    return 2
  fi
  local -A values=(
    [NAME]=$jobset [IMAGE]=$IMAGE [ACCELERATOR]=$ACCELERATOR [TOPOLOGY]=$TOPOLOGY [CHIPS]=$CHIPS
    [HOSTS]=$hosts [SLICES]=$SLICES [RESTARTS]=$RESTARTS [SERVICE_ACCOUNT]=$SERVICE_ACCOUNT
    [ARGUMENTS]=$(as_yaml "$@")
  )
  text=$(<"$folder/gke_jobset.yaml")
  for field in "${!values[@]}"; do
    text=${text//"{{$field}}"/"${values[$field]}"}
  done
  printf '%s\n' "$text"
}

# secret NAME: the manifest of a JobSet's token, where there is one; what is printed does not show it.
secret() {
  local token="<HF_TOKEN in base64>"
  [[ -n "${HF_TOKEN:-}" ]] || return 0
  [[ "${DRY_RUN:-0}" == 1 ]] || token=$(printf '%s' "$HF_TOKEN" | base64 --wrap=0)
  printf '%s\n' "apiVersion: v1" "kind: Secret" "metadata:" "  name: $1-hf-token" "data:" \
    "  HF_TOKEN: \"$token\"" "---"
}

# start FILLED: applies manifests, or prints them.
start() {
  if [[ "${DRY_RUN:-0}" == 1 ]]; then
    printf '%s\n' "$1"
  else
    need_program kubectl "see https://kubernetes.io/docs/tasks/tools"
    kubectl apply --filename=- <<<"$1"
  fi
}

need NAME
CHIPS=${CHIPS:-4} SLICES=${SLICES:-1} RESTARTS=${RESTARTS:-100}
SERVICE_ACCOUNT=${SERVICE_ACCOUNT:-default}
case "$1" in
  logs)
    need_program kubectl "see https://kubernetes.io/docs/tasks/tools"
    run kubectl logs --follow \
      --selector="jobset.sigs.k8s.io/jobset-name=$NAME,batch.kubernetes.io/job-completion-index=0"
    ;;
  delete)
    need_program kubectl "see https://kubernetes.io/docs/tasks/tools"
    run kubectl delete jobset "$NAME"
    run kubectl delete secret "$NAME-hf-token" --ignore-not-found
    ;;
  image)
    need IMAGE
    need_program docker "see https://docs.docker.com/engine/install"
    run docker build --file="$folder/Dockerfile" --tag="$IMAGE" "$folder/.."
    run docker push "$IMAGE"
    ;;
  --*)
    need IMAGE ACCELERATOR TOPOLOGY
    filled=$(manifest "$NAME" "$@")
    token=$(secret "$NAME")
    start "${token:+$token$'\n'}$filled"
    ;;
  *)
    [[ -f "$1" ]] || { echo "error: no action and no file '$1'; --help lists them" >&2; exit 2; }
    need IMAGE ACCELERATOR TOPOLOGY
    count=$(grep -c '' "$1" || :)
    filled=""
    for ((i = 1; i <= count; i++)); do
      [[ -n "$(sed -n "${i}p" "$1")" ]] || continue
      arguments_of "$1" "$i"
      one=$(manifest "$NAME-$i" "${arguments[@]}") || { echo "in line $i of $1" >&2; exit 2; }
      token=$(secret "$NAME-$i")
      filled+="---"$'\n'"${token:+$token$'\n'}$one"$'\n'
    done
    [[ -n "$filled" ]] || { echo "error: $1 has no line; give one command a line" >&2; exit 2; }
    start "${filled%$'\n'}"
    ;;
esac
