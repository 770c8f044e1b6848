#!/usr/bin/env bash
# Every test and benchmark that needs a GPU, in one command of at most 9 minutes, from a bare checkout:
#   benchmarks/gpu.sh [--wheels FOLDER] [--smoke]
# With --wheels it needs no network and no virtual environment: the machine's own python3 (or PYTHON) has torch,
# transformers and accelerate, and FOLDER, filled by benchmarks/gpu_wheels.sh on a machine with a network, has the rest.
# Without, .venv is installed first, if it is not there; that is not counted. --smoke runs the same on a CPU with models
# of some thousand weights, into a file of its own: it proves the way, and measures nothing.
# Prints what the tests say and a table; adds its lines to benchmarks/results/gpu.csv as they come. Exit code 0 where all
# tests passed, 1 where one failed, 2 where there is no CUDA device or a library is missing.
set -uo pipefail
cd "$(dirname "$0")/.."
started=$(date +%s)
limit=540

wheels="" smoke=""
while [ $# -gt 0 ]; do
    case "$1" in
        --wheels) wheels="${2:-}"; shift 2 || { echo "benchmarks/gpu.sh: --wheels: give a folder" >&2; exit 2; } ;;
        --smoke) smoke=1; shift ;;
        *) echo "benchmarks/gpu.sh: $1: there is no such option; there are --wheels FOLDER and --smoke" >&2; exit 2 ;;
    esac
done

if [ -z "$smoke" ] && ! nvidia-smi -L 2>/dev/null | grep -q .; then
    echo "benchmarks/gpu.sh: no CUDA device on this machine (nvidia-smi lists none); nothing was run" >&2
    exit 2
fi
if [ -n "$wheels" ]; then
    if ! ls "$wheels"/*.whl >/dev/null 2>&1; then
        echo "benchmarks/gpu.sh: --wheels: $wheels holds no wheels; benchmarks/gpu_wheels.sh fills a folder" >&2
        exit 2
    fi
    python="${PYTHON:-python3}"
    site="$(mktemp -d)"
    trap 'rm -rf "$site"' EXIT
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --disable-pip-version-check \
        --target "$site" "$wheels"/*.whl || exit 2
    export PYTHONPATH="$PWD/src:$site${PYTHONPATH:+:$PYTHONPATH}"
else
    python="${PYTHON:-.venv/bin/python}"
    if ! "$python" -c 'import mallowspo, pytest' 2>/dev/null; then
        make install-dev || exit 1
    fi
    started=$(date +%s)
fi
"$python" -c 'import torch, transformers, accelerate, mallowspo.training.trainer, pytest' || {
    echo "benchmarks/gpu.sh: $python lacks a library (above); with --wheels it must have torch, transformers and" \
        "accelerate, and be of the version of Python that the wheels are for" >&2
    exit 2
}
if [ -z "$smoke" ] && ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "benchmarks/gpu.sh: this torch sees no CUDA device; nothing was run" >&2
    exit 2
fi

# One card: with several visible, the trainer would spread a batch over them.
export CUDA_VISIBLE_DEVICES="${CUDA_VISIBLE_DEVICES:-0}"
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false MALLOWSPO_CACHE="" PYTHONUNBUFFERED=1
[ -n "$smoke" ] || nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader

# Where there is no card, the tests are collected, which imports all that they use.
# shellcheck disable=SC2046,SC2086  # one file a word; no word where it is no smoke
timeout 180 "$python" -m pytest -q -p no:cacheprovider -m gpu -rfE --durations=5 ${smoke:+--collect-only} \
    $(grep -rl 'pytest.mark.gpu' tests --include='test_*.py')
tests=$?
if [ $tests -eq 124 ]; then
    echo "the tests had 180 seconds and were not through"
fi

# The last arm ends before its time is up, or it is ended.
left=$((limit - 20 - $(date +%s) + started))
if [ "$left" -lt 60 ]; then
    echo "benchmarks/gpu.sh: $left seconds are left of $limit, too few to measure anything; installing and testing took" \
        "the others" >&2
    exit 1
fi
timeout $((left + 10)) "$python" benchmarks/gpu.py --seconds "$left" ${smoke:+--smoke}
measured=$?
echo "$(($(date +%s) - started)) seconds in all; tests: exit code $tests"
[ $tests -eq 0 ] && [ $measured -eq 0 ]
