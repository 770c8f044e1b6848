#!/usr/bin/env bash
# Fill a folder with the wheels that benchmarks/gpu.sh needs beside torch, transformers and accelerate, for a machine
# without a network:
#   benchmarks/gpu_wheels.sh [FOLDER]          default: benchmarks/wheels; PYTHON_VERSION=3.12 names the target's Python
# What those three bring along is left out. Tests, headers and the parts of Arrow that talk to servers are taken out of
# the wheels, and what stays is packed anew: all of it has less than 60 MB.
set -euo pipefail
cd "$(dirname "$0")/.."

folder="${1:-benchmarks/wheels}"
python="${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || command -v python3)}"
version="${PYTHON_VERSION:-3.12}"
there="torch transformers accelerate"
needed="trl datasets peft scipy rich xxhash pytest hypothesis pyarrow==21.0.0"

scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
target=(--only-binary=:all: --python-version "$version" --implementation cp)
for glibc in 28 27 24 17 12 5; do target+=(--platform "manylinux_2_${glibc}_x86_64"); done
target+=(--platform manylinux2014_x86_64 --platform manylinux2010_x86_64 --platform manylinux1_x86_64)

# As many libraries in the versions that the project is tested with as there are; torch is the target's own.
grep -v '^torch==' constraints.txt > "$scratch/constraints.txt"
resolve() {
    # shellcheck disable=SC2086  # one word a package
    "$python" -m pip install --quiet --dry-run --ignore-installed --target "$scratch/none" "${target[@]}" \
        -c "$scratch/constraints.txt" --report "$scratch/$1.json" $2
}
resolve there "$there"
resolve all "$there $needed"
"$python" - "$scratch" > "$scratch/lacking.txt" <<'PYTHON'
import json, sys

def named(name):
    with open(f"{sys.argv[1]}/{name}.json", encoding="utf-8") as file:
        return {one["metadata"]["name"].lower().replace("_", "-"): one["metadata"]["version"] for one in json.load(file)["install"]}

there = named("there")
print("\n".join(f"{name}=={version}" for name, version in sorted(named("all").items()) if name not in there))
PYTHON
mkdir -p "$scratch/whole" "$folder"
"$python" -m pip download --quiet --no-deps "${target[@]}" -d "$scratch/whole" -r "$scratch/lacking.txt"
rm -f "$folder"/*.whl
"$python" - "$scratch/whole" "$folder" <<'PYTHON'
import re, sys, zipfile
from pathlib import Path

left_out = re.compile(r"(^|/)(tests|include|src)/|libarrow_(python_)?flight|libarrow_substrait|pyarrow/_(flight|substrait)")
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
