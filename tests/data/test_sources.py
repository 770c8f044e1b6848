"""Every form in which preference data is kept, and every way in which a file can be broken."""

import gzip
import json
import time
from pathlib import Path

import datasets
import numpy as np
import pytest
from data_rows import chat, pair, write

from mallowspo.data.sources import keep_source, load_preferences, stream_rows
from mallowspo.errors import InputError

ROWS = [
    pair("The sky is", " blue.", " green, naïve 🦊."),
    pair("1 + 1 =", "2", "NA"),
    pair('Say "hi",\nplease', "hi\r\nthere", "null"),
]
FORMS = ["a.jsonl", "a.ndjson", "a.jsonl.gz", "a.v2.jsonl.gz", "a.json", "a.csv", "a.csv.gz", "a.parquet", "saved"]
READERS = pytest.mark.parametrize("read", [load_preferences, lambda path, **more: list(stream_rows(path, **more))])


def lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def loaded(source, **options):
    """The rows as they are loaded, without their numbers; streaming gives the same."""
    found = load_preferences(source, **options).dataset
    rows = [{k: v for k, v in row.items() if k != "row_index"} for row in found]
    options.pop("invalid_rows", None)
    assert [row.values for row in stream_rows(source, **options) if not row.problem] == rows
    return rows


@pytest.mark.parametrize("name", FORMS)
def test_every_format_gives_the_same_text(tmp_path, name):
    path = write(tmp_path / name, ROWS)
    assert loaded(path) == ROWS and load_preferences(path).dropped == ()
    if "csv" not in name:
        assert loaded(write(tmp_path / "chats" / name, [chat()] * 3)) == [chat()] * 3


def test_json_file_may_hold_lines(tmp_path):
    (tmp_path / "a.json").write_text(lines(ROWS), encoding="utf-8")
    assert loaded(tmp_path / "a.json") == ROWS


def test_byte_order_mark_blank_lines_and_windows_line_ends(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + lines(ROWS).replace("\n", "\r\n\r\n").encode())
    assert loaded(path) == ROWS
    assert load_preferences(path).dataset["row_index"][:] == [0, 2, 4]  # the line on which each row stands


def test_numbers_beyond_64_bits_and_mixed_columns(tmp_path):
    metas = [{"meta": 3}, {"meta": "3"}, {"meta": None, "late": [1]}, {"meta": 10**30}]
    found = load_preferences(write(tmp_path / "a.jsonl", [ROWS[0] | meta for meta in metas])).dataset
    assert list(found["meta"]) == [3, "3", None, 1e30]
    assert list(found["late"]) == [None, None, [1], None]


def test_chunks_join_across_types_and_messages_gain_no_field(tmp_path, monkeypatch):
    monkeypatch.setattr("mallowspo.data.readers._ROWS", 2)
    rows = [{"n": i if i < 5 else i + 0.5, "text": "x" if i else None, "m": [{"role": str(i)}]} for i in range(9)]
    rows[7]["m"] = [{"role": "7", "name": "y"}, {"role": "42"}]
    path = write(tmp_path / "a.jsonl", rows)
    assert loaded(path) == rows
    assert load_preferences(path).dataset["row_index"][:] == list(range(9))


def test_a_changed_file_gives_new_rows(tmp_path):
    for rows in (ROWS, ROWS[:1]):
        assert loaded(write(tmp_path / "a.jsonl", rows)) == rows


# Broken files


def test_line_7000_of_a_gz_file_is_named(tmp_path):
    rows = [ROWS[0] | {"n": n} for n in range(8000)]
    rows[6999] = '{"prompt": "cut off'
    path = write(tmp_path / "pairs.jsonl.gz", rows)
    with pytest.raises(InputError, match=r"(?s)pairs\.jsonl\.gz: 1 of 8,000 rows.*line 7,000: not valid JSON: Unterm"):
        load_preferences(path)
    found = load_preferences(path, invalid_rows="drop")
    assert [(p.row_index, p.kind) for p in found.dropped] == [(6999, "unreadable_line")]
    assert len(found.dataset) == 7999
    assert found.dataset["row_index"][6998:7000] == found.dataset["n"][6998:7000] == [6998, 7000]


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
    path = write(tmp_path / "a.jsonl", [*ROWS, line])
    with pytest.raises(InputError, match=f"(?s)line 4: .*{reason}"):
        load_preferences(path)
    assert loaded(path, invalid_rows="drop") == ROWS


def test_broken_lines_are_rows_of_a_stream_and_blank_lines_count(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\n\n{"a": \n[1]\n{"a": "\xff"}\n{"a": 2}')
    rows = list(stream_rows(path))
    assert [(row.index, row.values is None) for row in rows] == [(0, 0), (2, 1), (3, 1), (4, 1), (5, 0)]
    assert all(word in row.problem for row, word in zip(rows[1:4], ("valid JSON", "a list", "0xff"), strict=True))


LATIN = "prompt,chosen,rejected{}\na,{},c\n"


@pytest.mark.parametrize("mode", ["error", "drop"])
@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.jsonl", b"", "^dataset: .* is empty"),
        ("a.jsonl", b"\n\n", "there are no rows"),
        ("a.jsonl", b"\n{\n", "none of the 1 rows|1 of 1 rows"),
        ("a.json", b"[]", "there are no rows"),
        ("a.json", b'{\n"train": [\n{"prompt": "a"}]}', "one JSON object"),
        ("a.json", b'[{"prompt": "a"},\n{"prompt": }]', "line 2, column 12: Expecting value"),
        ("a.jsonl", lines(ROWS).encode("latin-1", "replace"), "line 1 is not UTF-8"),
        ("a.jsonl", lines(ROWS).encode("utf-16"), "not UTF-8"),
        ("a.json", json.dumps(ROWS, ensure_ascii=False).encode("latin-1", "replace"), "not UTF-8"),
        ("a.csv", LATIN.format("", "ï").encode("latin-1"), "CSV file in UTF-8"),
        ("a.csv", LATIN.format(",né", "b").encode("latin-1"), "UTF-8"),
        # A row that Arrow refuses for its cells, too.
        ("a.csv", b"prompt,chosen,rejected\na,b,c\nq,\xe9,too,many\n", "line 3 has the byte 0xe9"),
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
def test_unusable_files(tmp_path, name, content, reason, mode, capfd):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=reason) as caught:
        load_preferences(path, invalid_rows=mode)
    assert name in str(caught.value)
    assert "Traceback" not in capfd.readouterr().err  # Arrow prints one where its caller's hook fails
    if "row" not in reason and not (name == "a.jsonl" and "UTF-8" in reason):
        with pytest.raises(InputError, match=reason):
            list(stream_rows(path))


def test_json_array_element_is_named(tmp_path):
    path = write(tmp_path / "a.json", [*ROWS, "3"])
    with pytest.raises(InputError, match="element 4: expected an object"):
        load_preferences(path)
    assert loaded(path, invalid_rows="drop") == ROWS
    assert load_preferences(path, invalid_rows="drop").dropped[0].row_index == 3


def test_a_file_that_holds_a_split_is_not_written_over(tmp_path):
    for name in ("train", "test"):
        write(tmp_path / f"rows/{name}.jsonl", ROWS)
    train, link = tmp_path / "rows/train.jsonl", tmp_path / "link.jsonl"
    link.symlink_to(train)
    for file, source in ((train, train), (train, tmp_path / "rows"), (link, train), (link, tmp_path / "rows")):
        with pytest.raises(InputError, match=f"^fix: {file}"):
            keep_source(file, "fix", source)
    for source, split in ((tmp_path / "rows", "test"), (tmp_path / "rows/test.jsonl", "train"), ("a/hub", "train")):
        keep_source(train, "fix", source, split)
    keep_source(tmp_path / "rows/new.jsonl", "fix", tmp_path / "rows", "new")
    keep_source(train, "fix", None)


def test_csv_rows_with_other_numbers_of_cells_keep_their_places(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('prompt,chosen,rejected,weight\np,"a\nb",c,0.5\none,two\np,NA,7,x\n1,2,3,4,5\n')
    with pytest.raises(InputError, match=r"row 2: has 2 cells, the header has 4"):
        load_preferences(path)
    found = load_preferences(path, invalid_rows="drop").dataset
    assert (found["chosen"][:], found["row_index"][:]) == (["a\nb", "NA"], [0, 2])
    rows = list(stream_rows(path))
    assert [row.index for row in rows] == [0, 1, 2, 3]
    assert [rows[i].values for i in (0, 2)] == [pair("p", "a\nb", "c", weight="0.5"), pair("p", "NA", "7", weight="x")]
    assert "2 cells" in rows[1].problem and "5 cells" in rows[3].problem


def test_a_csv_column_has_the_type_of_all_its_cells_and_answers_stay_text(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text(
        "prompt,chosen,rejected,n,x,mixed,yes,none\np,1,2,1,0.5,3,true,\nq,NA,b,,1e3,4,false,NA\nr,c,,3,NaN,five,true,\n"
    )
    found = load_preferences(path).dataset[:]
    assert found == {
        "prompt": ["p", "q", "r"], "chosen": ["1", "NA", "c"], "rejected": ["2", "b", ""], "n": [1, None, 3],
        "x": [0.5, 1000.0, None], "mixed": ["3", "4", "five"], "yes": [True, False, True], "none": [None] * 3,
    }  # fmt: skip


def test_a_saved_data_set_with_a_damaged_offset_is_refused(tmp_path):
    """To follow the offset of a text would end the process with a bus error or a segmentation fault."""
    folder = write(tmp_path / "saved", ROWS)
    file = next(folder.glob("*.arrow"))
    raw = file.read_bytes()
    ends = np.cumsum([0, *(len(row["chosen"]) for row in ROWS)]).astype("<i4").tobytes()
    assert raw.count(ends) == 1
    file.write_bytes(raw.replace(ends, ends[:8] + b"\xff\xff\xff\x7f" + ends[12:]))
    for read in (load_preferences, lambda path: list(stream_rows(path))):
        with pytest.raises(InputError, match="cannot be read as a directory saved"):
            read(folder)


# Splits and places


@READERS
def test_a_single_file_has_only_train(tmp_path, read):
    with pytest.raises(InputError, match=r"'test'.*single file.*'train'.*test\.jsonl"):
        read(write(tmp_path / "a.jsonl", ROWS), split="test")


@pytest.mark.parametrize("inner", ["", "data"])
def test_folder_with_a_file_per_split(tmp_path, inner):
    (tmp_path / "README.md").write_text("words")
    write(tmp_path / inner / "train-00000-of-00002.jsonl", ROWS[:1])
    write(tmp_path / inner / "train-00001-of-00002.jsonl", ROWS[1:])
    write(tmp_path / inner / "test.jsonl.gz", ROWS[2:])
    assert loaded(tmp_path) == ROWS
    assert [row.index for row in stream_rows(tmp_path)] == [0, 1, 2]
    assert "row_index" not in load_preferences(tmp_path).dataset.column_names
    assert loaded(tmp_path, split="test") == ROWS[2:]
    with pytest.raises(InputError, match="'validation'.*it has test, train"):
        load_preferences(tmp_path, split="validation")
    write(tmp_path / inner / "test.jsonl", ROWS)
    with pytest.raises(InputError, match="ambiguous"):
        load_preferences(tmp_path, split="test")


@READERS
def test_folder_without_data(tmp_path, read):
    (tmp_path / "notes.txt").write_text("words")
    with pytest.raises(InputError, match=r"no file for it \(it holds notes.txt\)"):
        read(tmp_path)


def test_files_of_a_split_with_other_types_keep_their_values(tmp_path):
    for number, chosen in enumerate(("a", 3)):
        write(tmp_path / f"train-0000{number}-of-00002.jsonl", [pair("p", chosen, "b")])
    assert load_preferences(tmp_path).dataset["chosen"][:] == ["a", 3]


def test_saved_dataset_dict(tmp_path):
    made = {"train": datasets.Dataset.from_list(ROWS), "test": datasets.Dataset.from_list(ROWS[:1])}
    datasets.DatasetDict(made).save_to_disk(tmp_path / "saved")
    assert loaded(tmp_path / "saved", split="test") == ROWS[:1]
    with pytest.raises(InputError, match="'dev', but .* has test, train"):
        load_preferences(tmp_path / "saved", split="dev")
    (tmp_path / "saved" / "train" / "dataset_info.json").write_text("{")
    with pytest.raises(InputError, match="saved by `datasets`"):
        load_preferences(tmp_path / "saved")


@READERS
@pytest.mark.parametrize(
    "source", ["missing.jsonl", "./missing", "a/b/c", "~/missing.csv", "tests/missing", Path("missing")]
)
def test_a_missing_file_is_never_asked_of_the_hub(source, read, monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **more: pytest.fail("the hub was asked"))
    monkeypatch.chdir(Path(__file__).parents[2])
    with pytest.raises(InputError, match="there is no file or folder .*missing|a/b/c"):
        read(source)


def test_a_missing_file_is_answered_by_names_like_it(tmp_path):
    write(tmp_path / "pairs.jsonl", ROWS)
    for name in ("photo.png", "notes.txt"):
        (tmp_path / name).write_text("x")
    for name, answer in (
        ("pair.jsonl", r"did you mean pairs\.jsonl\?$"),
        ("train.csv", r"holds pairs\.jsonl$"),
        ("nowhere/pair.jsonl", "no folder .* either"),
    ):
        with pytest.raises(InputError, match=answer):
            load_preferences(tmp_path / name)


def test_hub_name_without_a_hub_fails_at_once_with_a_hint():
    start = time.perf_counter()
    with pytest.raises(InputError, match=r"'nobody/nothing' is no local file.*HF_HUB_OFFLINE"):
        load_preferences("nobody/nothing")
    assert time.perf_counter() - start < 10
    with pytest.raises(InputError, match="download it"):
        load_preferences("https://example.org/data.jsonl")


@pytest.mark.parametrize("option", [{"name": "other"}, {"invalid_rows": "skip"}])
def test_options_that_cannot_be_kept_are_refused(tmp_path, option):
    with pytest.raises(InputError, match="^(dataset configuration|" + next(iter(option)) + ")"):
        load_preferences(write(tmp_path / "a.jsonl", ROWS), **option)


@pytest.mark.shared
def test_hh_dialogues(shared):
    path = shared / "data" / "hh" / "helpful_train.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        expected = [json.loads(line) for line in stream]
    assert len(expected) == 5185 and loaded(path) == expected
