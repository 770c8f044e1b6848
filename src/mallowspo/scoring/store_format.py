"""The files of a reference store.

A store is a folder: `manifest.json`, and shards `shard-00000.parquet`, ... with one row per response, in the order of
the data. While it is being written, `.progress` holds what was begun and a record of every finished shard; the
manifest comes last, so a folder with a manifest is a whole store.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mallowspo.errors import InputError
from mallowspo.files import atomic_path, parse_json, write_json
from mallowspo.scoring.reference_key import STORE_FORMAT, ReferenceKey
from mallowspo.scoring.reference_scores import ReferenceScores

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "MANIFEST",
    "PROGRESS",
    "Manifest",
    "ShardRecord",
    "StoreSettings",
    "file_checksum",
    "read_manifest",
    "read_record",
    "shard_name",
    "shard_table",
    "write_manifest",
    "write_shard",
]

MANIFEST = "manifest.json"
PROGRESS = ".progress"


@dataclass(frozen=True)
class StoreSettings:
    """How the rows were scored. Not part of the key: it moves the last bits of a score, or what is kept of it.

    Attributes:
        batch_size: Rows a batch.
        shard_rows: Rows a shard.
        per_token: Whether every token's entropy is kept.
    """

    batch_size: int = 8
    shard_rows: int = 1024
    per_token: bool = False


@dataclass(frozen=True)
class ShardRecord:
    """One file of the store."""

    file: str
    first_row: int  # in the data, from 0
    rows: int  # of K responses each
    tokens: int  # of the responses
    rows_digest: str  # of the rows' tokens
    names_digest: str  # of the rows' `row_index` and `prompt_id`
    sha256: str  # of the file


@dataclass(frozen=True)
class Manifest:
    """What `manifest.json` says."""

    key: ReferenceKey
    settings: StoreSettings
    made_with: Mapping[str, str]  # never compared; `objective` is there only of whole ranked lists
    shards: tuple[ShardRecord, ...] = ()  # in the order of the data

    @property
    def rows(self) -> int:
        """Rows in all shards."""
        return sum(shard.rows for shard in self.shards)

    @property
    def tokens(self) -> int:
        """Response tokens in all shards."""
        return sum(shard.tokens for shard in self.shards)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `manifest.json`."""
        return {
            "format": STORE_FORMAT,
            "key": self.key.digest,
            "reference": asdict(self.key),
            "settings": asdict(self.settings),
            "made_with": dict(self.made_with),
            "rows": self.rows,
            "tokens": self.tokens,
            "shards": [asdict(shard) for shard in self.shards],
        }


def shard_name(index: int) -> str:
    """File name of the shard with this number, from 0."""
    return f"shard-{index:05d}.parquet"


def file_checksum(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write a manifest under `path`, whole or not at all."""
    write_json(path, manifest.to_dict())


def read_manifest(path: Path) -> Manifest | None:
    """Read what `write_manifest` wrote; None where there is no file."""
    values = _read_json(path)
    if values is None:
        return None
    if values.get("format") != STORE_FORMAT:
        raise InputError(
            f"{path}: written in format {values.get('format')!r}, this version reads {STORE_FORMAT}; remove the store "
            f"(mallowspo reference --rm --yes --output_dir {path.parent}) and compute it again"
        )
    try:
        manifest = Manifest(
            key=ReferenceKey.from_dict(values["reference"]),
            settings=StoreSettings(**values["settings"]),
            made_with={str(k): str(v) for k, v in values["made_with"].items()},
            shards=tuple(ShardRecord(**shard) for shard in values["shards"]),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error
    for shard in manifest.shards:
        if not isinstance(shard.file, str) or not re.fullmatch(r"shard-[\w.-]+\.parquet", shard.file):
            raise _damaged(path, f"its shard {str(shard.file)[:80]!r} is no shard-NUMBER.parquet of this folder")
        counts = (shard.first_row, shard.rows, shard.tokens)
        if not all(isinstance(count, int) and not isinstance(count, bool) and count >= 0 for count in counts):
            raise _damaged(path, f"{shard.file} has {counts} as its first row, rows and tokens")
    if manifest.key.digest != values.get("key"):
        raise _damaged(path, "its key does not belong to its fields")
    return manifest


def read_record(path: Path) -> ShardRecord | None:
    """Read the record of a finished shard; None where there is none that can be read."""
    try:
        values = _read_json(path)
        return None if values is None else ShardRecord(**values)
    except (InputError, TypeError):
        return None  # a torn record is a shard that was not finished


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        values = parse_json(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(values, dict):
        raise _damaged(path, "it holds no mapping")
    return values


def _damaged(path: Path, why: str) -> InputError:
    return InputError(
        f"{path}: the file is damaged ({why}); restore it, or remove the store (mallowspo reference --rm --yes "
        f"--output_dir {path.parent}) and compute it again"
    )


def shard_table(
    scores: ReferenceScores, *, first_row: int, row_index: Sequence[int], prompt_ids: Sequence[str]
) -> Any:
    """Lay scores out as a `pyarrow.Table` with one row per response; 0 is the chosen one."""
    import pyarrow as pa

    count, responses = scores.logp_nk.shape
    columns: dict[str, pa.Array] = {
        "position": pa.array(np.repeat(np.arange(first_row, first_row + count), responses), pa.int64()),
        "row_index": pa.array(np.repeat(np.asarray(row_index, np.int64), responses), pa.int64()),
        "response": pa.array(np.tile(np.arange(responses), count), pa.int32()),
        "prompt_id": pa.array([name for name in prompt_ids for _ in range(responses)], pa.string()),
        "logp": pa.array(scores.logp_nk.reshape(-1), pa.float64()),
        "length": pa.array(scores.length_nk.reshape(-1), pa.int32()),
        "entropy_sum": pa.array(scores.entropy_sum_nk.reshape(-1), pa.float64()),
        "first_entropy": pa.array(scores.first_entropy_nk.reshape(-1), pa.float64()),
        "divergent_entropy": pa.array(scores.divergent_entropy_nk.reshape(-1), pa.float64()),
    }
    if scores.token_entropies is not None:
        flat = [tokens for row in scores.token_entropies for tokens in row]
        columns["token_entropies"] = pa.array(flat, pa.list_(pa.float32()))
    return pa.table(columns)


def write_shard(path: Path, table: pa.Table) -> str:
    """Write a shard, whole or not at all, and give its SHA-256; equal tables give equal bytes."""
    import pyarrow.parquet as pq

    with atomic_path(path) as beside:
        pq.write_table(table, beside, compression="zstd", use_dictionary=["prompt_id"], version="2.6")
        checksum = file_checksum(beside)
    return checksum
