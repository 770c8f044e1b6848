"""Tables that a parquet file can hold: an object without keys, as in tools without parameters, is no Arrow column."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mallowspo.data.tables import parquet_table

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
    ],
)
def test_an_object_without_keys_is_written_as_json_text(kind, value):
    table = pa.table({"x": pa.array([value, None], type=kind), "kept": [1, 2]})
    with pytest.raises(pa.ArrowNotImplementedError):
        pq.write_table(table, io.BytesIO())
    file = io.BytesIO()
    pq.write_table(parquet_table(table), file)
    text, missing = pq.read_table(file).column("x").to_pylist()
    assert json.loads(text) == value and missing is None


def test_an_object_without_keys_inside_a_map():
    table = pa.table({"x": pa.array([[("a", {})]], type=pa.map_(pa.string(), EMPTY))})
    file = io.BytesIO()
    pq.write_table(parquet_table(table), file)
    assert json.loads(pq.read_table(file).column("x")[0].as_py()) == [["a", {}]]


@pytest.mark.parametrize(
    "kind", [pa.struct([("a", pa.int64())]), pa.list_(pa.string()), pa.map_(pa.string(), pa.int64()), pa.null()]
)
def test_what_parquet_can_hold_stays_as_it_is(kind):
    table = pa.table({"x": pa.array([None], type=kind)})
    assert parquet_table(table).schema == table.schema
