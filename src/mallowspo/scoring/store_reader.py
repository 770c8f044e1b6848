"""Read, check, list and remove reference stores."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mallowspo.errors import InputError, listed
from mallowspo.locks import LOCK, folder_lock
from mallowspo.scoring.reference_scores import ReferenceScores
from mallowspo.scoring.store_format import MANIFEST, PROGRESS, Manifest, file_checksum, read_manifest

__all__ = ["ReferenceStore", "StoredRows", "find_stores", "numbered_pairs", "remove_store"]

_SCORES = ("logp", "length", "entropy_sum", "first_entropy", "divergent_entropy")


@dataclass(frozen=True)
class StoredRows:
    """The rows of a store, in the order of the data they were made from.

    Attributes:
        scores: Of every response, arrays of shape (N, K).
        row_index: Position of each row in its source, shape (N,).
        prompt_ids: What identifies each row's prompt, length N.
        vocab_size: Last axis of the reference's logits.
    """

    scores: ReferenceScores
    row_index: NDArray[np.int64]
    prompt_ids: list[str]
    vocab_size: int


@dataclass(frozen=True)
class ReferenceStore:
    """A whole store on disk.

    Attributes:
        folder: Where it is.
        manifest: What it says of itself.
    """

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: str | Path) -> ReferenceStore:
        """Read the manifest of a store; no shard is touched.

        Args:
            folder: Written by `mallowspo reference`.

        Returns:
            The store.

        Raises:
            InputError: There is no such folder, it holds no store or half of one, or its manifest is damaged.
        """
        path = Path(folder).expanduser()
        if not path.is_dir():
            raise InputError(
                f"there is no folder {folder}; write a reference store with "
                f"`mallowspo reference --output_dir {folder} --model_name_or_path ... --dataset_name ...`"
            )
        manifest = read_manifest(path / MANIFEST)
        if manifest is None:
            half = (path / PROGRESS).is_dir()
            why = (
                "was not finished; run `mallowspo reference` again with the same arguments"
                if half
                else (f"holds no {MANIFEST}; it was not written by `mallowspo reference`")
            )
            raise InputError(f"{folder} {why}")
        return cls(path, manifest)

    def damaged(self) -> list[str]:
        """Names of the shards that are missing or whose bytes are not what was written, with the reason."""
        found = []
        for shard in self.manifest.shards:
            path = self.folder / shard.file
            try:
                if file_checksum(path) != shard.sha256:
                    found.append(f"{shard.file}: its checksum is not the one in {MANIFEST}")
            except OSError as error:
                found.append(f"{shard.file}: cannot be read ({error.strerror})")
        return found

    def read(self, *, token_entropies: bool = False) -> StoredRows:
        """Read all rows, after checking every shard's checksum.

        Args:
            token_entropies: Also every token's entropy, where the store has it.

        Returns:
            The rows.

        Raises:
            InputError: A shard is damaged, or the store was made without entropies per token.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        damaged = self.damaged()
        if damaged:
            raise InputError(
                f"{self.folder}: {listed(damaged, 5)}. Run `mallowspo reference` again with "
                "the same arguments: it computes these shards again and keeps the others"
            )
        if token_entropies and not self.manifest.settings.per_token:
            raise InputError(
                f"{self.folder}: it was made without --per_token, so it has no entropies of single "
                "tokens; write another one with --per_token"
            )
        try:
            table = pa.concat_tables([pq.read_table(self.folder / shard.file) for shard in self.manifest.shards])
            return _stored_rows(table, self.manifest, token_entropies)
        except (pa.ArrowException, OSError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise InputError(
                f"{self.folder}: its shards are as their checksums say, but do not hold the scores of "
                f"{self.manifest.rows:,} rows ({str(error)[:200]}); another program wrote them. Remove the store "
                f"(mallowspo reference --rm --yes --output_dir {self.folder}) and compute it again"
            ) from error


def _stored_rows(table: Any, manifest: Manifest, token_entropies: bool) -> StoredRows:
    responses = table.num_rows // manifest.rows

    def column(name: str) -> NDArray[Any]:
        values: NDArray[Any] = table.column(name).to_numpy().reshape(-1, responses)
        return values

    if not np.array_equal(table.column("position").to_numpy(), np.repeat(np.arange(manifest.rows), responses)):
        raise ValueError("its rows stand in another order, or some are missing")
    values = {f"{name}_nk": column(name) for name in _SCORES}
    values["length_nk"] = values["length_nk"].astype(np.int64)
    tokens = None
    if token_entropies:
        flat = [np.asarray(item, np.float32) for item in table.column("token_entropies").to_pylist()]
        tokens = tuple(tuple(flat[i : i + responses]) for i in range(0, len(flat), responses))
    if manifest.key.vocab_size is None:
        raise ValueError("the size of the vocabulary is missing")
    return StoredRows(
        ReferenceScores(**values, token_entropies=tokens),
        column("row_index")[:, 0],
        table.column("prompt_id").to_pylist()[::responses],
        manifest.key.vocab_size,
    )


def find_stores(root: Path) -> list[Path]:
    """Folders of stores, whole or begun: `root` itself, and all below it."""
    found = {path.parent for path in root.rglob(MANIFEST) if (path.parent / LOCK).exists() or _is_ours(path)}
    found |= {path.parent for path in root.rglob(PROGRESS) if path.is_dir()}
    return sorted(found)


def _is_ours(path: Path) -> bool:
    try:
        return read_manifest(path) is not None
    except InputError:
        return False


def remove_store(folder: Path) -> int:
    """Delete a store's files and, where nothing else is in it, its folder.

    Args:
        folder: The store, whole, begun or damaged.

    Returns:
        Bytes that were freed.

    Raises:
        InputError: There is no store, or a process is writing to it.
    """
    if not (folder / MANIFEST).is_file() and not (folder / PROGRESS).is_dir():
        raise InputError(f"output_dir: {folder} holds no reference store, nothing was removed")
    with folder_lock(folder, "a store", keep_file=True):
        # The manifest goes first: without it, what is left is no store to any reader.
        files = [folder / MANIFEST, *folder.glob("shard-*.parquet"), *folder.glob(".shard-*.parquet")]
        files = [path for path in files if path.is_file()]
        freed = sum(path.stat().st_size for path in files)
        for path in files:
            path.unlink()
        shutil.rmtree(folder / PROGRESS, ignore_errors=True)
        (folder / LOCK).unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()
    return freed


def numbered_pairs(row_index: list[int]) -> list[tuple[int, int]]:
    """Tell apart the pairs that come from one row of more than two responses: (row, which of its pairs)."""
    seen: dict[int, int] = {}
    found = []
    for number in row_index:
        found.append((number, seen.get(number, 0)))
        seen[number] = seen.get(number, 0) + 1
    return found
