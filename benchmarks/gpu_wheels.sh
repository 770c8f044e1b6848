#!/usr/bin/env bash
# Fill a folder with the wheels that benchmarks/gpu.sh needs beside torch, transformers and accelerate, for a machine
# without a network:
#   benchmarks/gpu_wheels.sh [FOLDER]          default: benchmarks/wheels; PYTHON_VERSION=3.12 names the target's Python
# Tests, headers, and the parts of Arrow and SciPy that nothing here loads are taken out of the wheels, and what stays is
# packed anew: all of it has less than 60 MB.
set -euo pipefail
cd "$(dirname "$0")/.."

folder="${1:-benchmarks/wheels}"
python="${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || command -v python3)}"
version="${PYTHON_VERSION:-3.12}"
# What the three bring along themselves (numpy, huggingface_hub, rich, jinja2, ...) is not among these.
needed="trl datasets peft pyarrow pandas python-dateutil six dill multiprocess xxhash scipy
    pytest pluggy iniconfig hypothesis sortedcontainers"

scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
target=(--only-binary=:all: --python-version "$version" --implementation cp)
for glibc in 28 27 24 17 12 5; do target+=(--platform "manylinux_2_${glibc}_x86_64"); done
target+=(--platform manylinux2014_x86_64 --platform manylinux2010_x86_64 --platform manylinux1_x86_64)

# In the versions that the project is tested with; torch is the target's own.
grep -v '^torch==' constraints.txt > "$scratch/constraints.txt"
mkdir -p "$scratch/whole" "$folder"
# shellcheck disable=SC2086  # one word a package
"$python" -m pip download --quiet --no-deps "${target[@]}" -c "$scratch/constraints.txt" \
    -d "$scratch/whole" $needed
rm -f "$folder"/*.whl
"$python" - "$scratch/whole" "$folder" <<'PYTHON'
import re, sys, zipfile
from pathlib import Path

left_out = re.compile(
    r"(^|/)(tests|include|src)/|libarrow_(python_)?(flight|substrait|s3)|pyarrow/_(flight|substrait|s3fs)"
    r"|pyarrow/libarrow_\w+\.so(\.\d+\.\d+\.\d+)?$"  # other names of files that stay
    r"|^scipy/(cluster|datasets|fftpack|io|odr|signal)/"
)
total = 0
for path in sorted(Path(sys.argv[1]).glob("*.whl")):
    packed = Path(sys.argv[2]) / path.name
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(packed, "w", zipfile.ZIP_LZMA) as small:
        for item in whole.infolist():
            if not left_out.search(item.filename):
                small.writestr(item.filename, whole.read(item))
    total += packed.stat().st_size
    print(f"{packed.stat().st_size / 1e6:7.2f} MB  {path.name}")
print(f"{total / 1e6:7.2f} MB in all")
sys.exit(total > 60e6)
PYTHON
