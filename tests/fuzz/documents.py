"""Hypothesis strategies for files as nobody should write them: valid ones damaged, and ones made up."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from hypothesis import strategies as st

# What people's files, other programs and enemies put where a text, a number or a list is expected.
ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 7, 1.5, -3.25, 10**19, 2**63, 1e308, 10**400, 5e-324),
    *(float("nan"), float("inf"), float("-inf")),
    *("", " ", "\n", "\u200b", "\u3164", "\ufeff", "\x00", "\ud83d", "e\u0301", "</s>", "<s>", "{{ x }}", "A" * 5000),
    *("nan", "1", "-1", "1e9", "2024-01-01", "3-1", "A", "tie", "A>B", "../../x", "http://u:k@h/?key=k", "[[A]]"),
    *([], [[]], [None], [1], [1, 2], [2, 1], [1, 1], [[1, 2], [2, 1]], ["x", "y"], [{}], [1, "x"], [[1], [1, 2]]),
    *({}, {"a": None}, {"": 1}, {"A": 3, "B": 1}, {"role": "user"}, {"role": 1, "content": []}, {"content": "x"}),
    [{"role": "user", "content": "hi"}],
    [{"role": "user", "content": [{"type": "text", "text": " "}]}],
    [{"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}],
)

_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 12),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(ODD_VALUES),
)
VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=6,
)

# What breaks readers when it stands in the middle of a file.
_PIECES = (
    *(bytes([byte]) for byte in b"\x00\xff\xe9\r\n\t\"',;[]{}:\\-#%|>&*"),
    *b'\xef\xbb\xbf \r\n \xe2\x80\xa8 "" \\ud83d \\u0000 null NaN Infinity 1e999 true &a *a --- PAR1 \x1f\x8b'.split(
        b" "
    ),
    *b"!!python/object:os.system <think> </think> [[A]] [[B]]".split(),
    *(b"9" * 400, b"[" * 3000, b'{"a":' * 2000, b"A" * 20_000),
)


def _places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every path into a document."""
    found = [at]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += _places(inner, (*at, key))
    return found


def _changed(value: Any, path: tuple[Any, ...], change: str, new: Any) -> Any:
    """A copy of a document with one place replaced, taken out, doubled or given under another name."""
    if not path:
        return new if change == "replace" else [value, value] if change == "double" else value
    key, rest = path[0], path[1:]
    if rest:
        inner = _changed(value[key], rest, change, new)
        return {**value, key: inner} if isinstance(value, dict) else [*value[:key], inner, *value[key + 1 :]]
    if isinstance(value, dict):
        if change == "remove":
            return {k: v for k, v in value.items() if k != key}
        if change == "rename":
            return {(str(new)[:20] if k == key else k): v for k, v in value.items()}
        return {**value, key: new} if change == "replace" else {**value, f"{key}2": value[key]}
    if change == "remove":
        return [*value[:key], *value[key + 1 :]]
    return [*value[:key], new if change == "replace" else value[key], *value[key if change == "double" else key + 1 :]]


@st.composite
def changed(draw: st.DrawFn, documents: Sequence[Any]) -> Any:
    """One of the documents with one to three of its places changed."""
    value = draw(st.sampled_from(documents))
    for _ in range(draw(st.integers(1, 3))):
        places = _places(value)
        path = places[draw(st.integers(0, len(places) - 1))]
        change = draw(st.sampled_from(("replace", "replace", "replace", "remove", "double", "rename")))
        value = _changed(value, path, change, draw(VALUES) if change in ("replace", "rename") else None)
    return value


@st.composite
def damaged(draw: st.DrawFn, files: Sequence[bytes]) -> bytes:
    """One of the files with one to four cuts, flips, insertions or repetitions."""
    data = draw(st.sampled_from(files))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        change = draw(st.sampled_from(("insert", "insert", "cut", "end", "flip", "repeat", "splice")))
        if change == "insert":
            data = data[:at] + draw(st.sampled_from(_PIECES)) + data[at:]
        elif change == "cut":
            data = data[:at] + data[at + draw(st.integers(1, 12)) :]
        elif change == "end":
            data = data[:at]
        elif change == "flip" and at < len(data):
            data = data[:at] + bytes([data[at] ^ (1 << draw(st.integers(0, 7)))]) + data[at + 1 :]
        elif change == "repeat":
            data = data[:at] + data[at : at + 40] * draw(st.integers(2, 5)) + data[at:]
        elif change == "splice":
            other = draw(st.sampled_from(files))
            data = data[:at] + other[draw(st.integers(0, len(other))) :]
    return data


def as_json(value: Any) -> bytes:
    """JSON as lenient writers write it: NaN, and half of a surrogate pair as an escape."""
    return json.dumps(value).encode()


@st.composite
def repeating(draw: st.DrawFn, documents: Sequence[Any]) -> bytes:
    """JSON in which a key stands twice in one object, and text in which escapes are spelt out."""
    text = json.dumps(draw(changed(documents)))
    keys = re.findall(r'"[^"\\]*": ', text)
    for _ in range(draw(st.integers(1, 2))):
        if keys:
            key = draw(st.sampled_from(keys))
            at = draw(st.sampled_from([found.start() for found in re.finditer(re.escape(key), text)] or [0]))
            twice = draw(st.sampled_from([key, key.replace("e", "\\u0065"), '"\\ud83d": ', '"x\\u0000": ']))
            text = f"{text[:at]}{twice}{json.dumps(draw(VALUES))}, {text[at:]}"
    return text.encode()


def as_lines(rows: Any) -> bytes:
    """JSON lines; what is no list of rows becomes one line."""
    return b"\n".join(as_json(row) for row in (rows if isinstance(rows, list) else [rows])) + b"\n"


def _table(rows: Any) -> tuple[list[str], list[dict[str, Any]]]:
    """The names and rows of whatever was made up; what is no list of rows has none."""
    found = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    found = [{str(name): cell for name, cell in row.items()} for row in found]
    return list(dict.fromkeys(name for row in found for name in row)), found


def as_csv(rows: Any) -> bytes:
    """CSV with JSON in the cells that hold no text."""
    names, found = _table(rows)
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(names)
    for row in found:
        cells = {name: cell if isinstance(cell, str) else json.dumps(cell) for name, cell in row.items()}
        writer.writerow([cells.get(name, "") for name in names])
    return out.getvalue().encode("utf-8", "replace")


def as_parquet(rows: Any) -> bytes:
    """Parquet with whatever types Arrow finds; an empty file where it finds none."""
    names, found = _table(rows)
    try:
        return _written(pa.table({name: pa.array([row.get(name) for row in found]) for name in names}))
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        return b""


def _written(table: Any) -> bytes:
    out = io.BytesIO()
    try:
        pq.write_table(table, out)
    except (pa.ArrowException, ValueError):
        return b""
    return out.getvalue()


def _odd_columns(count: int) -> list[Any]:
    """Columns of so many rows that other writers of parquet make, and values that their types allow."""
    whole = pa.array(range(count))

    def of(values: list[Any], kind: Any) -> Any:
        return pa.array((values * count)[:count], kind)

    return [
        of([[("k", "v"), ("k", "w")], []], pa.map_(pa.string(), pa.string())),
        *(of([2**62, 0, -(2**62)], kind) for kind in (pa.timestamp("us"), pa.time64("ns"), pa.duration("s"))),
        *(of([2**30, 0], kind) for kind in (pa.date32(), pa.timestamp("us", tz="Nowhere/City"))),
        of([1], pa.decimal256(50, 2)),
        of(["{}", "no JSON", '{"a": 1, "a": 2}', "NaN", "[[1, 2], [2, 1]]"], pa.json_()),
        of([b"\xff\x00", b""], pa.binary()),
        of([b"0" * 16], pa.uuid()),
        of(["a", "b", None], pa.string()).dictionary_encode(),
        of(["long"], pa.large_string()),
        of([[1, 2], [2, 1]], pa.list_(pa.int64(), 2)),
        of([[], []], pa.list_(pa.int64(), 0)),
        of([[None], []], pa.list_(pa.null())),
        of([1.5, float("nan")], pa.float16()),
        pa.StructArray.from_arrays([whole, whole], names=["x", "x"]),
        pa.StructArray.from_arrays([whole, whole], names=["role", "content\0"]),
        pa.nulls(count),
    ]


@st.composite
def odd_parquet(draw: st.DrawFn, documents: Sequence[Any]) -> bytes:
    """A parquet file of which one or two columns have a type, values or a name that few files have."""
    rows = [row for row in draw(st.sampled_from(documents)) if isinstance(row, dict)]
    table = pa.table({name: _any_array([row.get(name) for row in rows]) for row in rows[:1] for name in row})
    odd = _odd_columns(len(rows))
    for _ in range(draw(st.integers(1, 2))):
        name = draw(st.sampled_from([*table.column_names, "extra", "", "row_index", "x\0", "a.b", *_names(documents)]))
        column = odd[draw(st.integers(0, len(odd) - 1))]
        if name in table.column_names and draw(st.integers(0, 3)):
            place = table.column_names.index(name)
            table = table.set_column(place, name, column)
        else:
            table = table.append_column(name, column)
    return _written(table)


def _any_array(values: list[Any]) -> Any:
    try:
        return pa.array(values)
    except (pa.ArrowException, TypeError, ValueError):
        return pa.array([json.dumps(value) for value in values])


def as_gzip(rows: Any) -> bytes:
    """JSON lines, packed."""
    return gzip.compress(as_lines(rows), compresslevel=1)


def as_yaml(value: Any) -> bytes:
    """YAML, or JSON where YAML has no word for it; JSON is YAML too."""
    try:
        return yaml.safe_dump(value, allow_unicode=True).encode("utf-8", "replace")
    except (yaml.YAMLError, ValueError):
        return as_json(value)


def files(documents: Sequence[Any], write: Callable[[Any], bytes]) -> st.SearchStrategy[bytes]:
    """Files of one format: documents changed in their structure, in their bytes, or made up."""
    whole = [write(document) for document in documents]
    rows = st.lists(st.dictionaries(st.sampled_from(_names(documents)), VALUES, max_size=5), max_size=4)
    made_up = st.one_of(rows, VALUES).map(write)
    return st.one_of(changed(documents).map(write), damaged(whole), made_up)


def _names(documents: Sequence[Any]) -> list[str]:
    keys = {key for document in documents for path in _places(document) for key in path if isinstance(key, str)}
    return sorted(keys) or ["x"]
