"""What `check` reads `train` reads, row by row; columns that nobody needs stop neither; limits are named."""

import datetime
import decimal
import gzip
import io
import json
import logging
import math
import tempfile
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_rows import as_chat, chat, pair, write
from datasets import Audio, Dataset, Image, List, concatenate_datasets
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mallowspo.data.blank import is_blank, looks
from mallowspo.data.limits import Limits
from mallowspo.data.lint import check_preferences
from mallowspo.data.records import LIST_COLUMN
from mallowspo.data.sources import load_preferences, stream_rows
from mallowspo.data.tables import TableBuilder, parquet_table
from mallowspo.data.tokenization import tokenize_pairs
from mallowspo.data.validation import validate_rows
from mallowspo.errors import InputError
from mallowspo.training.row_order import ListSampler
from tiny import CHAT_TEMPLATE, tiny_tokenizer

PAIRS = [pair(f"Question {i}: what now?", f" one {i} yes", f" no, two {i} and more") for i in range(4)]
TEXTS = {name: [row[name] for row in PAIRS] for name in PAIRS[0]}


def trained(path, tokenizer=None, **options):
    """The texts that training reads of a file, with the number of each row."""
    found = validate_rows(load_preferences(path, **options).dataset, **options)
    tokens = tokenize_pairs(found.dataset, tokenizer or tiny_tokenizer(), max_length=400, **options).dataset
    columns = ("row_index", "prompt", "chosen", "rejected")
    return [tuple(row[name] for name in columns) for row in tokens]


def deep(levels):
    return [deep(levels - 1)] if levels else "x"


def read_both(path, says):
    """Loading and streaming refuse a source in the same words."""
    for read in (load_preferences, lambda file: list(stream_rows(file))):
        with pytest.raises(InputError, match=says):
            read(path)


EXTRAS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=5),
    st.sampled_from([{}, [], {"a": {}}, {"a": None}, [1, "x"], [[]], "\ud83d", {"\udc00": 1}, deep(80), 10**400]),
    st.sampled_from([[{"name": "f"}], '[{"name": "f"}]', [{"name": "\ud83d"}], r'[{"name": "\ud83d"}]', '{"a": 1}']),
    st.dictionaries(st.text(max_size=3), st.integers(0, 5), max_size=3),
    st.lists(st.dictionaries(st.sampled_from("abc"), st.none() | st.text(max_size=2)), max_size=3),
)  # fmt: skip
NAMES = st.sampled_from(
    ["note", "", "row_index", "dispersion_index", "prompt_ids", "id", "ref_chosen_logps", "é", "tools", "x\0"]
)


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.dictionaries(NAMES, EXTRAS, max_size=4), min_size=4, max_size=4),
    st.sampled_from(["jsonl", "jsonl.gz", "json", "csv", "parquet", "saved"]),
    st.booleans(),
)
def test_what_check_passes_train_reads(extras, form, is_chat):
    """And what it does not pass are the rows that training names; `tools` alone can be wrong here."""
    tokenizer = tiny_tokenizer(chat=is_chat)
    rows = [extra | row for extra, row in zip(extras, as_chat(PAIRS) if is_chat else PAIRS, strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = write(Path(folder) / f"rows.{form}", rows)
        except (pa.ArrowException, OverflowError, TypeError, ValueError, RecursionError):
            return  # the writer of this format cannot write such a column
        if form == "parquet":
            try:
                pq.read_schema(path)
            except OSError:  # Arrow writes lists that it does not read: of more than 100 levels in its schema
                read_both(path, "too deeply nested")
                return
        if is_chat and form == "csv":
            return  # a cell holds no messages
        report = check_preferences(path, tokenizer)
        assert report.rows == 4
        wrong = [finding.kind for finding in report.findings if finding.severity == "error"]
        assert set(wrong) <= {"bad_tools", "unpaired_surrogate", "unparsable", "refused_by_template"}
        refused = {int(place) for kind in wrong for place in np.flatnonzero(report.ledger.having(kind))}
        assert refused <= {i for i, extra in enumerate(extras) if extra.get("tools") is not None}
        expected = [(i, *(rows[i][name] for name in TEXTS)) for i in range(4) if i not in refused]
        if not expected or refused:
            with pytest.raises(InputError):
                trained(path, tokenizer)
        if expected:
            assert trained(path, tokenizer, invalid_rows="drop" if refused else "error") == expected


LIST = {"prompt": "p", "responses": [" one", " two 2", " and three"]}


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("r.jsonl", [{**LIST, "ranks": ranks} for ranks in ([1, 2, 3], [1.5, 1.5, 3], [2, 1, 1])]),
        ("r.jsonl", [{**LIST, "ranks": ranks} for ranks in ([1, 2, 3], [1, 2, math.nan], [2, 1, 1])]),
        ("r.jsonl", [PAIRS[i] | {"rankings": [[1, 2], last]} for i, last in enumerate([[2, 1], [1.5, 1.5], [1, 2]])]),
        ("r.csv", [PAIRS[i] | {"weight": text} for i, text in enumerate([".5", "none", "1_0"])]),
        ("r.csv", [PAIRS[i] | {"beta": text} for i, text in enumerate(["+1", "-", "2."])]),
    ],
    ids=["fraction", "NaN", "rankings", "weight", "beta"],
)
def test_a_number_that_is_wrong_costs_its_own_row_alone(tmp_path, name, rows):
    """One fraction makes floats of a column, and one word makes text of it."""
    path = write(tmp_path / name, rows)
    report = check_preferences(path, tiny_tokenizer())
    errors = [finding.kind for finding in report.findings if finding.severity == "error"]
    assert {int(place) for kind in errors for place in np.flatnonzero(report.ledger.having(kind))} == {1}
    assert {row[0] for row in trained(path, invalid_rows="drop")} == {0, 2}


@pytest.mark.parametrize(
    ("name", "values", "read"),
    [
        ("weight", ["0.5", "2", "0"], [0.5, 2, 0]),
        ("votes", [["3", "1"], ["2", "0"], ["0", "1"]], [[3, 1, 0], [2, 0, 0], [0, 1, 0]]),
        ("rankings", [[["1", "2"], ["2", "1"]]] * 3, [[[1, 2], [2, 1]]] * 3),
    ],
)
def test_decimals_are_numbers(tmp_path, name, values, read):
    """As DuckDB and Spark write what was counted or divided."""

    def decimals(value):
        return [decimals(item) for item in value] if isinstance(value, list) else decimal.Decimal(value)

    table = pa.table({key: texts[:3] for key, texts in TEXTS.items()} | {name: pa.array(decimals(values))})
    pq.write_table(table, tmp_path / "rows.parquet")
    assert validate_rows(load_preferences(tmp_path / "rows.parquet").dataset).dataset[name][:] == read
    assert f"bad_{name}" not in check_preferences(tmp_path / "rows.parquet", tiny_tokenizer()).counts()


@pytest.mark.parametrize("name", ["r.csv", "r.jsonl", "r.json"])
def test_utf_16_is_told_how_to_be_converted(tmp_path, name):
    path = write(tmp_path / name, PAIRS)
    path.write_text(path.read_text(), encoding="utf-16")
    with pytest.raises(InputError, match="UTF-16"):
        load_preferences(path)


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
        pa.array([decimal.Decimal("1.10")] * 4, type=pa.decimal256(50, 2)),
        pa.array([1] * 4, type=pa.duration("s")),
        pa.array([[]] * 4, type=pa.list_(pa.int64(), 0)),
        pa.StructArray.from_arrays([pa.array([1] * 4)] * 2, names=["x", "x"]),
        pa.StructArray.from_arrays([pa.array([1] * 4)], names=["x\0y"]),
    ],
    ids=lambda column: str(column.type),
)
def test_parquet_columns_of_every_type_stop_nothing(tmp_path, column, caplog):
    path = tmp_path / "rows.parquet"
    table = pa.table({**TEXTS, "extra": column})
    try:
        pq.write_table(table.set_column(1, "chosen", pa.array(TEXTS["chosen"][:3] + [""])), path)
    except pa.ArrowNotImplementedError as error:
        pytest.skip(f"pyarrow {pa.__version__} writes no such column: {error}")
    caplog.set_level(logging.WARNING)
    assert [row[0] for row in trained(path, invalid_rows="drop")] == [0, 1, 2]
    assert check_preferences(path, tiny_tokenizer()).counts()["empty_response"] == 1
    left_out = any(word in str(column.type) for word in ("map", "decimal32", "uuid", "list", "struct"))
    assert ("'extra' is left out" in caplog.text) == left_out


@pytest.mark.parametrize(
    ("column", "read"),
    [
        (pa.array([2**62, 0], pa.timestamp("us")), [None, datetime.datetime(1970, 1, 1)]),
        (pa.array([2**30, 0], pa.date32()), [None, datetime.date(1970, 1, 1)]),
        (pa.array([2**62, 1], pa.duration("s")), [None, datetime.timedelta(seconds=1)]),
        (pa.array([[2**62], [0]], pa.list_(pa.timestamp("us"))), [None, [datetime.datetime(1970, 1, 1)]]),
        (pa.array([1, None], pa.timestamp("us", tz="Nowhere/City")), [None, None]),
        (pa.array(["no JSON", '{"a": 1}'], pa.json_()), [None, {"a": 1}]),
    ],
    ids=lambda value: str(getattr(value, "type", "")),
)
def test_values_that_no_row_can_hold_are_missing(tmp_path, column, read, caplog):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({name: values[:2] for name, values in TEXTS.items()} | {"extra": column}), path)
    assert [row.values["extra"] for row in stream_rows(path)] == read
    assert load_preferences(path).dataset["extra"][:] == read
    assert "'extra' has values that no row can hold" in caplog.text


@pytest.mark.parametrize("name", ["chosen", "tools", "weight"])
def test_a_needed_column_of_a_type_that_no_row_can_hold_is_named(tmp_path, name):
    column = pa.array([[("k", "v")]], pa.map_(pa.string(), pa.string()))
    table = pa.table({key: values[:1] for key, values in TEXTS.items() if key != name} | {name: column})
    pq.write_table(table, tmp_path / "rows.parquet")
    read_both(tmp_path / "rows.parquet", f"column '{name}' cannot be read.*map")


@pytest.mark.parametrize(
    ("values", "feature"),
    [
        ([{"bytes": b"no picture", "path": None}], Image()),
        ([{"bytes": b"no sound", "path": None}], Audio()),
        ([[{"bytes": b"no picture", "path": None}]], List(Image())),
        (pa.array([2**62], pa.timestamp("us")), None),
        (pa.array(["no JSON"], pa.json_()), None),
    ],
)
def test_what_a_saved_data_set_cannot_show_stops_neither_command(tmp_path, values, feature):
    dataset = Dataset(pa.table({name: texts[:1] for name, texts in TEXTS.items()} | {"extra": values}))
    dataset = dataset if feature is None else dataset.cast_column("extra", feature)
    dataset.save_to_disk(tmp_path / "saved")
    assert trained(tmp_path / "saved") == [(0, *PAIRS[0].values())]
    assert check_preferences(tmp_path / "saved", tiny_tokenizer()).rows == 1


@pytest.mark.parametrize("form", ["jsonl", "json"])
def test_names_with_a_character_that_no_column_can_have(tmp_path, form, caplog):
    odd = {"x\0": 1, "x\0y": 2}
    path = write(tmp_path / f"rows.{form}", [PAIRS[0] | odd | {"meta": odd, "tools": [odd]}])
    assert [row.values for row in stream_rows(path)] == [PAIRS[0] | {"meta": odd, "tools": [odd]}]
    loaded = load_preferences(path).dataset
    assert (loaded["meta"][0], loaded["tools"][0]) == (odd, [odd])
    assert "row 1 has NUL in its name" in caplog.text


@pytest.mark.parametrize("form", ["jsonl", "json", "parquet", "saved"])
@pytest.mark.parametrize("odd", [None, [None]])
def test_tools_of_which_all_lack_the_same_value(tmp_path, form, odd):
    """Arrow's cast of such a column to its own type breaks it: training refused what `check` passed."""
    tool = {"type": "function", "function": {"name": "f", "strict": odd, "parameters": {"a": 1}}}
    rows = [row | {"tools": [tool, tool]} for row in as_chat(PAIRS)]
    path = write(tmp_path / f"rows.{form}", rows)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    assert not check_preferences(path, tokenizer).has_errors
    assert load_preferences(path).dataset["tools"][:] == [row["tools"] for row in rows]
    assert len(trained(path, tokenizer)) == len(rows)


# Keys that stand twice in one object: which of the two values is meant nobody knows.


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ('{"prompt": "p", "chosen": "a", "prompt": "q", "rejected": "b"}', "prompt stands twice"),
        (
            '{"chosen": [{"role": "user", "content": "a", "content": "b"}], "rejected": "b"}',
            "chosen: 'content' stands twice",
        ),
        ('{"prompt": "p", "chosen": "a", "rejected": "b", "votes": {"chosen": 1, "chosen": 2}}', "votes: 'chosen'"),
        ('{"prompt": "p", "chosen": "a", "rejected": "b", "weight": 1, "we\\u0069ght": 1}', "weight stands twice"),
    ],
)
@pytest.mark.parametrize("form", ["jsonl", "json"])
def test_a_needed_key_that_stands_twice_is_named_with_its_row(tmp_path, line, named, form):
    path = write(tmp_path / f"rows.{form}", [PAIRS[0], line, PAIRS[1]])
    unit = "line" if form == "jsonl" else "element"
    with pytest.raises(InputError, match=f"(?s){unit} 2: {named}"):
        load_preferences(path)
    assert load_preferences(path, invalid_rows="drop").dataset["row_index"][:] == [0, 2]
    report = check_preferences(path, tiny_tokenizer())
    assert report.counts()["unparsable"] == 1 and named in report.findings[0].examples[0].shows


def test_a_key_that_nobody_needs_may_stand_twice(tmp_path, caplog):
    inner = '{"a": 1, "a": 2}'
    path = write(tmp_path / "r.jsonl", [f'{json.dumps(PAIRS[0])[:-1]}, "note": 1, "meta": {inner}, "note": 2}}'])
    assert [row.values for row in stream_rows(path)] == [PAIRS[0] | {"meta": {"a": 2}}]
    assert "'note' is left out: row 1 has it twice" in caplog.text


def test_columns_that_stand_twice(tmp_path, caplog):
    path = tmp_path / "rows.csv"
    path.write_text("prompt,chosen,rejected,note,note\nOnce, a,b,x,y\n")
    assert [row.values for row in stream_rows(path)] == [pair("Once", " a", "b")]
    assert load_preferences(path).dataset[:] == {"prompt": ["Once"], "chosen": [" a"], "rejected": ["b"]}
    assert "'note' is left out: it stands there 2 times" in caplog.text
    path.write_text("prompt,chosen,rejected,chosen\nOnce, a,b,c\n")
    names = ["prompt", "chosen", "rejected", "chosen"]
    pq.write_table(pa.table([["p"], ["a"], ["b"], ["c"]], names=names), tmp_path / "t.parquet")
    for file in (path, tmp_path / "t.parquet"):
        read_both(file, "'chosen'.* it stands there 2 times")


def test_a_row_index_of_the_users_decides_nothing(tmp_path):
    rows = [row | {"row_index": 7, "votes": [i, 0]} for i, row in enumerate(PAIRS)]
    for form in ("jsonl", "csv", "parquet", "saved"):
        path = write(tmp_path / f"rows.{form}", rows)
        valid = validate_rows(load_preferences(path).dataset, columns=["votes"]).dataset
        found = tokenize_pairs(valid, tiny_tokenizer(), max_length=64).dataset
        assert found["row_index"][:] == [0, 1, 2, 3]
        assert not ListSampler(found[LIST_COLUMN], seed=0).has_lists
        assert [votes[0] for votes in found["votes"]] == [0, 1, 2, 3]


def test_layouts_are_told_by_position_and_not_by_number():
    builder = TableBuilder()
    builder.append_rows([*PAIRS, chat()])
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
        ("a.jsonl", json.dumps(pair(chosen=deep(20))).encode(), {"max_nesting": 10}, "chosen is .* 10 deep.*max_nest"),
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


def test_bad_csv_rows_behind_the_first_block_keep_their_numbers(tmp_path):
    """They had numbers that counted the rows of earlier blocks twice."""
    path = tmp_path / "rows.csv"
    rows = [f"p{i},{'a' * 50},b" if i not in (100, 35_000) else "x,y" for i in range(40_000)]
    path.write_text("\n".join(["prompt,chosen,rejected", *rows]))
    found = load_preferences(path, invalid_rows="drop", limits=Limits(max_line_mb=1))
    assert [problem.row_index for problem in found.dropped] == [100, 35_000]
    assert found.dataset["row_index"][-1] == 39_999


def test_rows_with_keys_of_their_own_take_no_square_of_their_number(tmp_path):
    rows = [row | {"meta": {f"key {i}": i}} for i, row in enumerate(PAIRS * 500)]
    path = write(tmp_path / "rows.jsonl", rows)
    assert load_preferences(path).dataset["meta"][1999] == {"key 1999": 1999}


# Tables that a parquet file can hold: an object without keys, as in tools without parameters, is no Arrow column.

EMPTY = pa.struct([])


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (EMPTY, {}),
        (pa.struct([("name", pa.string()), ("parameters", EMPTY)]), {"name": "f", "parameters": {}}),
        (pa.list_(EMPTY), [{}, {}]),
        (pa.large_list(pa.struct([("a", EMPTY)])), [{"a": {}}]),
        (pa.list_(EMPTY, 2), [{}, {}]),
        (pa.list_view(EMPTY), [{}]),
        (pa.map_(pa.string(), EMPTY), [("a", {})]),
    ],
)
def test_an_object_without_keys_is_written_as_json_text(kind, value):
    table = pa.table({"x": pa.array([value, None], type=kind), "kept": [1, 2]})
    with pytest.raises(pa.ArrowNotImplementedError):
        pq.write_table(table, io.BytesIO())
    file = io.BytesIO()
    pq.write_table(parquet_table(table), file)
    text, missing = pq.read_table(file).column("x").to_pylist()
    assert json.loads(text) == json.loads(json.dumps(value)) and missing is None


@pytest.mark.parametrize(
    "kind", [pa.struct([("a", pa.int64())]), pa.list_(pa.string()), pa.map_(pa.string(), pa.int64()), pa.null()]
)
def test_what_parquet_can_hold_stays_as_it_is(kind):
    table = pa.table({"x": pa.array([None], type=kind)})
    assert parquet_table(table).schema == table.schema


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
