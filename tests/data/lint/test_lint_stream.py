"""Streaming: every form of file gives the same rows, broken lines are rows, and memory stays flat."""

import csv
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict
from lint_rows import clean_rows, write_lines

from mallowspo.data.sources import stream_rows
from mallowspo.errors import InputError
from tiny import tiny_tokenizer

ROWS = clean_rows(5)
ROWS[2]["chosen"] = ' two\nlines, "quoted"'


def write(path, form):
    if form == "jsonl.gz":
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in ROWS).encode()))
    elif form == "json":
        path.write_text(json.dumps(ROWS, indent=1))
    elif form == "csv":
        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(ROWS[0]))
            writer.writeheader()
            writer.writerows(ROWS)
    elif form == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=2)
    else:
        write_lines(path, ROWS)
    return path


@pytest.mark.parametrize("form", ["jsonl", "jsonl.gz", "ndjson", "json", "csv", "parquet"])
def test_every_form_gives_the_same_rows(tmp_path, form):
    rows = list(stream_rows(write(tmp_path / f"rows.{form}", form)))
    assert [dict(row.values) for row in rows] == ROWS
    assert [row.index for row in rows] == list(range(5))


def test_saved_data_sets_and_folders_of_splits(tmp_path):
    DatasetDict(test=Dataset.from_list(ROWS)).save_to_disk(tmp_path / "saved")
    assert [dict(row.values) for row in stream_rows(tmp_path / "saved", split="test")] == ROWS
    folder = tmp_path / "folder"
    folder.mkdir()
    write_lines(folder / "train-00000-of-00002.jsonl", ROWS[:2])
    write_lines(folder / "train-00001-of-00002.jsonl", ROWS[2:])
    assert [(row.index, dict(row.values)) for row in stream_rows(folder)] == list(enumerate(ROWS))
    with pytest.raises(InputError, match="no file for it"):
        list(stream_rows(folder, split="test"))


def test_broken_lines_are_rows_and_blank_lines_count(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\n\n{"a": \n[1]\n{"a": "\xff"}\n{"a": 2}')
    rows = list(stream_rows(path))
    assert [(row.index, row.values is None) for row in rows] == [(0, 0), (2, 1), (3, 1), (4, 1), (5, 0)]
    assert ["valid JSON" in rows[1].problem, "found a list" in rows[2].problem, "0xff" in rows[3].problem] == [
        True
    ] * 3


def test_csv_rows_with_other_numbers_of_cells_keep_their_places(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text('prompt,chosen,rejected,weight\np,"a\nb",c,0.5\none,two\np,NA,7,x\n1,2,3,4,5\n')
    rows = list(stream_rows(path))
    assert [row.index for row in rows] == [0, 1, 2, 3]
    assert dict(rows[0].values) == {"prompt": "p", "chosen": "a\nb", "rejected": "c", "weight": 0.5}
    assert dict(rows[2].values) == {"prompt": "p", "chosen": "NA", "rejected": "7", "weight": "x"}
    assert "2 cells" in rows[1].problem and "5 cells" in rows[3].problem


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.jsonl", b"", "empty"),
        ("rows.txt", b"x", "expected one of"),
        ("rows.jsonl.gz", b"no gzip", "sound gzip"),
        ("rows.parquet", b"no parquet", "sound parquet"),
        ("rows.json", b"[{]", "line 1, column 3"),
    ],
)
def test_files_that_cannot_be_read_at_all(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        list(stream_rows(tmp_path / name))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="no file or folder"):
        list(stream_rows(tmp_path / "rows.jsonl"))


_MEASURE = """
import re, sys
from pathlib import Path
from transformers import AutoTokenizer
from mallowspo.data.lint import check_preferences
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
peaks = []
for path in sys.argv[2:]:
    assert check_preferences(path, tokenizer).rows
    peaks.append(int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024)
print(*peaks)
"""


def peaks_in_mib(tmp_path, *counts):
    """Check files of so many short rows, one after the other, in one new process: the peak after each.

    Not by `ru_maxrss`: a child inherits it from the process that started it, and pytest is the larger one.
    """
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc to tell the peak of a process")
    tiny_tokenizer().save_pretrained(tmp_path / "tokenizer")
    paths = []
    for count in counts:
        paths.append(tmp_path / f"{count}.jsonl")
        with paths[-1].open("w") as stream:
            stream.writelines(
                f'{{"prompt": "Question {i}?", "chosen": " {i} yes one", "rejected": " {i} no, two"}}\n'
                for i in range(count)
            )
    env = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-c", _MEASURE, tmp_path / "tokenizer", *paths]
    out = subprocess.run(list(map(str, command)), check=True, env=env, capture_output=True, text=True)
    return [float(peak) for peak in out.stdout.split()]


def test_memory_hardly_grows_with_rows(tmp_path):
    few, many = peaks_in_mib(tmp_path, 2_000, 30_000)
    # Measured: 9 MiB, of which 2 are the 70 bytes a row; 40 MiB when every row was held on purpose.
    assert many - few < 18


@pytest.mark.slow
def test_a_million_rows_stay_within_two_gigabytes(tmp_path):
    (peak,) = peaks_in_mib(tmp_path, 1_000_000)
    assert peak < 2_000
