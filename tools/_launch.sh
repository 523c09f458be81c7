# Sourced by dist_train.sh and dist_test.sh, which take these from the environment
# as mmsegmentation's scripts do: NNODES, NODE_RANK, PORT, MASTER_ADDR, PYTHON.

# launch TOOL GPUS CONFIG [arguments of the tool]
#
# What the user can mend is said once, below all that the processes and their
# launcher print: the tools leave it in a file for us.
launch() {
    local tool=$1 gpus=$2 said code=0
    # Without a folder for it every process says it itself.
    said=$(mktemp -d) || said=''
    # shellcheck disable=SC2064
    trap "tell '$said' '$tool' '$3' '$gpus'" EXIT
    SEMFLOW_ERROR_FILE="${said:+$said/error}" \
    PYTHONPATH="$(dirname "$0")/..:${PYTHONPATH:-}" \
    "${PYTHON:-python}" -m torch.distributed.run \
        --nnodes="${NNODES:-1}" \
        --node_rank="${NODE_RANK:-0}" \
        --master_addr="${MASTER_ADDR:-127.0.0.1}" \
        --nproc_per_node="$gpus" \
        --master_port="${PORT:-29500}" \
        "$(dirname "$0")/$tool" "${@:3}" --launcher pytorch || code=$?
    return $code
}

# tell FOLDER TOOL CONFIG GPUS
tell() {
    if [ -s "$1/error" ]; then
        cat "$1/error" >&2
        if [ "$2" = train.py ] && grep -qs . "$3" && [ "${3#*comparison/}" = "$3" ]; then
            echo "To see at once what else is missing: python" \
                "$(dirname "$0")/check_setup.py $3 --gpus $4" >&2
        fi
    fi
    rm -rf "$1"
}
