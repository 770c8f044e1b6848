"""Seconds of a training step on ranked lists, against the same responses as disjoint pairs of the same packed row.

    python benchmarks/lists.py                                           # about three minutes
    python benchmarks/lists.py --output benchmarks/results/lists.csv     # and keeps it

The pairs (responses 1 and 2, 3 and 4, ...) hold every response once beside one prompt, which is the work that no
objective on the list can avoid. Steps take turns, arm by arm; the ratio is that of the medians.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from measure import append_lines, origin
from workload import prepare, ranked_lists

ARMS = ("plackett_luce", "mallows_list_theta", "mallows_list_phi")
REGIME = (128, 128)
LISTS = 2


def disjoint_pairs(lists: Any) -> Any:
    """The responses of each list two by two."""
    from datasets import Dataset

    return Dataset.from_list(
        [
            {"prompt": row["prompt"], "chosen": row["responses"][k], "rejected": row["responses"][k + 1]}
            for row in lists
            for k in range(0, len(row["responses"]), 2)
        ]
    )


def step_of(model: str, rows: Any, objective: str, folder: str) -> Any:
    """A function that makes one training step on all rows."""
    from mallowspo import MallowsPOConfig, MallowsPOTrainer

    args = MallowsPOConfig(
        folder, objective=objective, precompute_ref_log_probs=True, per_device_train_batch_size=len(rows),
        use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none", save_strategy="no",
        max_length=None, disable_tqdm=True,
    )  # fmt: skip
    trainer = MallowsPOTrainer(model, args=args, train_dataset=rows)
    examples = trainer.examples(trainer.train_dataset)
    batch = trainer.data_collator([examples[i] for i in range(len(examples))])
    trainer.current_gradient_accumulation_steps = 1  # which the training loop sets

    def step() -> None:
        trainer.model.zero_grad()
        trainer.training_step(trainer.model, dict(batch))

    return step


def measure(model: str, responses: int, rounds: int) -> list[dict[str, Any]]:
    """Seconds a step of each arm, interleaved."""
    lists = ranked_lists(REGIME, LISTS, responses)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        steps = {"pairs": step_of(model, disjoint_pairs(lists), "dpo", folder)}
        steps |= {arm: step_of(model, lists, arm, folder) for arm in ARMS}
        seconds: dict[str, list[float]] = {arm: [] for arm in steps}
        for turn in range(rounds + 2):
            for arm, step in steps.items():
                begun = time.perf_counter()
                step()
                if turn >= 2:
                    seconds[arm].append(time.perf_counter() - begun)
    floor = statistics.median(seconds["pairs"])
    return [
        {
            "responses": responses,
            "arm": arm,
            "seconds": round(statistics.median(values), 4),
            "ratio": round(statistics.median(values) / floor, 3),
        }
        for arm, values in seconds.items()
    ]


def main() -> None:
    """Measure lists of 2, 4 and 8, print a table, and keep it where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), "C")
        for responses in (2, 4, 8):
            lines = measure(folder, responses, given.rounds)
            for line in lines:
                print(f"K = {line['responses']}  {line['arm']:<20} {line['seconds']:.3f} s  {line['ratio']:.3f}")
            if given.output is not None:
                append_lines(given.output, [{**line, **origin()} for line in lines])


if __name__ == "__main__":
    main()
