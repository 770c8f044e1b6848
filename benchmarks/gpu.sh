#!/usr/bin/env bash
# Every test and benchmark that needs a GPU, in one command of under 8 minutes (installation not counted):
#   benchmarks/gpu.sh
# Prints what the tests say and a table; adds its lines to benchmarks/results/gpu.csv. Exit code 0 where all tests
# passed, 1 where one failed, 2 where there is no CUDA device.
set -uo pipefail
cd "$(dirname "$0")/.."

if ! nvidia-smi -L 2>/dev/null | grep -q .; then
    echo "benchmarks/gpu.sh: no CUDA device on this machine (nvidia-smi lists none); nothing was run" >&2
    exit 2
fi
python=.venv/bin/python
if ! "$python" -c 'import mallowspo, pytest' 2>/dev/null; then
    make install-dev || exit 1
fi
if ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "benchmarks/gpu.sh: this torch sees no CUDA device; nothing was run" >&2
    exit 2
fi

# One card: with several visible, the trainer would spread a batch over them.
export CUDA_VISIBLE_DEVICES="${CUDA_VISIBLE_DEVICES:-0}"
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false MALLOWSPO_CACHE=
started=$(date +%s)
nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader

# shellcheck disable=SC2046  # one file a word
timeout 180 "$python" -m pytest -q -m gpu -rfE --durations=5 $(grep -rl 'pytest.mark.gpu' tests --include='test_*.py')
tests=$?
if [ $tests -eq 124 ]; then
    echo "the tests had 180 seconds and were not through"
fi

left=$((460 - $(date +%s) + started))
timeout $((left + 10)) "$python" benchmarks/gpu.py --seconds "$left"
measured=$?
echo "$(($(date +%s) - started)) seconds in all; tests: exit code $tests"
[ $tests -eq 0 ] && [ $measured -eq 0 ]
