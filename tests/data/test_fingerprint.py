"""Equal content, equal name; any other content, another name; nothing else matters."""

from __future__ import annotations

import json
import time

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset, Features, List, Value, concatenate_datasets
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mallowspo.data.fingerprint import rows_fingerprint
from mallowspo.errors import InputError

IDS = st.lists(st.integers(-5, 5), max_size=4)
MESSAGE = st.fixed_dictionaries({"role": st.sampled_from("ab"), "n": st.none() | st.integers(0, 3)})
ROW = st.fixed_dictionaries(
    {
        "ids": st.none() | IDS,
        "text": st.none() | st.text(max_size=4),
        "number": st.none() | st.floats(allow_nan=False),
        "messages": st.none() | st.lists(MESSAGE, max_size=3),
    }
)
FEATURES = Features(
    {
        "ids": List(Value("int64")),
        "text": Value("string"),
        "number": Value("float64"),
        "messages": List({"role": Value("string"), "n": Value("int64")}),
    }
)


def made(rows):
    return Dataset.from_list(rows, features=FEATURES)


def said(rows):
    """What the rows say, whatever the order of a mapping's keys; unlike ==, it tells 0.0 from -0.0."""
    return json.dumps(rows, sort_keys=True)


def name(dataset):
    return rows_fingerprint(dataset, list(FEATURES))


@given(st.lists(ROW, min_size=1, max_size=5), st.lists(ROW, min_size=1, max_size=5))
@settings(max_examples=100)
def test_names_are_equal_where_rows_are(left, right):
    assert (name(made(left)) == name(made(right))) == (said(left) == said(right))


@given(st.lists(ROW, min_size=2, max_size=6), st.data())
@settings(max_examples=60)
def test_chunks_slices_and_selections_make_no_difference(rows, data):
    whole = name(made(rows))
    cut = data.draw(st.integers(1, len(rows) - 1))
    assert name(concatenate_datasets([made(rows[:cut]), made(rows[cut:])])) == whole
    padded = made([rows[-1], *rows, rows[0]])
    assert name(padded.select(range(1, len(rows) + 1))) == whole
    assert name(padded.select([*range(1, len(rows)), len(rows)])) == whole
    sliced = Dataset(padded.data.table.slice(1, len(rows)))
    assert name(sliced) == whole


@given(st.lists(ROW, min_size=2, max_size=5))
@settings(max_examples=50)
def test_order_counts(rows):
    assume(said(rows) != said(rows[::-1]))
    assert name(made(rows)) != name(made(rows[::-1]))


def test_integer_width_and_column_order_make_no_difference():
    wide = Dataset.from_dict({"a": [[1, 2], [3]], "b": ["x", "y"]})
    narrow = wide.cast(Features({"a": List(Value("int32")), "b": Value("large_string")}))
    assert rows_fingerprint(wide, ["a", "b"]) == rows_fingerprint(narrow, ["b", "a"])
    fixed = Dataset(pa.table({"a": pa.array([[1, 2], [3, 4]], pa.list_(pa.int64(), 2))}))
    assert rows_fingerprint(fixed, ["a"]) == rows_fingerprint(Dataset.from_dict({"a": [[1, 2], [3, 4]]}), ["a"])


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_what_lies_outside_a_slice_of_text_does_not_count(kind):
    whole = pa.table({"text": pa.array(["one", "two", "three"], kind)})
    expected = rows_fingerprint(Dataset.from_dict({"text": ["two"]}), ["text"])
    assert rows_fingerprint(Dataset(whole.slice(1, 1)), ["text"]) == expected


def test_where_one_row_ends_counts():
    a = Dataset.from_dict({"ids": [[1, 2], [3]], "text": ["ab", "c"]})
    b = Dataset.from_dict({"ids": [[1], [2, 3]], "text": ["a", "bc"]})
    for column in ("ids", "text"):
        assert rows_fingerprint(a, [column]) != rows_fingerprint(b, [column])


def test_names_are_those_of_stores_on_disk():
    rows = Dataset.from_dict({"ids": [[1, 2], [3]], "other": ["a", "b"]})
    assert rows_fingerprint(rows, ["ids"])[:12] == "aeb390accefd"


def test_a_missing_column_is_named():
    with pytest.raises(InputError, match="no column 'c' among a"):
        rows_fingerprint(Dataset.from_dict({"a": [1]}), ["a", "c"])


def test_a_million_tokens_take_a_moment(rng):
    ids = pa.ListArray.from_arrays(np.arange(0, 2_000_001, 20, dtype=np.int32), rng.integers(0, 32000, 2_000_000))
    dataset = Dataset(pa.table({"ids": ids}))
    start = time.process_time()
    before = rows_fingerprint(dataset, ["ids"])
    assert time.process_time() - start < 2
    changed = ids.values.to_numpy().copy()
    changed[1_234_567] += 1
    other = Dataset(pa.table({"ids": pa.ListArray.from_arrays(ids.offsets, changed)}))
    assert rows_fingerprint(other, ["ids"]) != before
