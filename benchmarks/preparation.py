"""From rows to tokens: validating and tokenising a training set, against TRL's own preparation of it.

    python benchmarks/preparation.py --output benchmarks/results/preparation.csv   # about 20 minutes

The rows are random words (prompts of 64 tokens, responses of 32 on average) as text. What is timed is the trainer's
constructor, on a model of a few numbers. Each measurement is a process of its own; processor seconds are those of the
process and of the workers that it starts.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from measure import measure_missing, processor_seconds, resident, run_child
from workload import dataset, prepare

SHAPE = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
         "num_key_value_heads": 1, "vocab_size": 2000, "tie_word_embeddings": True}  # fmt: skip
REGIME = (64, 32)
BLOCK = 10_000  # rows that are drawn; they are repeated with a number of their own in the prompt


def write_rows(path: Path, regime: tuple[int, int], count: int) -> None:
    """Rows on disk, as a user's are, each with a prompt and a dispersion of its own."""
    drawn = dataset(regime, min(count, BLOCK)).to_list()
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            row, phi = drawn[number % len(drawn)], (number + 0.5) / count
            prompt = f"w{2 + number // len(drawn)}{row['prompt']}"
            file.write(json.dumps({**row, "prompt": prompt, "dispersion": phi}) + "\n")


def rows_of(count: int, folder: Path) -> Any:
    """The rows, opened."""
    from datasets import Dataset

    write_rows(folder / "rows.jsonl", REGIME, count)
    return Dataset.from_json(str(folder / "rows.jsonl"), cache_dir=str(folder / "cache"))


def child(task: dict[str, Any]) -> dict[str, Any]:
    """Prepare the rows once."""
    from trl import DPOConfig, DPOTrainer

    from mallowspo import MallowsPOConfig, MallowsPOTrainer

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        prepare(folder / "model", SHAPE)
        rows = rows_of(task["rows"], folder)
        trainer, config = (DPOTrainer, DPOConfig) if task["arm"] == "trl" else (MallowsPOTrainer, MallowsPOConfig)
        own = {} if task["arm"] == "trl" else {"objective": "dpo"}
        args = config(
            str(folder / "out"), use_cpu=True, bf16=False, report_to="none", disable_tqdm=True, **own,
            dataset_num_proc=task["processes"] if task["processes"] > 1 else None,
        )  # fmt: skip
        before, used, begun = resident("RssAnon"), _used(), time.perf_counter()
        peaks, ended = [before], threading.Event()
        watcher = threading.Thread(target=_watch, args=(peaks, ended))
        watcher.start()
        # With the reference live the constructor has a model of a few numbers to load, and the rows to prepare.
        prepared = trainer(str(folder / "model"), args=args, train_dataset=rows).train_dataset
        seconds = time.perf_counter() - begun
        assert len(prepared) == task["rows"]
        ended.set()
        watcher.join()
        gb = round(max(peaks) - before, 3)
        return {"seconds": round(seconds, 2), "processor_seconds": round(_used() - used, 2), "gb": gb}


def _watch(peaks: list[float], ended: threading.Event) -> None:
    """Note the private memory: of a table that is mapped from a file the system takes pages back as it likes."""
    while not ended.wait(0.1):
        peaks.append(resident("RssAnon"))


def _used() -> float:
    """Processor seconds of this process and of its workers that have ended."""
    workers = resource.getrusage(resource.RUSAGE_CHILDREN)
    return processor_seconds() + workers.ru_utime + workers.ru_stime


def table(lines: list[dict[str, str]]) -> list[str]:
    """Time and memory of each preparation."""
    names = ("rows", "processes", "who", "seconds", "processor seconds", "rows a processor second", "GB more, private")
    found = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for line in lines:
        rate = int(line["rows"]) / float(line["processor_seconds"])
        found.append(
            f"| {int(line['rows']):,} | {line['processes']} | {line['arm']} | {line['seconds']} "
            f"| {line['processor_seconds']} | {rate:,.0f} | {line['gb']} |"
        )
    return found


def main() -> None:
    """Measure what is missing and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--processes", type=int, nargs="+", default=[2])
    parser.add_argument("--child")
    given = parser.parse_args()
    if given.child:
        print(json.dumps(child(json.loads(given.child))))
        return
    tasks = [
        {"arm": arm, "rows": rows, "processes": processes}
        for rows in given.rows
        for processes in given.processes
        for arm in ("trl", "ours")
    ]
    print("\n".join(table(measure_missing(given.output, tasks, lambda task: [run_child(__file__, task)]))))


if __name__ == "__main__":
    main()
