"""Why a launch of several processes ended: the first of them that failed says it, and the launcher prints it, last.

One process that fails pulls the others down: they lose its connection, or the launcher ends them. What they would say
of that only hides the cause.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mallowspo.cli.signals import end_children
from mallowspo.files import parse_json, write_json

__all__ = ["FAULTS", "after_a_fault", "leave_fault", "tell_fault"]

FAULTS = "MALLOWSPO_FAULTS"
"""In the environment of launched processes: the folder where each leaves what made it fail."""


def leave_fault(text: str, code: int) -> None:
    """In a process that the launcher started: leave the cause and end at once; elsewhere do nothing."""
    folder = os.environ.get(FAULTS)
    if not folder or not Path(folder).is_dir():
        return
    rank = int(os.environ.get("RANK", "0"))
    write_json(Path(folder) / f"{rank}.json", {"rank": rank, "time": time.time(), "code": code, "text": text})
    end_children(patience=5.0)  # those of data loaders
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)  # the interpreter's end may wait for a collective that the others will never join


def after_a_fault() -> bool:
    """Whether this process is one of a launch in which another has failed."""
    folder = os.environ.get(FAULTS)
    return bool(folder) and any(Path(str(folder)).glob("*.json"))


def tell_fault(folder: Path, failed: Mapping[int, int]) -> int | None:
    """Print why a launch failed and give the exit code; None where nobody left a cause and none was killed.

    `failed` has the exit codes of the processes that failed, by rank.
    """
    left: list[dict[str, Any]] = [parse_json(path.read_bytes()) for path in folder.glob("*.json")]
    if left:
        first = min(left, key=lambda fault: fault["time"])
        alone = len({fault["text"] for fault in left}) > 1 or len(left) == 1
        where = f"rank {first['rank']}: " if alone and first["rank"] else ""
        sys.stderr.write(f"mallowspo: {where}{first['text'].rstrip()}\n")
        return int(first["code"])
    killed = {rank: -code for rank, code in failed.items() if code < 0 and -code != signal.SIGTERM}
    if not killed:
        return None
    rank, number = next(iter(sorted(killed.items())))
    memory = (
        ", probably for want of memory; use smaller batches or fewer processes" if number == signal.SIGKILL else ""
    )
    sys.stderr.write(f"mallowspo: rank {rank} was ended by {signal.Signals(number).name}{memory}\n")
    return 128 + number
