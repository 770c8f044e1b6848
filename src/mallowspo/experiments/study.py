"""What every study does at its two ends: take a folder, and leave `results.json` that says where it came from."""

from __future__ import annotations

import datetime
import platform
from pathlib import Path
from typing import Any

from mallowspo.files import parse_json, write_json
from mallowspo.outputs import writable_folder
from mallowspo.versions import library_versions

__all__ = ["open_folder", "provenance", "write_results"]


def open_folder(output_dir: str) -> Path:
    """Check that a study can write where it was told to, before any work.

    Args:
        output_dir: The folder; made where it is missing.

    Returns:
        Its path.

    Raises:
        InputError: It is a file, or it cannot be written.
    """
    folder = writable_folder(output_dir, "output_dir")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def provenance() -> dict[str, Any]:
    """Versions, machine and date of a run.

    Example:
        >>> sorted(provenance())
        ['date', 'machine', 'versions']
    """
    return {
        "versions": library_versions(),
        "machine": platform.platform(),
        "date": datetime.date.today().isoformat(),
    }


def write_results(folder: Path, results: dict[str, Any]) -> dict[str, Any]:
    """Write `results.json`, whole or not at all.

    Args:
        folder: The study's folder.
        results: The findings; `provenance` is added.

    Returns:
        What the file holds: a report is made from this, so that it can be made again from the file.
    """
    write_json(folder / "results.json", {**results, "provenance": provenance()})
    stored: dict[str, Any] = parse_json((folder / "results.json").read_text(encoding="utf-8"))
    return stored
