"""A whole run, from the command to the saved model, against `trl dpo`: 2,000 rows, one epoch.

    python benchmarks/whole.py --output benchmarks/results/whole.csv   # about 15 minutes; goes on where it was

Every run is the command that a user types, in a process of its own on one thread, with libraries to load, rows to read
and tokenise, a reference to score, steps and the saved model. The arms take turns. Processor seconds are those of the
command and of the processes that it starts; other work on the machine hardly changes them.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from measure import ENVIRONMENT, measure_missing
from scaling import SHAPE
from workload import dataset, prepare

REGIME = (128, 64)
PAIRS = 8
# `trl dpo` would take the model's own precision, bfloat16 steps and checkpointing of activations on a GPU.
COMMON = (
    "--max_length 1024 --num_train_epochs 1 --per_device_train_batch_size {pairs} --learning_rate 1e-5 --use_cpu true "
    "--bf16 false --gradient_checkpointing false --precompute_ref_log_probs true --report_to none --save_strategy no "
    "--disable_tqdm true --logging_steps 50"
)
ARMS = {
    "trl dpo": ("trl", "dpo", "--beta 0.1"),
    "mallowspo train, dpo": ("mallowspo", "train", "--beta 0.1 --objective dpo"),
    "mallowspo train, mallows_theta": ("mallowspo", "train", "--beta 0.1 --objective mallows_theta"),
}


def run(task: dict[str, Any]) -> list[dict[str, Any]]:
    """Run one command and say what it took."""
    program, command, own = ARMS[task["arm"]]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        prepare(folder / "model", SHAPE)
        (folder / "data").mkdir()
        dataset(REGIME, task["rows"]).to_json(folder / "data" / "train.jsonl")
        given = f"--model_name_or_path {folder}/model --dataset_name {folder}/data --output_dir {folder}/out {own} "
        before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run(
            [str(Path(sys.executable).parent / program), command, *(given + COMMON.format(pairs=PAIRS)).split()],
            env={**ENVIRONMENT, "OMP_NUM_THREADS": "1", **os.environ}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        seconds, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode or not (folder / "out" / "model.safetensors").exists():
            raise RuntimeError(f"{task} failed:\n{done.stderr[-3000:]}")
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return [{"seconds": round(seconds, 1), "processor_seconds": round(used, 1)}]


def by_arm(lines: Iterable[Mapping[str, str]]) -> dict[str, dict[str, float]]:
    """Processor seconds of each round."""
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for line in lines:
        found[line["arm"]][line["round"]] = float(line["processor_seconds"])
    return found


def times_faster(found: Mapping[str, Mapping[str, float]], arm: str) -> float:
    """How many times faster than `trl dpo`: the median over the rounds."""
    return statistics.median(
        found["trl dpo"][name] / value for name, value in found[arm].items() if name in found["trl dpo"]
    )


def table(lines: list[dict[str, str]]) -> list[str]:
    """Medians over the rounds, and paired ratios to `trl dpo`."""
    found = by_arm(lines)
    rows = ["| command | processor seconds, median | times faster than `trl dpo` |", "|---|---|---|"]
    for arm, rounds in found.items():
        rows.append(f"| `{arm}` | {statistics.median(rounds.values()):.0f} | {times_faster(found, arm):.2f} |")
    return rows


def main() -> None:
    """Measure what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    tasks = [{"arm": arm, "rows": given.rows, "round": number} for number in range(given.rounds) for arm in ARMS]
    print("\n".join(table(measure_missing(given.output, tasks, run))))


if __name__ == "__main__":
    main()
