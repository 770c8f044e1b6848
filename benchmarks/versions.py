"""Processor seconds of a training step under this checkout, against another one: did it get slower?

    git worktree add ../before COMMIT
    python benchmarks/versions.py --other ../before/src                     # about five minutes
    python benchmarks/versions.py --other ../before/src --output benchmarks/results/versions.csv

Each measurement is a process of its own with one thread, in seconds of the processor, which other work on the machine
hardly changes; the two checkouts take turns, and the ratio is the median over rounds of new
over old. The objectives are those that both know, without any option that only one has.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from measure import append_lines, origin, run_child
from workload import ROOT, dataset, prepare

OBJECTIVES = ("dpo", "mallows_theta", "mallows_phi")
PAIRS = 8
STEPS = 6


def child(task: dict[str, Any]) -> dict[str, float]:
    """Median processor seconds of some steps in this process."""
    from mallowspo import MallowsPOConfig, MallowsPOTrainer

    rows = dataset("b", PAIRS)
    with tempfile.TemporaryDirectory() as folder:
        args = MallowsPOConfig(
            folder, objective=task["objective"], precompute_ref_log_probs=True, per_device_train_batch_size=PAIRS,
            use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none", save_strategy="no",
            max_length=None, disable_tqdm=True,
        )  # fmt: skip
        trainer = MallowsPOTrainer(task["model"], args=args, train_dataset=rows)
        batch = trainer.data_collator(list(trainer.train_dataset))
        trainer.current_gradient_accumulation_steps = 1  # which the training loop sets
        seconds = []
        for _ in range(STEPS + 2):
            trainer.model.zero_grad()
            begun = time.process_time()
            trainer.training_step(trainer.model, dict(batch))
            seconds.append(time.process_time() - begun)
    return {"seconds": statistics.median(seconds[2:])}


def main() -> None:
    """Measure in turns and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--other", type=Path, help="folder `src` of the other checkout")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--child")
    given = parser.parse_args()
    if given.child:
        print(json.dumps(child(json.loads(given.child))))
        return
    sources = {"old": str(given.other.resolve()), "new": str(ROOT / "src")}
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), "A")
        for objective in OBJECTIVES:
            found: dict[str, list[float]] = {name: [] for name in sources}
            for _ in range(given.rounds):
                for name, source in sources.items():
                    task = {"model": folder, "objective": objective}
                    answer = run_child(__file__, task, {"PYTHONPATH": source})
                    found[name].append(answer["seconds"])
            ratios = [new / old for new, old in zip(found["new"], found["old"], strict=True)]
            line = {
                "objective": objective,
                "old_seconds": round(statistics.median(found["old"]), 4),
                "new_seconds": round(statistics.median(found["new"]), 4),
                "ratio": round(statistics.median(ratios), 3),
                "lowest": round(min(ratios), 3),
                "highest": round(max(ratios), 3),
            }
            print(", ".join(f"{name} {value}" for name, value in line.items()), flush=True)
            if given.output is not None:
                append_lines(given.output, [{**line, **origin()}])


if __name__ == "__main__":
    main()
