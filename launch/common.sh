# shellcheck shell=bash
# What the scripts of this folder share. Sourced, not run.

# Exit status of a run that was preempted and has saved a checkpoint (sleep_jax/runtime/preemption.py).
# shellcheck disable=SC2034
stopped=75

# Prints the comment at the top of the script that was started.
usage() {
  awk 'NR > 1 && /^#/ { sub(/^# ?/, ""); print; next } NR > 1 { exit }' "$0"
}

# Prints usage and exits for --help, or without any argument.
help_if_asked() {
  case "${1:-}" in
    "" | -h | --help | help)
      usage
      exit 0
      ;;
  esac
}

# Exits with a message unless the variables are set: need PROJECT ZONE ...
need() {
  local variable is_missing=0
  for variable in "$@"; do
    if [[ -z "${!variable:-}" ]]; then
      echo "error: $variable is not set; $(basename "$0") --help says what it is, then: export $variable=..." >&2
      is_missing=1
    fi
  done
  [[ $is_missing == 0 ]] || exit 2
}

# Exits unless the variables hold whole numbers of at least LEAST: need_count LEAST CHIPS ...
need_count() {
  local variable least=$1
  shift
  for variable in "$@"; do
    if [[ ! "${!variable}" =~ ^(0|[1-9][0-9]*)$ ]] || ((${!variable} < least)); then
      echo "error: $variable=${!variable}; give a whole number, at least $least" >&2
      exit 2
    fi
  done
}

# Exits unless a program is installed: need_program gcloud "where to get it".
need_program() {
  if [[ "${DRY_RUN:-0}" != 1 ]] && ! command -v "$1" >/dev/null; then
    echo "error: $1 is not installed; $2" >&2
    exit 2
  fi
}

# arguments_of FILE NUMBER: sets the array `arguments` to the arguments of launch.py in line NUMBER of a
# file of commands, as `launch.py --sweep_print` prints them.
arguments_of() {
  local line
  [[ -r "$1" ]] || { echo "error: $1: no such file of commands" >&2; exit 2; }
  line=$(sed -n "${2}p" "$1")
  [[ -n "$line" ]] || { echo "error: $1 has no line $2, or an empty one" >&2; exit 2; }
  # xargs parses quotes as a shell does, without running anything.
  mapfile -t arguments < <(xargs -n1 printf '%s\n' <<<"$line")
  [[ "${arguments[1]:-}" == *launch.py ]] || {
    echo "error: line $2 of $1 is no 'python launch.py ...': $line" >&2
    exit 2
  }
  arguments=("${arguments[@]:2}")
}

# local_paths ARGUMENT ...: the values of --config.FIELD=VALUE that are files or folders on this machine,
# one a line; a run on another machine needs them there, too.
local_paths() {
  local word value=""
  for word in "$@"; do
    [[ "$value" == next ]] && value=$word || value=""
    [[ "$word" == --config.*=* ]] && value=${word#*=}
    if [[ -n "$value" && -e "${value/#\~\//$HOME/}" ]]; then
      printf '%s\n' "$value"
    fi
    [[ "$word" == --config.* && "$word" != *=* ]] && value=next
  done
}

# Runs a command, or with DRY_RUN=1 prints it, quoted for a shell.
run() {
  if [[ "${DRY_RUN:-0}" != 1 ]]; then
    "$@"
    return
  fi
  local word line=""
  for word in "$@"; do
    [[ "$word" =~ ^[A-Za-z0-9_./:=,@%+~-]+$ ]] || word=${word@Q}
    line+="$word "
  done
  printf '%s\n' "${line% }"
}
