"""Long and large runs: is memory flat over steps, and are time and memory flat or linear in the rows?

    python benchmarks/long.py --output benchmarks/results/long.csv   # about 40 minutes; goes on where it was

Every stage is the command that a user types, in a process of its own on one thread: `check` of so many rows, the pass
of the `reference` and the report of `dispersion` over a part of them, `train` begun on so many rows for 1,000 steps,
and a run of 50,000 small steps, whose memory is noted on the way. The model has some thousand weights and the rows are
short (16 and 8 tokens on average), so that what is seen is what the program does beside the model.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from measure import ENVIRONMENT, measure_missing
from preparation import SHAPE, write_rows
from workload import prepare

REGIME = (16, 8)
PAIRS = 2
STAGES: dict[str, tuple[tuple[int, int], ...]] = {  # rows, steps
    "check": ((100_000, 0), (1_000_000, 0)),
    "reference": ((25_000, 0), (100_000, 0)),
    "dispersion": ((25_000, 0), (100_000, 0)),
    "train": ((100_000, 1_000), (1_000_000, 1_000), (1_000, 5_000), (1_000, 50_000)),
}
_TRAIN = (
    "train --objective mallows_theta --dispersion column --precompute_ref_log_probs false "
    f"--use_cpu true --bf16 false --per_device_train_batch_size {PAIRS} --report_to none --save_strategy no "
    "--logging_steps 1000"
)


def command(stage: str, folder: Path, steps: int) -> str:
    """What a user types."""
    model, rows, store = folder / "model", folder / "rows.jsonl", folder / "store"
    return {
        "check": f"check {rows} --model_name_or_path {model} --output_dir {folder}/check",
        "reference": f"reference --model_name_or_path {model} --dataset_name {rows} --output_dir {store} --use_cpu",
        "dispersion": f"dispersion --reference {store} --output_dir {folder}/dispersion",
        "train": f"{_TRAIN} --model_name_or_path {model} --dataset_name {rows} --output_dir {folder}/out "
        f"--max_steps {steps}",
    }[stage]


def run(task: dict[str, Any]) -> list[dict[str, Any]]:
    """Run one stage: seconds, processor seconds, and GB of the process after a quarter of the time and at its peak."""
    stage, rows, steps = task["stage"], task["rows"], task["steps"]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        prepare(folder / "model", SHAPE)
        write_rows(folder / "rows.jsonl", REGIME, rows)
        if stage == "dispersion":
            _call(command("reference", folder, 0), [])
        memory: list[tuple[float, float, float]] = []
        begun, before = time.perf_counter(), os.times()
        _call(command(stage, folder, steps), memory)
        seconds, after = time.perf_counter() - begun, os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    quarter = max((gb for at, gb, _ in memory if at <= seconds / 4), default=0.0)
    return [
        {
            "seconds": round(seconds, 1),
            "processor_seconds": round(used, 1),
            "gb_first_quarter": round(quarter, 3),
            "gb_peak": round(max(gb for _, gb, _ in memory), 3),
            "gb_private_peak": round(max(private for *_, private in memory), 3),
        }
    ]


def _call(words: str, memory: list[tuple[float, float, float]]) -> None:
    """Run a command; note its resident memory as it goes, and what of it is no page of a mapped file."""
    environment = {**ENVIRONMENT, "OMP_NUM_THREADS": "1", **os.environ}
    begun = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [str(Path(sys.executable).parent / "mallowspo"), *words.split()], env=environment,
            stdout=subprocess.DEVNULL, stderr=said,
        )  # fmt: skip
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(0.5):
                try:
                    text = Path(f"/proc/{process.pid}/status").read_text()
                except OSError:
                    return
                found = {name: int(kb) * 1024 / 1e9 for name, kb in re.findall(r"(VmRSS|RssAnon):\s*(\d+)", text)}
                if found:
                    memory.append((time.perf_counter() - begun, found["VmRSS"], found["RssAnon"]))

        watcher = threading.Thread(target=watch)
        watcher.start()
        code = process.wait()
        ended.set()
        watcher.join()
        if code:
            said.seek(0)
            raise RuntimeError(f"mallowspo {words} ended with {code}:\n{said.read().decode()[-3000:]}")


def table(lines: list[dict[str, str]]) -> list[str]:
    """Every stage with its time and its memory."""
    names = ("command", "rows", "steps", "seconds", "processor seconds", "GB, first quarter of the time", "GB, peak",
             "of it private")  # fmt: skip
    rows = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for line in lines:
        counts = (f"{int(line[name]):,}" for name in ("rows", "steps"))
        times = (f"{float(line[name]):.0f}" for name in ("seconds", "processor_seconds"))
        sizes = (
            f"{float(line[name]):.2f}" if line[name] else "–"
            for name in ("gb_first_quarter", "gb_peak", "gb_private_peak")
        )
        rows.append("| " + " | ".join((f"`mallowspo {line['stage']}`", *counts, *times, *sizes)) + " |")
    return rows


def main() -> None:
    """Measure what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    tasks = [
        {"stage": stage, "rows": rows, "steps": steps} for stage, sizes in STAGES.items() for rows, steps in sizes
    ]
    print("\n".join(table(measure_missing(given.output, tasks, run))))


if __name__ == "__main__":
    main()
