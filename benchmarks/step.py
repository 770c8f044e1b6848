"""Seconds and memory of one optimiser step, against TRL, on the same pairs.

    python benchmarks/step.py --quick                                # a few minutes: it runs, and a direction
    python benchmarks/step.py --output benchmarks/results/step.csv   # all models, regimes and arms

Every arm runs in its own process; arms take turns, round by round, so that a busy minute of the machine hits them all.
A process makes its warm-up steps, forgets its peak of memory, and times the steps that follow. The table has medians
over all rounds. `floor` is the time of the matrix products that no layout can avoid (prompts shared, no padding,
reference stored) at the speed of one large product on the same machine.

Threads wait passively unless OMP_WAIT_POLICY says otherwise: spinning, they make whatever has many small products many
times slower as soon as another program wants a core.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

# Random Llamas. A's work is in the head, C's in the layers, as in a model of some billion parameters.
MODELS = {
    "A": {"hidden_size": 288, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 6,
          "num_key_value_heads": 6, "vocab_size": 32000, "tie_word_embeddings": True},
    "C": {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8, "num_attention_heads": 8,
          "num_key_value_heads": 8, "vocab_size": 4096, "tie_word_embeddings": True},
}  # fmt: skip

REGIMES = {"a": (384, 96), "b": (128, 128), "c": (32, 256)}
"""Mean tokens of a prompt and of a response; lengths are lognormal."""

PAIRS = 8

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


def lengths(regime: str, count: int) -> list[tuple[int, int, int]]:
    """Tokens of prompt, chosen and rejected response of each pair; the same for every arm."""
    import numpy as np

    rng = np.random.default_rng(7)
    prompt, response = REGIMES[regime]

    def draw(mean: int) -> int:
        # A lognormal with sigma 0.4 has the mean exp(0.08) times its median.
        return int(np.clip(rng.lognormal(np.log(mean) - 0.08, 0.4), 2, 4 * mean))

    return [(draw(prompt), draw(response), draw(response)) for _ in range(count)]


def prepare(folder: Path, model: str) -> None:
    """Write the model, and a tokenizer of one word a token, so that lengths are what they are drawn to be."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = {"<pad>": 0, "<eos>": 1} | {f"w{i}": i for i in range(2, 2000)}
    core = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", pad_token="<pad>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(**MODELS[model], max_position_embeddings=4096, pad_token_id=0, eos_token_id=1, bos_token_id=1)
    LlamaForCausalLM(config).save_pretrained(folder)


def dataset(regime: str, count: int) -> Any:
    """Random words, as text: both trainers tokenise it themselves."""
    import numpy as np
    from datasets import Dataset

    rng = np.random.default_rng(11)

    def text(tokens: int) -> str:
        return "".join(f" w{i}" for i in rng.integers(2, 2000, tokens))

    return Dataset.from_list(
        [{"prompt": text(p), "chosen": text(c - 1), "rejected": text(r - 1)} for p, c, r in lengths(regime, count)]
    )


def peak_memory() -> float:
    """Highest resident memory in GB since the last `forget_peak`; of the whole run where Linux does not tell."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1e6
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9


def forget_peak() -> None:
    """Begin to measure the peak anew; a reference pass before training has its own."""
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")


def run_arm(arm: Arm, folder: Path, regime: str, pairs: int, warm: int, timed: int) -> dict[str, Any]:
    """Train for `warm + timed` steps and report the timed ones."""
    import torch
    from transformers import TrainerCallback
    from trl import DPOConfig, DPOTrainer

    from mallowspo import MallowsPOConfig, MallowsPOTrainer

    if arm.compact:
        from trl.trainer import utils

        utils._use_triton = lambda device: True  # read by TRL where it chooses the positions, not where it computes

    class Clock(TrainerCallback):
        seconds: list[float] = []

        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == warm:
                forget_peak()
            self.begun = time.perf_counter()

        def on_step_end(self, args, state, control, **kwargs):
            self.seconds.append(time.perf_counter() - self.begun)

    ours = arm.trainer == "ours"
    options = {
        "output_dir": str(folder / "out"), "use_cpu": not torch.cuda.is_available(), "bf16": torch.cuda.is_available(),
        "gradient_checkpointing": False, "report_to": "none", "disable_tqdm": True, "save_strategy": "no",
        "logging_strategy": "no", "max_steps": warm + timed, "max_length": None, "seed": 3,
        "per_device_train_batch_size": 1 if arm.accumulate else pairs,
        "gradient_accumulation_steps": pairs if arm.accumulate else 1,
        "precompute_ref_log_probs": arm.stored, "dataset_num_proc": None,
    }  # fmt: skip
    if ours:
        # With the index on, as people train: the entropies come out of the reference's pass.
        options["objective"] = "mallows_theta" if arm.stored else "dpo"
    rows = dataset(regime, pairs * (warm + timed))
    begun = time.perf_counter()
    trainer = (MallowsPOTrainer if ours else DPOTrainer)(
        str(folder), args=(MallowsPOConfig if ours else DPOConfig)(**options), train_dataset=rows,
        callbacks=[Clock()],
    )  # fmt: skip
    built = time.perf_counter() - begun
    trainer.train()
    return {"seconds": Clock.seconds[warm:], "peak_gb": peak_memory(), "before_training_s": built}


def floor_seconds(model: str, regime: str, pairs: int, steps: int) -> float:
    """Products of a step that cannot be avoided, at the speed of one large product."""
    import torch

    left, right = torch.randn(1024, 1024), torch.randn(1024, 1024)
    timings = []
    for _ in range(12):
        begun = time.perf_counter()
        left @ right
        timings.append(time.perf_counter() - begun)
    speed = 2 * 1024**3 / statistics.median(timings[2:])
    m = MODELS[model]
    hidden, layers = m["hidden_size"], m["num_hidden_layers"]
    per_token = 2 * layers * (4 * hidden**2 + 3 * hidden * m["intermediate_size"])
    flops = 0.0
    for prompt, *responses in lengths(regime, pairs * steps):
        flops += 3 * per_token * (prompt + sum(responses))
        seen = prompt**2 / 2 + sum(prompt * r + r**2 / 2 for r in responses)
        flops += 3 * layers * 4 * hidden * seen
        flops += 3 * 2 * hidden * m["vocab_size"] * sum(responses)
    return flops / speed / steps


def child(arguments: argparse.Namespace) -> None:
    """One arm or the floor, in this process; the answer is the last line."""
    folder = Path(arguments.folder)
    if arguments.child == "floor":
        steps = arguments.steps
        found: dict[str, Any] = {"seconds": [floor_seconds(arguments.model, arguments.regime, arguments.pairs, steps)]}
    else:
        found = run_arm(
            ARMS[arguments.child], folder, arguments.regime, arguments.pairs, arguments.warm, arguments.steps
        )
    print(json.dumps(found))


def measure(arm: str, folder: Path, model: str, regime: str, args: argparse.Namespace) -> dict[str, Any]:
    """Run one arm in a process of its own."""
    environment = dict(ARMS[arm].environment) if arm in ARMS else {}
    done = subprocess.run(
        [sys.executable, __file__, "--child", arm, "--folder", folder, "--model", model, "--regime", regime,
         "--pairs", str(args.pairs), "--warm", str(args.warm), "--steps", str(args.steps)],
        # No cache of the reference's scores: a pass before training is part of what is compared.
        env={
            "OMP_WAIT_POLICY": "PASSIVE", **os.environ, "HF_HUB_OFFLINE": "1", "MALLOWSPO_CACHE": "", **environment
        },
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{arm} failed:\n{done.stderr[-3000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def environment_columns() -> dict[str, str]:
    """Machine, versions, commit and date, for every line of the results."""
    import torch
    import transformers
    import trl

    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {
        "machine": platform.processor() or platform.machine(), "threads": str(torch.get_num_threads()),
        "device": "cuda" if torch.cuda.is_available() else "cpu", "torch": torch.__version__,
        "transformers": transformers.__version__, "trl": trl.__version__, "commit": commit.stdout.strip(),
        "date": datetime.date.today().isoformat(),
    }  # fmt: skip


def main() -> None:
    """Measure, print a table, and write the CSV that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="model A, regime b, 4 pairs, one round of 2 steps")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--regimes", nargs="+", default=list(REGIMES), choices=REGIMES)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3, help="timed steps of a process")
    parser.add_argument("--warm", type=int, default=1, help="steps before them")
    parser.add_argument("--pairs", type=int, default=PAIRS, help="pairs a step")
    parser.add_argument("--output", type=Path, help="CSV to write; an existing one is not overwritten")
    for hidden in ("--child", "--folder", "--model", "--regime"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args)
        return
    if args.quick:
        args.models, args.regimes, args.rounds, args.steps, args.pairs = ["A"], ["b"], 1, 2, 4
    if args.output and args.output.exists():
        parser.error(f"{args.output} exists: results are kept, give another name")
    lines = []
    for model in args.models:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            prepare(folder, model)
            for regime in args.regimes:
                lines += compare(folder, model, regime, args)
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        with args.output.open("x", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(lines[0]))
            writer.writeheader()
            writer.writerows(lines)


def compare(folder: Path, model: str, regime: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """All arms on one model and one regime, in turns."""
    names = ["floor", *args.arms]
    seconds: dict[str, list[float]] = {arm: [] for arm in names}
    peaks: dict[str, list[float]] = {arm: [] for arm in names}
    before: dict[str, list[float]] = {arm: [] for arm in names}
    for round_number in range(args.rounds):
        # The order turns too: no arm always runs after the heaviest.
        shift = round_number % len(names)
        for arm in [*names[shift:], *names[:shift]]:
            found = measure(arm, folder, model, regime, args)
            seconds[arm] += found["seconds"]
            peaks[arm].append(found.get("peak_gb", float("nan")))
            before[arm].append(found.get("before_training_s", float("nan")))
    print(f"\nmodel {model}, regime {regime} {REGIMES[regime]}, {args.pairs} pairs a step, {args.rounds} rounds")
    print(f"{'arm':32s} {'s a step':>9s} {'20%':>7s} {'80%':>7s} {'peak GB':>8s} {'before s':>9s} {'x floor':>8s}")
    floor, lines = statistics.median(seconds["floor"]), []
    for arm in names:
        values = seconds[arm]
        middle = statistics.median(values)
        low, high = (
            statistics.quantiles(values, n=5, method="inclusive")[i] if values[1:] else middle for i in (0, -1)
        )
        peak, start = statistics.median(peaks[arm]), statistics.median(before[arm])
        print(f"{arm:32s} {middle:9.3f} {low:7.3f} {high:7.3f} {peak:8.2f} {start:9.1f} {middle / floor:8.2f}")
        lines.append(
            {
                "model": model, "regime": regime, "arm": arm, "pairs": args.pairs, "rounds": args.rounds,
                "steps": len(seconds[arm]), "seconds_median": round(middle, 4), "seconds_p20": round(low, 4),
                "seconds_p80": round(high, 4), "peak_gb": round(peak, 3), "before_training_s": round(start, 2),
                **environment_columns(),
            }
        )  # fmt: skip
    return lines


if __name__ == "__main__":
    main()
