"""Every form in which preference data is kept, and every way in which a file can be broken."""

from __future__ import annotations

import csv
import gzip
import json
import time
from pathlib import Path

import datasets
import pytest

from mallowspo.data.sources import LoadedData, load_preferences
from mallowspo.errors import InputError

ROWS = [
    {"prompt": "The sky is", "chosen": " blue.", "rejected": " green, naïve 🦊."},
    {"prompt": "1 + 1 =", "chosen": "2", "rejected": "NA"},
    {"prompt": 'Say "hi",\nplease', "chosen": "hi\r\nthere", "rejected": "null"},
]
CHAT = [
    {
        "prompt": [{"role": "user", "content": "What colour is the sky?"}],
        "chosen": [{"role": "assistant", "content": "Blue."}],
        "rejected": [{"role": "assistant", "content": "Green."}],
    }
]


def lines(rows) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def pairs(loaded: LoadedData) -> list[dict]:
    return [{k: v for k, v in row.items() if k != "row_index"} for row in loaded.dataset]


def write_csv(path: Path, rows) -> None:
    opened = (
        gzip.open(path, "wt", newline="", encoding="utf-8") if path.suffix == ".gz" else path.open("w", newline="")
    )
    with opened as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write(path: Path, rows) -> Path:
    text = lines(rows)
    if ".csv" in path.name:
        write_csv(path, rows)
    elif path.suffix == ".parquet":
        datasets.Dataset.from_list(rows).to_parquet(path)
    elif path.name.endswith(".json"):
        path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode(), mtime=0))
    elif path.suffix:
        path.write_text(text, encoding="utf-8")
    else:
        datasets.Dataset.from_list(rows).save_to_disk(path)
    return path


@pytest.mark.parametrize(
    "name",
    ["a.jsonl", "a.ndjson", "a.jsonl.gz", "a.v2.jsonl.gz", "a.json", "a.csv", "a.csv.gz", "a.parquet", "saved"],
)
def test_every_format_gives_the_same_text(tmp_path, name):
    loaded = load_preferences(write(tmp_path / name, ROWS))
    assert pairs(loaded) == ROWS
    assert loaded.dropped == ()


def test_json_file_may_hold_lines(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(lines(ROWS), encoding="utf-8")
    assert pairs(load_preferences(path)) == ROWS


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.parquet", "saved"])
def test_conversations_survive(tmp_path, name):
    assert pairs(load_preferences(write(tmp_path / name, CHAT * 3))) == CHAT * 3


def test_byte_order_mark_blank_lines_and_windows_line_ends(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + lines(ROWS).replace("\n", "\r\n\r\n").encode())
    loaded = load_preferences(path)
    assert pairs(loaded) == ROWS
    assert loaded.dataset["row_index"][:] == [0, 2, 4]  # the line on which each row stands


def test_numbers_beyond_64_bits_and_mixed_columns(tmp_path):
    rows = [
        {**ROWS[0], "meta": 3},
        {**ROWS[0], "meta": "3"},
        {**ROWS[0], "meta": None, "late": [1]},
        {**ROWS[0], "meta": 10**30},
    ]
    loaded = load_preferences(write(tmp_path / "a.jsonl", rows))
    assert list(loaded.dataset["meta"]) == [3, "3", None, 1e30]
    assert list(loaded.dataset["late"]) == [None, None, [1], None]


def test_messages_with_differing_fields_gain_no_field(tmp_path):
    rows = [
        {"chosen": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "name": "x"}]},
        {"chosen": [{"role": "user", "content": "42"}]},
    ]
    loaded = load_preferences(write(tmp_path / "a.jsonl", rows))
    assert pairs(loaded) == rows


def test_chunks_join_across_types(tmp_path, monkeypatch):
    monkeypatch.setattr("mallowspo.data.readers._ROWS", 2)
    rows = [{"n": i if i < 5 else i + 0.5, "text": "x" if i else None, "m": [{"role": str(i)}]} for i in range(9)]
    rows[7]["m"] = [{"role": "7", "name": "y"}]
    loaded = load_preferences(write(tmp_path / "a.jsonl", rows))
    assert pairs(loaded) == rows
    assert loaded.dataset["row_index"][:] == list(range(9))


def test_a_changed_file_gives_new_rows(tmp_path):
    path = write(tmp_path / "a.jsonl", ROWS)
    assert pairs(load_preferences(path)) == ROWS
    write(path, ROWS[:1])
    assert pairs(load_preferences(path)) == ROWS[:1]


# Broken files


def test_line_7000_of_a_gz_file_is_named(tmp_path):
    text = lines([{**ROWS[0], "n": n} for n in range(8000)]).splitlines(keepends=True)
    text[6999] = '{"prompt": "cut off\n'
    path = tmp_path / "pairs.jsonl.gz"
    path.write_bytes(gzip.compress("".join(text).encode()))
    with pytest.raises(InputError, match=r"(?s)pairs\.jsonl\.gz: 1 of 8,000 rows.*line 7,000: not valid JSON: Unterm"):
        load_preferences(path)
    loaded = load_preferences(path, invalid_rows="drop")
    assert [(p.row_index, p.kind) for p in loaded.dropped] == [(6999, "unreadable_line")]
    assert len(loaded.dataset) == 7999
    assert loaded.dataset["row_index"][6998:7000] == [6998, 7000]
    assert loaded.dataset["n"][6998:7000] == [6998, 7000]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("[1, 2]", "expected an object .* found a list"),
        ('"text"', "found a string"),
        ("null", "found null"),
        ("3", "found a number"),
        ("{'prompt': 1}", "not valid JSON: Expecting property name"),
        ('{"prompt": "\\ud83d"}', "half of a surrogate pair"),
        ('{"prompt": ' + "[" * 100_000, "nested too deeply"),
        ('{"a": 1} {"b": 2}', "not valid JSON: Extra data"),
    ],
)
def test_malformed_lines(tmp_path, line, reason):
    path = tmp_path / "a.jsonl"
    path.write_text(lines(ROWS) + line + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=f"(?s)line 4: .*{reason}"):
        load_preferences(path)
    assert pairs(load_preferences(path, invalid_rows="drop")) == ROWS


def test_whole_surrogate_pairs_are_fine(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(ROWS[0]) + "\n", encoding="ascii")
    assert "\\ud83e" in path.read_text()
    assert pairs(load_preferences(path)) == ROWS[:1]


@pytest.mark.parametrize("mode", ["error", "drop"])
@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.jsonl", b"", "the file is empty"),
        ("a.jsonl", b"\n\n", "there are no rows"),
        ("a.jsonl", b"\n{\n", "none of the 1 rows|1 of 1 rows"),
        ("a.json", b"[]", "there are no rows"),
        ("a.json", b'{\n"train": [\n{"prompt": "a"}]}', "one JSON object"),
        ("a.json", b'[{"prompt": "a"},\n{"prompt": }]', "line 2, column 12: Expecting value"),
        ("a.jsonl", lines(ROWS).encode("latin-1", "replace"), "line 1 is not UTF-8"),
        ("a.jsonl", lines(ROWS).encode("utf-16"), "not UTF-8"),
        ("a.json", json.dumps(ROWS, ensure_ascii=False).encode("latin-1", "replace"), "not UTF-8"),
        ("a.csv", "prompt,chosen,rejected\na,ï,c\n".encode("latin-1"), "CSV file in UTF-8"),
        ("a.jsonl.gz", gzip.compress(lines(ROWS * 500).encode())[:-40], "cut short"),
        ("a.json.gz", gzip.compress(json.dumps(ROWS * 500).encode())[:-40], "cut short"),
        ("a.csv.gz", gzip.compress(b"prompt,chosen\n" + b"a,b\n" * 5000, mtime=0)[:-20], "cut short|not a sound"),
        ("a.jsonl.gz", lines(ROWS).encode(), "not a sound gzip file"),
        ("a.parquet", b"PAR1 and nothing else", "not a sound parquet file"),
        ("a.csv", b"\n", "not a sound CSV|no rows"),
        ("a.csv", b"prompt,chosen,rejected\n", "there are no rows"),
        ("a.txt", b"hello", "'.txt', expected one of .jsonl"),
    ],
)
def test_unusable_files(tmp_path, name, content, reason, mode):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=reason) as caught:
        load_preferences(path, invalid_rows=mode)
    assert name in str(caught.value)


def test_json_array_element_is_named(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([*ROWS, 3]))
    with pytest.raises(InputError, match="element 4: expected an object"):
        load_preferences(path)
    loaded = load_preferences(path, invalid_rows="drop")
    assert pairs(loaded) == ROWS
    assert loaded.dropped[0].row_index == 3


def test_csv_row_with_too_many_cells_is_named(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('prompt,chosen,rejected\na,b,c\n"d\nd",e,f\ng,h,i,j\nk,l,m\n')
    with pytest.raises(InputError, match=r"row 3: has 4 cells, the header has 3"):
        load_preferences(path)
    loaded = load_preferences(path, invalid_rows="drop")
    assert loaded.dataset["prompt"][:] == ["a", "d\nd", "k"]
    assert loaded.dataset["row_index"][:] == [0, 1, 3]


def test_csv_keeps_numbers_as_numbers_and_answers_as_text(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("prompt,chosen,rejected,weight\n1,2,3,0.5\nx,NA,,2\n")
    dataset = load_preferences(path).dataset
    assert dataset[:] == {
        "prompt": ["1", "x"],
        "chosen": ["2", "NA"],
        "rejected": ["3", ""],
        "weight": [0.5, 2.0],
    }


# Splits and places


def test_a_single_file_has_only_train(tmp_path):
    path = write(tmp_path / "a.jsonl", ROWS)
    with pytest.raises(InputError, match=r"'test'.*single file.*'train'.*test\.jsonl"):
        load_preferences(path, split="test")


@pytest.mark.parametrize("inner", ["", "data"])
def test_folder_with_a_file_per_split(tmp_path, inner):
    folder = tmp_path / inner
    folder.mkdir(exist_ok=True)
    (tmp_path / "README.md").write_text("words")
    write(folder / "train-00000-of-00002.jsonl", ROWS[:1])
    write(folder / "train-00001-of-00002.jsonl", ROWS[1:])
    write(folder / "test.jsonl.gz", ROWS[2:])
    train = load_preferences(tmp_path)
    assert pairs(train) == ROWS
    assert "row_index" not in train.dataset.column_names
    assert pairs(load_preferences(tmp_path, split="test")) == ROWS[2:]
    with pytest.raises(InputError, match="'validation'.*it has test, train"):
        load_preferences(tmp_path, split="validation")
    write(folder / "test.jsonl", ROWS)
    with pytest.raises(InputError, match="ambiguous"):
        load_preferences(tmp_path, split="test")


def test_folder_without_data(tmp_path):
    (tmp_path / "notes.txt").write_text("words")
    with pytest.raises(InputError, match=r"no file for it \(it holds notes.txt\)"):
        load_preferences(tmp_path)


def test_files_of_a_split_with_other_types_keep_their_values(tmp_path):
    for number, chosen in enumerate(("a", 3)):
        write(tmp_path / f"train-0000{number}-of-00002.jsonl", [{"prompt": "p", "chosen": chosen, "rejected": "b"}])
    assert load_preferences(tmp_path).dataset["chosen"][:] == ["a", 3]


def test_saved_dataset_dict(tmp_path):
    made = {"train": datasets.Dataset.from_list(ROWS), "test": datasets.Dataset.from_list(ROWS[:1])}
    datasets.DatasetDict(made).save_to_disk(tmp_path / "saved")
    assert pairs(load_preferences(tmp_path / "saved", split="test")) == ROWS[:1]
    with pytest.raises(InputError, match="'dev', but .* has test, train"):
        load_preferences(tmp_path / "saved", split="dev")
    (tmp_path / "saved" / "train" / "dataset_info.json").write_text("{")
    with pytest.raises(InputError, match="saved by `datasets`"):
        load_preferences(tmp_path / "saved")


@pytest.mark.parametrize(
    "source", ["missing.jsonl", "./missing", "a/b/c", "~/missing.csv", "tests/missing", Path("missing")]
)
def test_a_missing_file_is_never_asked_of_the_hub(source, monkeypatch):
    def asked(*args, **kwargs):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(datasets, "load_dataset", asked)
    monkeypatch.chdir(Path(__file__).parents[2])
    with pytest.raises(InputError, match="there is no file or folder .*missing|a/b/c"):
        load_preferences(source)


def test_a_missing_file_is_answered_by_names_like_it(tmp_path):
    write(tmp_path / "pairs.jsonl", ROWS)
    for name in ("photo.png", "notes.txt"):
        (tmp_path / name).write_text("x")
    with pytest.raises(InputError, match=r"did you mean pairs\.jsonl\?$"):
        load_preferences(tmp_path / "pair.jsonl")
    with pytest.raises(InputError, match=r"holds pairs\.jsonl$"):
        load_preferences(tmp_path / "train.csv")
    with pytest.raises(InputError, match="no folder .* either"):
        load_preferences(tmp_path / "nowhere" / "pair.jsonl")


def test_addresses_are_refused():
    with pytest.raises(InputError, match="download it"):
        load_preferences("https://example.org/data.jsonl")


def test_hub_name_without_a_hub_fails_at_once_with_a_hint():
    start = time.perf_counter()
    with pytest.raises(InputError, match=r"'nobody/nothing' is no local file.*HF_HUB_OFFLINE"):
        load_preferences("nobody/nothing")
    assert time.perf_counter() - start < 10


def test_options_that_cannot_be_kept_are_refused(tmp_path):
    path = write(tmp_path / "a.jsonl", ROWS)
    with pytest.raises(InputError, match="streaming"):
        load_preferences(path, streaming=True)
    with pytest.raises(InputError, match="'other', but .* no configurations"):
        load_preferences(path, name="other")
    with pytest.raises(InputError, match="invalid_rows: got 'skip', expected one of 'error', 'drop'"):
        load_preferences(path, invalid_rows="skip")


@pytest.mark.shared
def test_hh_dialogues(shared):
    loaded = load_preferences(shared / "data" / "hh" / "helpful_train.jsonl.gz")
    assert len(loaded.dataset) == 5185
    with gzip.open(shared / "data" / "hh" / "helpful_train.jsonl.gz", "rt", encoding="utf-8") as stream:
        assert pairs(loaded) == [json.loads(line) for line in stream]
