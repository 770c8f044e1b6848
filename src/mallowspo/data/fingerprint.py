"""Name the content of a data set, whatever code, configuration or chunking it came through."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mallowspo.errors import InputError

if TYPE_CHECKING:
    import datasets

__all__ = ["rows_fingerprint"]

_BATCH = 10_000


def rows_fingerprint(dataset: datasets.Dataset, columns: Sequence[str]) -> str:
    """Hash the values of some columns, in row order: a SHA-256 in 64 hexadecimal digits."""
    # Unlike the fingerprint that `datasets` keeps, it says nothing of how the rows were made. The width of integers,
    # the order in which `columns` names them, and Arrow's chunks and offsets make no difference.
    missing = [name for name in columns if name not in dataset.column_names]
    if missing:
        raise InputError(f"fingerprint: no column {missing[0]!r} among {', '.join(dataset.column_names)}")
    names = sorted(set(columns))
    streams = _Streams()
    for table in dataset.select_columns(names).with_format("arrow").iter(_BATCH):
        for name in names:
            for chunk in table.column(name).chunks:
                streams.add(repr(name), chunk)
    return streams.digest(len(dataset))


class _Streams:
    """One running hash per column and buffer, so that it does not matter how the rows are cut into chunks."""

    def __init__(self) -> None:
        self._hashes: dict[str, Any] = {}

    def _feed(self, path: str, data: Any) -> None:
        if path not in self._hashes:
            self._hashes[path] = hashlib.sha256()
        self._hashes[path].update(data)

    def digest(self, rows: int) -> str:
        """Join the streams, in the order of their names."""
        joined = hashlib.sha256(str(rows).encode())
        for path in sorted(self._hashes):
            joined.update(f"\n{path} {self._hashes[path].hexdigest()}".encode())
        return joined.hexdigest()

    def add(self, path: str, array: pa.Array) -> None:
        """Take in one chunk of a column, or of what is nested in it."""
        if isinstance(array, pa.ExtensionArray):
            array = array.storage
        kind = array.type
        valid = np.asarray(array.is_valid().to_numpy(zero_copy_only=False), dtype=np.uint8)
        self._feed(f"{path}/valid", valid.tobytes())
        # What lies under a null is left to chance by Arrow.
        array = array.drop_null() if array.null_count else array
        if pa.types.is_struct(kind):
            for field in kind:
                self.add(f"{path}.{field.name!r}", array.field(field.name) if len(array) else pa.array([], field.type))
        elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
            self._numbers(f"{path}/lengths", pc.list_value_length(array), pa.int64())
            self.add(f"{path}[]", array.flatten())
        elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
            self._text(path, array)
        elif pa.types.is_integer(kind) or pa.types.is_boolean(kind):
            self._numbers(f"{path}/int", array, pa.uint64() if kind == pa.uint64() else pa.int64())
        elif pa.types.is_floating(kind):
            self._numbers(f"{path}/float", array, pa.float64())
        elif not pa.types.is_null(kind):
            self._feed(f"{path}/other", "".join(f"{value!r}\n" for value in array.to_pylist()).encode())

    def _numbers(self, path: str, array: pa.Array, kind: pa.DataType) -> None:
        self._feed(path, array.cast(kind).to_numpy(zero_copy_only=False).tobytes())

    def _text(self, path: str, array: pa.Array) -> None:
        array = array.cast(pa.large_binary())
        self._numbers(f"{path}/lengths", pc.binary_length(array), pa.int64())
        if len(array):
            _, offsets, data = array.buffers()
            bounds = memoryview(offsets).cast("q")
            start, stop = bounds[array.offset], bounds[array.offset + len(array)]
            self._feed(f"{path}/text", memoryview(data)[start:stop] if data is not None else b"")
