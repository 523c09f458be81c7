#!/usr/bin/env bash
# Usage: tools/dist_generate.sh CONFIG CHECKPOINT GPUS [options of tools/generate_dataset.py]
# Without a GPU it starts as many processes on the CPU.
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,3s/^# //p' "$0" >&2; exit 2; }
source "$(dirname "$0")/_launch.sh"
launch generate_dataset.py "$3" "$1" "$2" "${@:4}"
