"""How the benchmarks measure: a process for each measurement, memory by the system's account, one CSV line each."""

from __future__ import annotations

import csv
import datetime
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from workload import ROOT

# No cache of the reference's scores: a pass before training is part of what is compared. Threads wait as they do by
# default, spinning for a while: on a machine with other work that makes small products many times slower, so measure
# on a quiet one, or set OMP_WAIT_POLICY=PASSIVE, which slows the arms with many small operations by a tenth.
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "MALLOWSPO_CACHE": "", "TOKENIZERS_PARALLELISM": "false"}


def resident(field: str = "VmRSS") -> float:
    """Resident memory of this process in GB: now (`VmRSS`), or its peak since `forget_peak` (`VmHWM`)."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith(field))
        return int(line.split()[1]) * 1024 / 1e9
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def forget_peak() -> None:
    """Begin to measure the peak anew; a reference pass before training has its own."""
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")


def processor_seconds() -> float:
    """Seconds of all threads of this process, in the program and in the system."""
    times = os.times()
    return times.user + times.system


def speed_of_products(repeats: int = 100) -> float:
    """Floating-point operations a second of one large float32 product; the median of some."""
    import statistics

    import torch

    left, right = torch.randn(1024, 1024), torch.randn(1024, 1024)
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        left @ right
        seconds.append(time.perf_counter() - begun)
    return 2 * 1024**3 / statistics.median(seconds[4:])


def run_child(script: str, task: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run `script --child TASK` in a process of its own and read the JSON on its last line."""
    done = subprocess.run(
        [sys.executable, script, "--child", json.dumps(task)],
        env={**ENVIRONMENT, **os.environ, **(environment or {})}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{task} failed:\n{done.stderr[-3000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def origin() -> dict[str, str]:
    """Machine, versions, commit and date, for every line of the results."""
    import torch
    import transformers
    import trl

    try:
        told = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
        )
        commit = told.stdout.strip()
    except FileNotFoundError:  # a bare checkout on a machine without git
        commit = ""
    return {
        "machine": _processor(), "threads": str(torch.get_num_threads()),
        "device": "cuda" if torch.cuda.is_available() else "cpu", "torch": torch.__version__,
        "transformers": transformers.__version__, "trl": trl.__version__, "commit": commit,
        "date": datetime.date.today().isoformat(),
    }  # fmt: skip


def _processor() -> str:
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        for line in facts.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def read_lines(path: Path | None) -> list[dict[str, str]]:
    """Lines of a CSV of results; none where there is no file."""
    if path is None or not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def append_lines(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Add lines to a CSV of results, with a header where it is new; its columns must be the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    if not new:
        with path.open(newline="", encoding="utf-8") as file:
            columns = next(csv.reader(file))
        if columns != list(lines[0]):
            raise SystemExit(f"{path} has other columns than this version writes: give another name")
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(lines[0]))
        if new:
            writer.writeheader()
        writer.writerows(lines)


def measure_missing(
    path: Path | None, tasks: Sequence[dict[str, Any]], measure: Callable[[dict[str, Any]], list[dict[str, Any]]]
) -> list[dict[str, str]]:
    """Measure every task that the file does not hold yet, in the order given, keeping each as soon as it is known."""
    kept = read_lines(path)
    for number, task in enumerate(tasks, start=1):
        named = {key: str(value) for key, value in task.items()}
        if any(all(line[key] == value for key, value in named.items()) for line in kept):
            continue
        print(
            f"[{number}/{len(tasks)}] " + ", ".join(f"{k} {v}" for k, v in named.items()), file=sys.stderr, flush=True
        )
        lines = [{**task, **line, **origin()} for line in measure(task)]
        if path is not None:
            append_lines(path, lines)
        kept += [{key: str(value) for key, value in line.items()} for line in lines]
    return kept
