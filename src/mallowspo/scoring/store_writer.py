"""Fill a reference store: every shard whole or absent, finished shards kept, the manifest last.

A shard's content depends on its own rows and on the settings alone, and one process computes it. So it does not matter
in how many goes a store was written, nor by how many processes: the bytes are the same.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mallowspo.data.fingerprint import rows_fingerprint
from mallowspo.data.records import TOKEN_COLUMNS
from mallowspo.errors import InputError, listed
from mallowspo.files import write_json
from mallowspo.locks import LOCK, folder_lock
from mallowspo.scoring.processes import Processes
from mallowspo.scoring.reference_key import ReferenceKey
from mallowspo.scoring.reference_scores import ReferenceScores, behind
from mallowspo.scoring.store_format import (
    MANIFEST,
    PROGRESS,
    Manifest,
    ShardRecord,
    StoreSettings,
    file_checksum,
    read_manifest,
    read_record,
    shard_name,
    shard_table,
    write_manifest,
    write_shard,
)

if TYPE_CHECKING:
    import datasets

__all__ = ["WriteResult", "check_store", "rows_key", "settle_settings", "write_store"]

NAME_COLUMNS = ("row_index", "prompt_id")
BEGUN = "begun.json"


@dataclass(frozen=True)
class WriteResult:
    """What `write_store` did.

    Attributes:
        manifest: Of the whole store.
        computed: Shards that were computed now.
        reused: Shards that were there.
        damaged: Names of shards whose checksum was wrong; they are among `computed`.
    """

    manifest: Manifest
    computed: int
    reused: int
    damaged: tuple[str, ...]


@dataclass(frozen=True)
class _Piece:
    """A shard to be, without its tokens and its checksum, and the record of its file where that is in order."""

    wanted: ShardRecord
    record: ShardRecord | None


def rows_key(dataset: datasets.Dataset) -> dict[str, Any]:
    """The part of the key that the rows give: `row_count` and `rows`, the digest of their tokens in order."""
    return {"row_count": len(dataset), "rows": rows_fingerprint(dataset, TOKEN_COLUMNS)}


def settle_settings(
    folder: Path, *, batch_size: int | None, shard_rows: int | None, per_token: bool | None
) -> StoreSettings:
    """The settings of a store that may have been begun: what it was begun with, or what is given now.

    Args:
        folder: The store.
        batch_size: Rows a batch; None for the store's, or the default.
        shard_rows: Rows a shard; likewise.
        per_token: Keep every token's entropy; likewise.

    Returns:
        The settings.

    Raises:
        InputError: A value below 1, or one that contradicts shards which are there.
    """
    wanted: dict[str, Any] = {"batch_size": batch_size, "shard_rows": shard_rows, "per_token": per_token}
    given = {name: value for name, value in wanted.items() if value is not None}
    for name, value in given.items():
        if name != "per_token" and value < 1:
            raise InputError(f"{name}: got {value}, expected at least 1")
    earlier = _earlier(folder)
    if earlier is None or not (earlier.shards or _has_finished_shards(folder)):
        return StoreSettings(**given)
    for name, value in given.items():
        recorded = getattr(earlier.settings, name)
        if recorded != value:
            raise InputError(
                f"{name}: got {value}, but the store {folder} was begun with {recorded}, and a store is made in one "
                f"way throughout; leave {name} out, or choose another folder"
            )
    return earlier.settings


def check_store(folder: Path, key: ReferenceKey) -> None:
    """Refuse a folder that holds the store of another reference.

    Args:
        folder: Where to write.
        key: Of what is to be written, as far as it is known; called with a partial key, this spares loading a model.

    Raises:
        InputError: The store there has another key; the fields are named.
    """
    earlier = _earlier(folder)
    if earlier is None:
        return
    found = earlier.key.differences(key.without_rows)
    if found:
        raise InputError(
            f"output_dir: {folder} holds the scores of another reference: {'; '.join(map(str, found))}. Choose "
            f"another folder, or remove that store (mallowspo reference --rm --yes --output_dir {folder})"
        )


def write_store(
    folder: Path,
    dataset: datasets.Dataset,
    *,
    key: ReferenceKey,
    score: Callable[[datasets.Dataset], ReferenceScores],
    settings: StoreSettings | None = None,
    made_with: Mapping[str, str] | None = None,
    processes: Processes | None = None,
    on_plan: Callable[[int, int, tuple[str, ...]], None] | None = None,
    on_shard: Callable[[int], None] | None = None,
) -> WriteResult:
    """Write, resume, mend or lengthen a store; all processes call it together.

    Args:
        folder: The store.
        dataset: Tokenised rows with `row_index` and `prompt_id`.
        key: What their scores depend on, with `rows_key(dataset)` in it.
        score: From some of the rows to their scores; deterministic.
        settings: Of `settle_settings`; None for the defaults.
        made_with: For the manifest; of a store that was begun, the first one stays.
        processes: Who fills it; None for this process alone.
        on_plan: Called once, in the first process, with the rows to compute, the rows that are there, and the names of
            damaged shards.
        on_shard: Called in every process after each of its shards, with the number of rows.

    Returns:
        What was done.

    Raises:
        InputError: Another process is writing; the folder holds something else; the disk is full. The store is as it
            was, less no finished shard.
    """
    folder, processes = Path(folder), processes or Processes()
    with ExitStack() as stack:
        plan: Any = None
        if processes.is_first:
            try:
                with _storage_errors(folder):
                    stack.enter_context(folder_lock(folder, "a store", keep_file=True))
                    plan = _begin(folder, dataset, key, settings or StoreSettings(), made_with or {})
            except InputError as error:
                plan = error
        plan = processes.share(plan)
        if isinstance(plan, InputError):
            raise plan
        begun, pieces, damaged = plan
        todo = [piece for piece in pieces if piece.record is None]
        if on_plan is not None and processes.is_first:
            missing = sum(piece.wanted.rows for piece in todo)
            on_plan(missing, len(dataset) - missing, damaged)
        own = [piece.wanted for piece in todo[processes.rank :: processes.world]]

        def scored() -> Iterator[tuple[ShardRecord, datasets.Dataset, ReferenceScores]]:
            for wanted in own:
                rows = dataset.select(range(wanted.first_row, wanted.first_row + wanted.rows))
                yield wanted, rows, score(rows)

        # A shard is written while the next one is scored.
        for wanted in behind(lambda found: _write_shard(folder, *found), scored()):
            if on_shard is not None:
                on_shard(wanted.rows)
        processes.wait()
        manifest = _finish(folder, begun, pieces, key) if processes.is_first else None
        manifest = processes.share(manifest)
    return WriteResult(manifest, len(todo), len(pieces) - len(todo), damaged)


def _earlier(folder: Path) -> Manifest | None:
    """What is known of a store: its manifest, or what was noted when it was begun."""
    return read_manifest(folder / MANIFEST) or read_manifest(folder / PROGRESS / BEGUN)


def _has_finished_shards(folder: Path) -> bool:
    return any((folder / PROGRESS).glob("shard-*.json"))


def _begin(
    folder: Path, dataset: datasets.Dataset, key: ReferenceKey, settings: StoreSettings, made_with: Mapping[str, str]
) -> tuple[Manifest, list[_Piece], tuple[str, ...]]:
    check_store(folder, key)
    earlier = _earlier(folder)
    if earlier is None:
        _refuse_foreign_files(folder)
    for leftover in [*folder.glob(".shard-*.parquet"), *folder.glob(".manifest.*.json")]:
        leftover.unlink()  # half of a file, from a process that was killed
    if earlier is None or (earlier.settings != settings and not earlier.shards):
        if _has_finished_shards(folder):
            raise InputError(f"output_dir: another process has begun {folder} with other settings; run this again")
        earlier = Manifest(key.without_rows, settings, dict(made_with))
        write_manifest(folder / PROGRESS / BEGUN, earlier)
    pieces, damaged = _plan(folder, dataset, earlier)
    return earlier, pieces, damaged


def _refuse_foreign_files(folder: Path) -> None:
    ours = {LOCK, PROGRESS}
    foreign = sorted(path.name for path in folder.iterdir() if path.name not in ours)
    if foreign:
        raise InputError(
            f"output_dir: {folder} holds other files ({listed(foreign, 5)}) and no {MANIFEST}; choose an empty or "
            "a new folder"
        )


def _plan(folder: Path, dataset: datasets.Dataset, earlier: Manifest) -> tuple[list[_Piece], tuple[str, ...]]:
    """Cut the rows into shards: those of a finished store first, as they are, then new ones."""
    if len(dataset) < earlier.rows:
        raise InputError(
            f"output_dir: {folder} holds the scores of {earlier.rows:,} rows, and the data has {len(dataset):,}; rows "
            "can be appended to a store, not taken from it. Choose another folder"
        )
    spans = [(shard.first_row, shard.rows) for shard in earlier.shards]
    size = earlier.settings.shard_rows
    spans += [(first, min(size, len(dataset) - first)) for first in range(earlier.rows, len(dataset), size)]
    pieces, damaged = [], []
    for index, (first_row, count) in enumerate(spans):
        rows = dataset.select(range(first_row, first_row + count))
        wanted = ShardRecord(
            file=shard_name(index),
            first_row=first_row,
            rows=count,
            tokens=0,
            rows_digest=rows_fingerprint(rows, TOKEN_COLUMNS),
            names_digest=rows_fingerprint(rows, NAME_COLUMNS),
            sha256="",
        )
        finished = earlier.shards[index : index + 1]
        # A record of a shard that was mended or computed since is newer than the manifest.
        candidates = [read_record(_record_path(folder, wanted)), *finished]
        records = [record for record in candidates if record is not None and _describes(record, wanted)]
        if finished and not _describes(finished[0], wanted):
            raise _other_rows(folder, finished[0], wanted)
        sound = next((record for record in records if _is_sound(folder, record)), None)
        if sound is None and records:
            damaged.append(wanted.file)
        pieces.append(_Piece(wanted, sound))
    return pieces, tuple(damaged)


def _describes(record: ShardRecord, wanted: ShardRecord) -> bool:
    return replace(record, file=wanted.file, tokens=wanted.tokens, sha256=wanted.sha256) == wanted


def _is_sound(folder: Path, record: ShardRecord) -> bool:
    path = folder / record.file
    return path.is_file() and file_checksum(path) == record.sha256


def _other_rows(folder: Path, stored: ShardRecord, wanted: ShardRecord) -> InputError:
    what = "the tokens" if stored.rows_digest != wanted.rows_digest else "the row numbers or the names of the prompts"
    span = f"{wanted.first_row + 1:,} to {wanted.first_row + wanted.rows:,}"
    return InputError(
        f"output_dir: {folder} holds the scores of other rows: {what} of rows {span} differ. Rows can be appended to "
        "a store, not changed; choose another folder, or remove that store (mallowspo reference --rm --yes "
        f"--output_dir {folder})"
    )


def _record_path(folder: Path, shard: ShardRecord) -> Path:
    return folder / PROGRESS / f"{Path(shard.file).stem}.json"


def _write_shard(folder: Path, wanted: ShardRecord, rows: datasets.Dataset, scores: ReferenceScores) -> ShardRecord:
    table = shard_table(
        scores, first_row=wanted.first_row, row_index=rows["row_index"][:], prompt_ids=rows["prompt_id"][:]
    )
    with _storage_errors(folder):
        checksum = write_shard(folder / wanted.file, table)
        record = replace(wanted, tokens=int(scores.length_nk.sum()), sha256=checksum)
        write_json(_record_path(folder, wanted), vars(record))
    return record


def _finish(folder: Path, begun: Manifest, pieces: list[_Piece], key: ReferenceKey) -> Manifest:
    records = []
    for piece in pieces:
        record = piece.record or read_record(_record_path(folder, piece.wanted))
        if record is None:
            raise RuntimeError(f"{folder / piece.wanted.file} was not finished by its process")
        records.append(record)
    manifest = replace(begun, key=key, shards=tuple(records))
    with _storage_errors(folder):
        write_manifest(folder / MANIFEST, manifest)
    shutil.rmtree(folder / PROGRESS, ignore_errors=True)
    return manifest


@contextmanager
def _storage_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        free = ""
        with contextlib.suppress(OSError):
            free = f"; {shutil.disk_usage(folder).free / 2**20:,.0f} MiB are free there"
        raise InputError(
            f"output_dir: {folder} cannot be written ({error.strerror or error}){free}. What was finished is whole: "
            "make room and run the same command again"
        ) from error
