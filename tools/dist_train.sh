#!/usr/bin/env bash
# Usage: tools/dist_train.sh CONFIG GPUS [options of tools/train.py]
# Without a GPU it starts as many processes on the CPU.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,3s/^# //p' "$0" >&2; exit 2; }
source "$(dirname "$0")/_launch.sh"
launch train.py "$2" "$1" "${@:3}"
