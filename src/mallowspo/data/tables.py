"""Turn Python rows into Arrow columns, chunk by chunk, without changing a value on the way.

Arrow gives every column one type and every struct one set of fields. A column that does not fit (numbers among
texts, messages with differing keys) is stored as JSON, which `datasets` decodes to the very values that went in.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from mallowspo.errors import InputError, listed

if TYPE_CHECKING:
    import datasets

__all__ = ["TableBuilder", "as_type", "is_json_feature", "nested_types", "parquet_table", "rows_of"]

_BATCH = 2_000  # a look-up in Arrow per row takes ten times as long


def is_json_feature(feature: Any) -> bool:
    """Say whether a column of `datasets` is, or holds, values of mixed type that are stored as JSON."""
    import datasets

    inner = getattr(feature, "feature", None)
    return isinstance(feature, datasets.Json) or (inner is not None and is_json_feature(inner))


def nested_types(kind: pa.DataType) -> Iterator[pa.DataType]:
    """Give a type and all that are nested in it."""
    yield kind
    for place in range(kind.num_fields):
        yield from nested_types(kind.field(place).type)


def _has_struct(kind: pa.DataType) -> bool:
    return any(map(pa.types.is_struct, nested_types(kind)))


def rows_of(dataset: datasets.Dataset, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Read some columns of a data set row by row."""
    for batch in dataset.select_columns(list(columns)).with_format(None).iter(_BATCH):
        for values in zip(*batch.values(), strict=True):
            yield dict(zip(batch, values, strict=True))


class TableBuilder:
    """Collect rows and build one in-memory `Dataset` of them; a cached one could be that of a file that changed."""

    def __init__(self) -> None:
        # One list of chunks per column; a chunk that no Arrow type fits stays a list of Python values.
        self._columns: dict[str, list[pa.Array | list[Any]]] = {}
        self._lengths: list[int] = []

    def append_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add one chunk of rows; a key that a row lacks becomes None."""
        names = dict.fromkeys(name for row in rows for name in row)
        self.append_columns({name: [row.get(name) for row in rows] for name in names}, len(rows))

    def append_columns(self, columns: Mapping[str, pa.Array | list[Any]], length: int) -> None:
        """Add one chunk given by column, each an array or a list of `length` values."""
        if length == 0:
            return
        for name in columns:
            if name not in self._columns:
                self._columns[name] = [pa.nulls(earlier) for earlier in self._lengths]
        self._lengths.append(length)
        for name, chunks in self._columns.items():
            values = columns[name] if name in columns else pa.nulls(length)
            chunks.append(_exact_array(values) if isinstance(values, list) else values)

    @property
    def column_names(self) -> list[str]:
        """Of all rows so far."""
        return list(self._columns)

    def finish(self) -> datasets.Dataset:
        """Build the data set of one row or more."""
        import datasets
        from datasets.table import InMemoryTable

        try:
            table = pa.table({name: _one_type(chunks) for name, chunks in self._columns.items()})
        except pa.ArrowException as error:
            raise InputError(
                f"columns: the values of the columns {listed(map(repr, self._columns))} cannot be "
                f"brought into a table ({str(error).splitlines()[0][:200]}); give each column one kind of value"
            ) from error
        try:
            return datasets.Dataset(InMemoryTable(table))
        except (datasets.table.CastError, KeyError, UnicodeError) as error:
            # A name with a NUL is cut there on its way into Arrow's schema, and is then another name.
            raise InputError(
                f"columns: a name in the data holds a character that no column's name can have, such as NUL, among "
                f"{listed(map(repr, self._columns))}; is the file UTF-16, or damaged?"
            ) from error


def _exact_array(values: list[Any]) -> pa.Array | list[Any]:
    """Give the Arrow array that holds exactly these values, or the values themselves where none does."""
    # Arrow adds a null for every field that a struct lacks. A chat template can tell the two apart; and where every
    # row has keys of its own, a struct of them all has as many nulls as rows times rows.
    if not _alike(values):
        return values
    try:
        array = pa.array(values)
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        return values
    if _has_struct(array.type) and array.to_pylist() != values:
        return values
    return array


def _alike(values: list[Any]) -> bool:
    """Say whether all objects at the same place have the same keys, at least one: parquet has no empty struct."""
    objects, lists = [], []
    for value in values:
        if isinstance(value, dict):
            objects.append(value)
        elif isinstance(value, list | tuple):
            lists.append(value)
    if lists and not _alike([item for inner in lists for item in inner]):
        return False
    if not objects:
        return True
    keys = objects[0].keys()
    # A name is cut at a NUL on its way through `datasets`.
    if not keys or any("\0" in key for key in keys) or any(item.keys() != keys for item in objects):
        return False
    return all(_alike([item[key] for item in objects]) for key in keys)


def _one_type(chunks: list[pa.Array | list[Any]]) -> pa.ChunkedArray:
    """Join the chunks of a column under one type: theirs, a wider number, or JSON."""
    arrays = [chunk for chunk in chunks if isinstance(chunk, pa.Array)]
    if len(arrays) == len(chunks):
        types = {array.type for array in arrays if not pa.types.is_null(array.type)}
        if len(types) <= 1:
            target = types.pop() if types else pa.null()
            return pa.chunked_array([as_type(array, target) for array in arrays], type=target)
        # Two structs differ in their fields: to join them would add nulls, so they go the way of JSON.
        if not any(_has_struct(kind) for kind in types):
            try:
                schemas = [pa.schema([("column", kind)]) for kind in types]
                target = pa.unify_schemas(schemas, promote_options="permissive").field(0).type
                return pa.chunked_array([as_type(array, target) for array in arrays], type=target)
            except pa.ArrowException:
                pass
    lists = [chunk.to_pylist() if isinstance(chunk, pa.Array) else chunk for chunk in chunks]
    as_list = all(isinstance(value, list) for chunk in lists for value in chunk if value is not None)
    encoded = [_json_lists(chunk) if as_list else _json_array(chunk) for chunk in lists]
    return pa.chunked_array(encoded)


def as_type(column: Any, kind: pa.DataType) -> Any:
    """Give an array or a chunked one a type, and leave alone one that has it."""
    # Arrow's cast to a column's own type breaks lists of two or more objects with a field that is always null.
    return column if column.type == kind else column.cast(kind)


def parquet_table(table: pa.Table) -> pa.Table:
    """Give a table that a parquet file can hold: columns with an object without keys become JSON text."""
    for place, column in enumerate(table.schema):
        if any(pa.types.is_struct(kind) and kind.num_fields == 0 for kind in nested_types(column.type)):
            values = table.column(place).to_pylist()
            texts = [None if v is None else json.dumps(v, ensure_ascii=False, default=str) for v in values]
            table = table.set_column(place, column.name, pa.array(texts, type=pa.string()))
    return table


def _json_array(values: Sequence[Any]) -> pa.Array:
    """Encode each value as JSON text."""
    # Not by `datasets.Json`, which takes a string that reads as JSON (an answer such as "42") for the number itself.
    texts = [None if value is None else json.dumps(value, ensure_ascii=False) for value in values]
    return pa.ExtensionArray.from_storage(pa.json_(), pa.array(texts, type=pa.string()))


def _json_lists(values: Sequence[list[Any] | None]) -> pa.Array:
    offsets = [0]
    for value in values:
        offsets.append(offsets[-1] + len(value or ()))
    return pa.ListArray.from_arrays(
        pa.array(offsets, type=pa.int32()),
        _json_array([item for value in values for item in value or ()]),
        mask=pa.array([value is None for value in values]),
    )
