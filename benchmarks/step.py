"""Seconds and memory of one optimiser step, against TRL, on the same pairs.

    python benchmarks/step.py --quick                                # a few minutes: it runs, and a direction
    python benchmarks/step.py --output benchmarks/results/step.csv   # everything; goes on where it was
    python benchmarks/summary.py                                     # tables and figures from the results

Every arm runs in its own process; arms take turns, round by round, so that a busy minute of the machine hits them all.
A process makes its warm-up steps, forgets its peak of memory, and times the steps that follow, on the same pairs as
every other arm. The floor is the time of the matrix products that no layout can avoid (prompts shared, no padding,
reference stored) at the speed of one large product, measured in the same process right after the steps.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measure import forget_peak, measure_missing, processor_seconds, resident, run_child, speed_of_products
from summary import print_steps
from workload import MODELS, PAIRS, REAL_MODEL, REAL_REGIME, REGIMES, SHARED, dataset, lengths, prepare, real_lengths

# The memory allocator gives every freed page back, and TRL's large logits are freed at every step.
TUNED = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**36)}


@dataclass(frozen=True)
class Arm:
    """One way to make the same step.

    Attributes:
        trainer: `trl` or `ours`.
        stored: The reference is scored before training, and not at every step.
        compact: TRL's head on response positions only, as it does by itself on CUDA.
        accumulate: One pair at a time.
        environment: Variables of the process.
    """

    trainer: str
    stored: bool
    compact: bool = False
    accumulate: bool = False
    environment: tuple[tuple[str, str], ...] = ()


ARMS = {
    "trl_live": Arm("trl", False),
    "trl_stored": Arm("trl", True),
    "trl_compact_tuned": Arm("trl", True, compact=True, environment=tuple(TUNED.items())),
    "trl_compact_tuned_accumulated": Arm("trl", True, compact=True, accumulate=True, environment=tuple(TUNED.items())),
    "ours_live": Arm("ours", False),
    "ours_stored": Arm("ours", True),
}


def run_arm(arm: Arm, model: str, rows: Any, pairs: int, warm: int, timed: int, folder: str) -> list[dict[str, Any]]:
    """Train for `warm + timed` steps and report the timed ones."""
    import torch
    from transformers import TrainerCallback
    from trl import DPOConfig, DPOTrainer

    from mallowspo import MallowsPOConfig, MallowsPOTrainer

    if arm.compact:
        from trl.trainer import utils

        utils._use_triton = lambda device: True  # read by TRL where it chooses the positions, not where it computes
    bare = resident()
    steps: list[dict[str, Any]] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == warm:
                forget_peak()
            self.begun, self.used = time.perf_counter(), processor_seconds()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            seconds, used = time.perf_counter() - self.begun, processor_seconds() - self.used
            if state.global_step > warm:
                steps.append({"step": state.global_step, "seconds": seconds, "processor_seconds": used})

    ours = arm.trainer == "ours"
    options = {
        "output_dir": folder, "use_cpu": not torch.cuda.is_available(), "bf16": torch.cuda.is_available(),
        "gradient_checkpointing": False, "report_to": "none", "disable_tqdm": True, "save_strategy": "no",
        "logging_strategy": "no", "max_steps": warm + timed, "max_length": None, "seed": 3,
        "per_device_train_batch_size": 1 if arm.accumulate else pairs,
        "gradient_accumulation_steps": pairs if arm.accumulate else 1,
        "precompute_ref_log_probs": arm.stored, "dataset_num_proc": None,
    }  # fmt: skip
    if ours:
        # With the index on, as people train: the entropies come out of the reference's pass.
        options["objective"] = "mallows_theta" if arm.stored else "dpo"
    begun = time.perf_counter()
    trainer = (MallowsPOTrainer if ours else DPOTrainer)(
        model, args=(MallowsPOConfig if ours else DPOConfig)(**options), train_dataset=rows, callbacks=[Clock()]
    )
    built = time.perf_counter() - begun
    trainer.train()
    facts = {"peak_gb": resident("VmHWM"), "bare_gb": bare, "before_training_s": built}
    return [{**step, **facts, "product_flops": speed_of_products()} for step in steps]


def floor_operations(model: str, sizes: list[tuple[int, int, int]], steps: int) -> float:
    """Floating-point operations a step of the products that cannot be avoided."""
    m = _shape(model)
    hidden, layers, head = m["hidden_size"], m["num_hidden_layers"], m["hidden_size"] // m["num_attention_heads"]
    own = 2 * hidden**2 + 2 * hidden * head * m["num_key_value_heads"]
    per_token = 2 * layers * (own + 3 * hidden * m["intermediate_size"])
    operations = 0.0
    for prompt, *responses in sizes:
        operations += 3 * per_token * (prompt + sum(responses))
        seen = prompt**2 / 2 + sum(prompt * r + r**2 / 2 for r in responses)
        operations += 3 * layers * 4 * hidden * seen
        operations += 3 * 2 * hidden * m["vocab_size"] * sum(responses)
    return operations / steps


def _shape(model: str) -> dict[str, Any]:
    if model in MODELS:
        return MODELS[model]
    config: dict[str, Any] = json.loads((SHARED / "models" / model / "config.json").read_text())
    return config


def child(task: dict[str, Any]) -> list[dict[str, Any]]:
    """One arm, in this process."""
    model, regime, pairs = task["model"], task["regime"], task["pairs"]
    count = pairs * (task["warm"] + task["timed"])
    sizes = real_lengths(count) if regime == REAL_REGIME else lengths(regime, count)
    floor = floor_operations(model, sizes, task["warm"] + task["timed"])
    with tempfile.TemporaryDirectory() as name:
        if regime == REAL_REGIME:
            path = str(SHARED / "models" / model)
        else:
            path = str(Path(name) / "model")
            prepare(Path(path), model)
        rows = dataset(regime, count)
        lines = run_arm(ARMS[task["arm"]], path, rows, pairs, task["warm"], task["timed"], f"{name}/out")
    return [{**line, "floor_operations": floor} for line in lines]


def measure(task: dict[str, Any]) -> list[dict[str, Any]]:
    """Run one arm in a process of its own."""
    lines: list[dict[str, Any]] = run_child(__file__, task, dict(ARMS[task["arm"]].environment))["lines"]
    return lines


def tasks_of(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Every measurement, round by round; the order of the arms turns, so that none always runs after the heaviest."""
    cells = [(model, regime) for model in args.models if model in MODELS for regime in args.regimes]
    if REAL_MODEL in args.models:
        cells.append((REAL_MODEL, REAL_REGIME))
    names, found = list(args.arms), []
    for model, regime in cells:
        for number in range(args.rounds):
            shift = number % len(names)
            found += [
                {"model": model, "regime": regime, "arm": arm, "round": number, "pairs": args.pairs,
                 "warm": args.warm, "timed": args.timed}
                for arm in [*names[shift:], *names[:shift]]
            ]  # fmt: skip
    return found


def main() -> None:
    """Measure what is missing, print a table, keep the lines in the CSV that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="model A, regime b, 4 pairs, one round of 2 steps")
    parser.add_argument("--models", nargs="+", default=[*MODELS, REAL_MODEL], choices=[*MODELS, REAL_MODEL])
    parser.add_argument("--regimes", nargs="+", default=list(REGIMES), choices=REGIMES, help="of the random models")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--timed", type=int, default=4, help="timed steps of a process")
    parser.add_argument("--warm", type=int, default=1, help="steps before them")
    parser.add_argument("--pairs", type=int, default=PAIRS, help="pairs a step")
    parser.add_argument("--output", type=Path, help="CSV; what it holds already is not measured again")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps({"lines": child(json.loads(args.child))}))
        return
    if args.quick:
        args.models, args.regimes, args.rounds, args.timed, args.pairs = ["A"], ["b"], 1, 2, 4
    print_steps(measure_missing(args.output, tasks_of(args), measure))


if __name__ == "__main__":
    main()
