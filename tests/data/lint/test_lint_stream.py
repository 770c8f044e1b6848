"""Memory stays flat, however many rows are checked."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from data_rows import pair, write

from tiny import tiny_tokenizer

_MEASURE = """
import re, sys
from pathlib import Path
from transformers import AutoTokenizer
from mallowspo.data.lint import check_preferences
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
for path in sys.argv[2:]:
    assert check_preferences(path, tokenizer).rows
    print(int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024)
"""


def peaks_in_mib(tmp_path, *counts):
    """Check files of so many short rows, one after the other, in one new process: the peak after each.

    Not by `ru_maxrss`: a child inherits it from the process that started it, and pytest is the larger one.
    """
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc to tell the peak of a process")
    tiny_tokenizer().save_pretrained(tmp_path / "tokenizer")
    rows = (pair(f"Question {i}?", f" {i} yes one", f" {i} no, two") for i in range(sum(counts)))
    paths = [write(tmp_path / f"{count}.jsonl", [next(rows) for _ in range(count)]) for count in counts]
    env = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-c", _MEASURE, tmp_path / "tokenizer", *paths]
    out = subprocess.run(list(map(str, command)), check=True, env=env, capture_output=True, text=True)
    return [float(peak) for peak in out.stdout.split()]


def test_memory_hardly_grows_with_rows(tmp_path):
    few, many = peaks_in_mib(tmp_path, 2_000, 30_000)
    # Measured: 9 MiB, of which 2 are the 60 bytes a row; 40 MiB when every row was held on purpose.
    assert many - few < 18


@pytest.mark.slow
def test_a_million_rows_stay_within_two_gigabytes(tmp_path):
    (peak,) = peaks_in_mib(tmp_path, 1_000_000)
    assert peak < 2_000
