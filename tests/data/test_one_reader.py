"""What `check` reads `train` reads, row by row; columns that nobody needs stop neither; limits are named."""

import csv
import datetime
import decimal
import gzip
import json
import logging
import tempfile
import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, concatenate_datasets
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mallowspo.data.blank import is_blank, looks
from mallowspo.data.limits import Limits
from mallowspo.data.lint import check_preferences
from mallowspo.data.records import LIST_COLUMN
from mallowspo.data.sources import load_preferences, stream_rows
from mallowspo.data.tokenization import tokenize_pairs
from mallowspo.data.validation import validate_rows
from mallowspo.errors import InputError
from mallowspo.training.prompt_sampler import ListSampler
from tiny import tiny_tokenizer

PAIRS = [
    {"prompt": f"Question {i}: what now?", "chosen": f" one {i} yes", "rejected": f" no, two {i} and more"}
    for i in range(4)
]
TEXTS = {name: [row[name] for row in PAIRS] for name in PAIRS[0]}


def trained(path, **options):
    """The texts that training reads of a file, with the number of each row; and what it drops."""
    loaded = load_preferences(path, **options)
    found = validate_rows(loaded.dataset, invalid_rows=options.get("invalid_rows", "error"))
    tokens = tokenize_pairs(found.dataset, tiny_tokenizer(), max_length=64).dataset
    columns = ("row_index", "prompt", "chosen", "rejected")
    return [tuple(row[name] for name in columns) for row in tokens]


def deep(levels):
    value = "x"
    for _ in range(levels):
        value = [value]
    return value


EXTRAS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=5),
    st.sampled_from([{}, [], {"a": {}}, {"a": None}, [1, "x"], [[]], "\ud83d", {"\udc00": 1}, deep(80), 10**400]),
    st.dictionaries(st.text(max_size=3), st.integers(0, 5), max_size=3),
    st.lists(st.dictionaries(st.sampled_from("abc"), st.none() | st.text(max_size=2)), max_size=3),
)  # fmt: skip
NAMES = st.sampled_from(["note", "", "row_index", "dispersion_index", "prompt_ids", "id", "ref_chosen_logps", "é"])


def write(folder, form, rows):
    path = Path(folder) / f"rows.{form}"
    if form in ("jsonl", "jsonl.gz"):
        raw = "".join(json.dumps(row) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(raw) if form.endswith("gz") else raw)
    elif form == "json":
        path.write_text(json.dumps(rows))
    elif form == "csv":
        names = list(dict.fromkeys(name for row in rows for name in row))
        with path.open("w", newline="", encoding="utf-8", errors="replace") as stream:
            writer = csv.writer(stream)
            writer.writerow(names)
            writer.writerows([[row.get(name, "") for name in names] for row in rows])
    elif form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        Dataset.from_list(rows).save_to_disk(path)
    return path


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.dictionaries(NAMES, EXTRAS, max_size=4), min_size=4, max_size=4),
    st.sampled_from(["jsonl", "jsonl.gz", "json", "csv", "parquet", "saved"]),
)
def test_what_check_passes_train_reads(extras, form):
    rows = [extra | row for extra, row in zip(extras, PAIRS, strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = write(folder, form, rows)
        except (pa.ArrowException, OverflowError, TypeError, ValueError, RecursionError):
            return  # the writer of this format cannot write such a column
        report = check_preferences(path, tiny_tokenizer())
        assert not {"unparsable", "malformed_row", "unpaired_surrogate"} & set(report.counts())
        assert report.rows == 4
        assert trained(path) == [(i, *(row[name] for name in TEXTS)) for i, row in enumerate(PAIRS)]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([[("k", "v")], [], None, []], type=pa.map_(pa.string(), pa.string())),
        pa.array(["a", "b", "a", "b"]).dictionary_encode(),
        pa.array([decimal.Decimal("1.10")] * 4),
        pa.array([decimal.Decimal("1.10")] * 4, type=pa.decimal32(5, 2)),
        pa.array([datetime.datetime(2024, 1, 1)] * 4),
        pa.array([b"\xff\x00"] * 4),
        pa.array([b"0" * 16] * 4, type=pa.uuid()),
        pa.nulls(4),
    ],
    ids=lambda column: str(column.type),
)
def test_parquet_columns_of_every_type_stop_nothing(tmp_path, column, caplog):
    path = tmp_path / "rows.parquet"
    table = pa.table({**TEXTS, "extra": column})
    pq.write_table(table.set_column(1, "chosen", pa.array(TEXTS["chosen"][:3] + [""])), path)
    caplog.set_level(logging.WARNING)
    assert [row[0] for row in trained(path, invalid_rows="drop")] == [0, 1, 2]
    assert check_preferences(path, tiny_tokenizer()).counts()["empty_response"] == 1
    left_out = any(word in str(column.type) for word in ("map", "decimal32", "uuid"))
    assert ("'extra' is left out" in caplog.text) == left_out


def test_columns_that_stand_twice(tmp_path, caplog):
    path = tmp_path / "rows.csv"
    path.write_text("prompt,chosen,rejected,note,note\nOnce, a,b,x,y\n")
    assert [row.values for row in stream_rows(path)] == [{"prompt": "Once", "chosen": " a", "rejected": "b"}]
    assert load_preferences(path).dataset[:] == {"prompt": ["Once"], "chosen": [" a"], "rejected": ["b"]}
    assert "'note' is left out: it stands there 2 times" in caplog.text
    path.write_text("prompt,chosen,rejected,chosen\nOnce, a,b,c\n")
    pq.write_table(
        pa.table([["p"], ["a"], ["b"], ["c"]], names=["prompt", "chosen", "rejected", "chosen"]),
        tmp_path / "t.parquet",
    )
    for file in (path, tmp_path / "t.parquet"):
        for read in (load_preferences, lambda file: list(stream_rows(file))):
            with pytest.raises(InputError, match="'chosen' stands there 2 times"):
                read(file)


def test_a_header_in_another_encoding(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes("prompt,chosen,rejected,né\na,b,c,d\n".encode("latin-1"))
    for read in (load_preferences, lambda file: list(stream_rows(file))):
        with pytest.raises(InputError, match="UTF-8"):
            read(path)


def test_a_row_in_another_encoding_is_named_and_nothing_is_printed(tmp_path, capfd):
    path = tmp_path / "rows.csv"
    path.write_bytes(b"prompt,chosen,rejected\na,b,c\nq,\xe9,too,many\n")  # a row that Arrow refuses for its cells
    with pytest.raises(InputError, match="line 3 has the byte 0xe9"):
        load_preferences(path, invalid_rows="drop")
    assert "Traceback" not in capfd.readouterr().err


def test_a_csv_column_keeps_its_type_to_the_last_row(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text(
        "prompt,chosen,rejected,n,x,mixed,yes,none\np,1,2,1,0.5,3,true,\nq,a,b,,1e3,4,false,NA\nr,c,d,3,NaN,five,true,\n"
    )
    found = load_preferences(path).dataset
    assert {name: found[name][:] for name in ("n", "x", "mixed", "yes", "none")} == {
        "n": [1, None, 3], "x": [0.5, 1000.0, None], "mixed": ["3", "4", "five"], "yes": [True, False, True],
        "none": [None, None, None],
    }  # fmt: skip
    assert found["chosen"][:] == ["1", "a", "c"]


def test_a_row_index_of_the_users_decides_nothing(tmp_path):
    rows = [row | {"row_index": 7, "votes": [i, 0]} for i, row in enumerate(PAIRS)]
    for form in ("jsonl", "csv", "parquet", "saved"):
        path = write(tmp_path, form, rows)
        found = tokenize_pairs(
            validate_rows(load_preferences(path).dataset, columns=["votes"]).dataset, tiny_tokenizer(), max_length=64
        ).dataset
        assert found["row_index"][:] == [0, 1, 2, 3]
        assert not ListSampler(found[LIST_COLUMN], seed=0).has_lists
        assert [votes[0] for votes in found["votes"]] == [0, 1, 2, 3]


def test_layouts_are_told_by_position_and_not_by_number():
    chat = {
        "prompt": [[{"role": "user", "content": "hi"}]],
        "chosen": [[{"role": "assistant", "content": "yes"}]],
        "rejected": [[{"role": "assistant", "content": "no"}]],
    }
    odd = {name: [*TEXTS[name], *map(json.dumps, chat[name])] for name in TEXTS}
    table = pa.table({name: pa.array(values, pa.string()) for name, values in odd.items()})
    from mallowspo.data.tables import TableBuilder

    builder = TableBuilder()
    builder.append_rows([*PAIRS, {name: values[0] for name, values in chat.items()}])
    assert table.num_rows == len(builder)
    dataset = builder.finish().add_column("row_index", [5] * 5)
    found = validate_rows(dataset, invalid_rows="drop")
    assert [(p.row_index, p.kind) for p in found.problems] == [(4, "mixed_layout")]
    assert found.dataset["prompt"][:] == TEXTS["prompt"]


def test_columns_under_our_names_are_left_out(caplog):
    """Ids of another tokenizer beside the text, scores of another reference, an index of another meaning."""
    ours = {"prompt_ids": [[1]] * 4, "chosen_ids": [[2]] * 4, "rejected_ids": [[3]] * 4, "prompt_id": ["x"] * 4}
    ours |= {"ref_chosen_logps": [-1.0] * 4, "dispersion_raw": ["high"] * 4, "dispersion_index": [0.5] * 4}
    plain, named = (
        tokenize_pairs(validate_rows(Dataset.from_dict({**TEXTS, **more})).dataset, tiny_tokenizer(), max_length=64)
        for more in ({}, ours)
    )
    assert sorted(plain.dataset.column_names) == sorted(named.dataset.column_names)
    assert list(plain.dataset) == list(named.dataset)
    assert "dispersion_raw" in caplog.text


def test_pairs_of_lists_stay_together_when_data_sets_are_joined():
    ranked = {"prompt": "p", "responses": ["a", "b", "c"], "ranks": [1, 2, 3]}
    lists = validate_rows(Dataset.from_list([ranked, ranked | {"prompt": "q"}])).dataset
    assert lists[LIST_COLUMN][:] == [0, 0, 0, 1, 1, 1]
    assert validate_rows(concatenate_datasets([lists, lists])).dataset["row_index"][:] == [0, 0, 0, 1, 1, 1] * 2


# Limits


@pytest.mark.parametrize(
    ("name", "content", "limits", "said"),
    [
        ("a.jsonl.gz", gzip.compress(b'{"prompt": "' + b" " * 2_000_000 + b'"}'), {"max_line_mb": 1}, "max_line_mb"),
        ("a.jsonl", b" " * 2_000_000 + b"\n", {"max_line_mb": 1}, "line 1 has more than 1 MiB.*max_line_mb"),
        ("a.json.gz", gzip.compress(b"[" + b" " * 3_000_000 + b"]"), {"max_line_mb": 1}, "max_line_mb"),
        ("a.csv", b"prompt,chosen,rejected\na,b," + b"c" * 3_000_000 + b"\n", {"max_line_mb": 1}, "max_line_mb"),
        ("a.jsonl", b"".join(b'{"k%d": 1}\n' % i for i in range(30)), {"max_columns": 20}, "than 20 .*max_columns"),
        ("a.csv", b",".join(b"k%d" % i for i in range(30)) + b"\n", {"max_columns": 20}, "max_columns"),
        (
            "a.jsonl",
            json.dumps(PAIRS[0] | {"chosen": deep(20)}).encode(),
            {"max_nesting": 10},
            "chosen is nested more than 10 deep.*max_nesting",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and value.startswith("a.") else "",
)  # fmt: skip
def test_limits_are_named_and_can_be_raised(tmp_path, name, content, limits, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"(?s){said}"):
        load_preferences(tmp_path / name, limits=Limits(**limits))
    with Limits(**limits).in_force():
        try:
            found = [row.problem for row in stream_rows(tmp_path / name)]
        except InputError as error:
            found = [str(error)]
    assert next(iter(limits)) in found[0]
    list(stream_rows(tmp_path / name))  # the defaults allow it


def test_rows_with_keys_of_their_own_take_no_square_of_their_number(tmp_path):
    rows = [row | {"meta": {f"key {i}": i}} for i, row in enumerate(PAIRS * 500)]
    path = write(tmp_path, "jsonl", rows)
    assert load_preferences(path).dataset["meta"][1999] == {"key 1999": 1999}


# What can be seen


def test_blank_is_what_unicode_says_has_nothing_to_draw():
    unseen = {"Cc", "Zs", "Zl", "Zp"}
    drawn = {*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD, *range(0x13430, 0x13440)}
    for code in range(0x11000):
        category = unicodedata.category(chr(code))
        if category in unseen or (category == "Cf" and code not in drawn):
            assert is_blank(chr(code)), hex(code)
        # A mark needs a letter to stand on; U+FFFC and U+FFFD stand for an object and for bytes that were lost.
        if category[0] == "M" or code in (0xFFFC, 0xFFFD):
            assert is_blank(chr(code)) and not is_blank("a" + chr(code)), hex(code)
        elif category[0] in "LNPS" and code not in (0x115F, 0x1160, 0x2800, 0x3164, 0xFFA0):
            assert not is_blank(chr(code)), hex(code)
    assert is_blank("\U000e0041\ufe0f\u115f") and not is_blank("👩‍👩‍👧")
    assert looks("A\u200bB\u00a0 c") == "AB c"
