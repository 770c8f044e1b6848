"""Steps on a CUDA card, against TRL with its own kernels; called by benchmarks/gpu.sh with the seconds it has.

All arms run in one process and take turns, with the same weights and pairs, in bfloat16 autocast. An arm builds its
model on the card, makes its warm-up steps (FlexAttention compiles in the first two), and times the steps that follow.
What no longer fits into the time is left out by name, and what the card cannot hold is noted as that.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measure import append_lines, origin
from workload import PAIRS, ROOT, dataset, lengths, prepare

RESULTS = ROOT / "benchmarks/results/gpu.csv"

# Llamas of the sizes of Qwen2.5-0.5B and 1.5B.
MODELS: dict[str, dict[str, Any]] = {
    "0.5B": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
             "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True},
    "1.5B": {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
             "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True},
}  # fmt: skip
_SMOKE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
          "num_key_value_heads": 1, "vocab_size": 2000}  # fmt: skip
_TOKENIZER_ONLY = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}


@dataclass(frozen=True)
class Arm:
    """One way to make the same step: whose trainer, which attention, and whether the reference was scored before."""

    ours: bool
    attention: str
    stored: bool


ARMS = {
    "trl_stored": Arm(False, "sdpa", True),
    "flex_stored": Arm(True, "flex_attention", True),
    "split_stored": Arm(True, "sdpa", True),
    "trl_live": Arm(False, "sdpa", False),
    "flex_live": Arm(True, "flex_attention", False),
    "split_live": Arm(True, "sdpa", False),
}
BASELINE = "trl_stored"


@dataclass(frozen=True)
class Work:
    """What each arm does: a few warm-up steps, then the steps that are timed.

    Attributes:
        models: Shapes by name.
        regimes: Mean tokens of prompt and response, by name.
        pairs: In a step.
        warm: Steps before the clock starts.
        timed: Steps after it.
        device: `cuda`.
    """

    models: Mapping[str, Mapping[str, Any]]
    regimes: Sequence[str] = ("a", "c", "b")
    pairs: int = PAIRS
    warm: int = 3
    timed: int = 7
    device: str = "cuda"


def tasks_of(work: Work, rounds: int) -> list[dict[str, Any]]:
    """All arms of a cell after one another, cell by cell, stored references first; then the same again, turned.

    The first round is whole before the second begins, so that where time ends early every cell has been seen.
    """
    found = []
    for number in range(rounds):
        for stored in (True, False):
            arms = [name for name, arm in ARMS.items() if arm.stored == stored]
            shift = number % len(arms)
            found += [
                {"model": model, "regime": regime, "arm": arm, "round": number}
                for model in work.models
                for regime in work.regimes
                for arm in [*arms[shift:], *arms[:shift]]
            ]
    return found


def build_model(shape: Mapping[str, Any], attention: str, device: str) -> Any:
    """A random Llama, the same at every call, made where it will run."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(**shape, max_position_embeddings=4096, pad_token_id=0, eos_token_id=1, bos_token_id=1)
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=torch.float32)
    return model


def allocated(device: str, *, peak: bool = False) -> float:
    """GB that tensors occupy on the card, now or at most since the peak was last forgotten; 0 elsewhere."""
    import torch

    if device != "cuda":
        return 0.0
    return (torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated()) / 1e9


def run_arm(task: Mapping[str, Any], work: Work, tokenizer: Any, folder: str) -> list[dict[str, Any]]:
    """Train for some steps; a line for each that was timed."""
    import torch
    from transformers import TrainerCallback
    from trl import DPOConfig, DPOTrainer

    from mallowspo import MallowsPOConfig, MallowsPOTrainer

    arm, on_card = ARMS[task["arm"]], work.device == "cuda"
    lines: list[dict[str, Any]] = []

    class Clock(TrainerCallback):
        """Times steps; without waiting for the card, only their launch would be timed."""

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if on_card:
                torch.cuda.synchronize()
                if state.global_step == work.warm:
                    torch.cuda.reset_peak_memory_stats()
            self.held, self.begun = allocated(work.device), time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if on_card:
                torch.cuda.synchronize()
            if state.global_step > work.warm:
                seconds = time.perf_counter() - self.begun
                lines.append({"step": state.global_step, "seconds": seconds, "held_gb": self.held})

    options = {
        "output_dir": folder, "use_cpu": not on_card, "bf16": on_card, "gradient_checkpointing": False,
        "report_to": "none", "disable_tqdm": True, "save_strategy": "no", "logging_strategy": "no", "seed": 3,
        "max_steps": work.warm + work.timed, "max_length": None, "per_device_train_batch_size": work.pairs,
        "precompute_ref_log_probs": arm.stored, "dataset_num_proc": None,
    }  # fmt: skip
    if arm.ours:
        # With the index on, as people train: the entropies come out of the reference's pass.
        options["objective"] = "mallows_theta" if arm.stored else "dpo"
    shape = work.models[task["model"]]
    begun = time.perf_counter()
    trainer = (MallowsPOTrainer if arm.ours else DPOTrainer)(
        build_model(shape, arm.attention, work.device),
        None if arm.stored else build_model(shape, arm.attention, work.device),
        args=(MallowsPOConfig if arm.ours else DPOConfig)(**options),
        train_dataset=dataset(task["regime"], work.pairs * (work.warm + work.timed)),
        processing_class=tokenizer, callbacks=[Clock()],
    )  # fmt: skip
    if arm.ours and trainer.scoring.path != "packed":
        raise RuntimeError(f"not in packed rows: {trainer.scoring.reason}")
    built = time.perf_counter() - begun
    trainer.train()
    peak = allocated(work.device, peak=True)
    return [{**line, "peak_gb": peak, "before_training_s": built, "note": ""} for line in lines]


def free(device: str) -> None:
    """Give the card back what the last arm held."""
    import torch

    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def measure_all(
    work: Work,
    deadline: float,
    keep: Callable[[list[dict[str, Any]]], None],
    *,
    rounds: int = 3,
    run: Callable[..., list[dict[str, Any]]] = run_arm,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Run the tasks for which there is time.

    Args:
        work: What each arm does.
        deadline: On the clock of `time.monotonic`.
        keep: Called with the lines of each task as soon as they are known.
        rounds: Of all tasks.
        run: One task.

    Returns:
        Lines of all tasks that ran, with a note where one failed, and the names of those left out.
    """
    from transformers import AutoTokenizer

    lines: list[dict[str, Any]] = []
    skipped: list[str] = []
    took: dict[tuple[str, str], float] = {}
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name) / "tokenizer", {**_TOKENIZER_ONLY, "vocab_size": 2000})
        tokenizer = AutoTokenizer.from_pretrained(Path(name) / "tokenizer")
        for task in tasks_of(work, rounds):
            title = "{model}, regime {regime}, {arm}, round {round}".format(**task)
            # As long as this arm took with this model; before the first, half a minute, which compiling may need.
            if time.monotonic() + took.get((task["model"], task["arm"]), 30) > deadline:
                skipped.append(title)
                continue
            print(title, file=sys.stderr, flush=True)
            begun = time.monotonic()
            try:
                found = run(task, work, tokenizer, f"{name}/out")
            except Exception as problem:  # whatever a card, a driver or a compiler says; the other arms go on
                found = [failed(problem)]
                print(f"  {found[0]['note']}", file=sys.stderr, flush=True)
            free(work.device)
            took[task["model"], task["arm"]] = time.monotonic() - begun
            found = [{**task, "pairs": work.pairs, **line} for line in found]
            keep(found)
            lines += found
    return lines, skipped


def failed(problem: Exception) -> dict[str, Any]:
    """The line of an arm that did not run to its end."""
    import torch

    said = (
        "does not fit" if isinstance(problem, torch.cuda.OutOfMemoryError) else f"{type(problem).__name__}: {problem}"
    )
    empty = dict.fromkeys(("step", "seconds", "held_gb", "peak_gb", "before_training_s"), "")
    return {**empty, "note": " ".join(said.split())[:300]}


def card() -> dict[str, str]:
    """The card and what drives it."""
    import importlib.util

    import torch

    triton = importlib.util.find_spec("triton") and __import__("triton").__version__
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return {"card": name, "cuda": torch.version.cuda or "", "triton": triton or ""}


def table(lines: Sequence[Mapping[str, Any]], work: Work) -> list[str]:
    """Medians of each cell; speed-up over TRL with stored references, on the same pairs, step by step."""
    columns = ("s a step", "20%", "80%", "tokens/s", "speed-up", "peak GB", "step's GB")
    rows = [f"{'model':6s} {'regime':6s} {'arm':13s} {'steps':>5s} " + " ".join(f"{name:>9s}" for name in columns)]
    for model in work.models:
        for regime in work.regimes:
            cell = [line for line in lines if (line["model"], line["regime"]) == (model, regime)]
            timed = {arm: [line for line in cell if line["arm"] == arm and not line["note"]] for arm in ARMS}
            for arm, own in timed.items():
                start = f"{model:6s} {regime:6s} {arm:13s} {len(own):5d} "
                notes = [line["note"] for line in cell if line["arm"] == arm and line["note"]]
                if own:
                    start += _figures(own, timed[BASELINE], _tokens(regime, work))
                else:
                    start += "" if notes else "left out: time was up"
                rows.append(" ".join([start, *notes[:1]]).rstrip())
    return rows


def _figures(own: list[Mapping[str, Any]], base: list[Mapping[str, Any]], tokens: list[int]) -> str:
    """The columns of the table for the timed steps of one arm."""
    seconds = [line["seconds"] for line in own]
    quantiles = statistics.quantiles(seconds, n=5, method="inclusive") if seconds[1:] else seconds
    theirs = {(line["round"], line["step"]): line["seconds"] for line in base}
    ratios = [theirs[key] / line["seconds"] for line in own if (key := (line["round"], line["step"])) in theirs]
    peak = statistics.median(line["peak_gb"] for line in own)
    held = statistics.median(line["held_gb"] for line in own)
    speed = statistics.median(tokens[line["step"] - 1] / line["seconds"] for line in own)
    ratio = f"{statistics.median(ratios):9.2f}" if ratios else " " * 9
    return (
        f"{statistics.median(seconds):9.4f} {quantiles[0]:9.4f} {quantiles[-1]:9.4f} {speed:9.0f} {ratio} "
        f"{peak:9.2f} {peak - held:9.2f}"
    )


def _tokens(regime: str, work: Work) -> list[int]:
    """Tokens of each step: every prompt once and both its responses, whatever an arm makes of them."""
    drawn = [sum(pair) for pair in lengths(regime, work.pairs * (work.warm + work.timed))]
    return [sum(drawn[i : i + work.pairs]) for i in range(0, len(drawn), work.pairs)]


def main() -> int:
    """Measure until the time is up, print the table, keep the lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300, help="time for all of it")
    parser.add_argument("--output", type=Path, default=RESULTS, help="CSV; lines are added to it as they come")
    parser.add_argument("--smoke", action="store_true", help="a tiny model on a CPU: whether it runs, no measurement")
    args = parser.parse_args()
    import torch

    if args.smoke:
        with tempfile.TemporaryDirectory() as name:
            return _measure(Work({"tiny": _SMOKE}, ("b",), 2, 1, 2, "cpu"), args.seconds, Path(name) / "gpu.csv", 1)
    if not torch.cuda.is_available():
        print("no CUDA device: nothing can be measured here", file=sys.stderr)
        return 2
    return _measure(Work(MODELS), args.seconds, args.output, 3)


def _measure(work: Work, seconds: float, output: Path, rounds: int) -> int:
    deadline = time.monotonic() + seconds
    facts = {**origin(), **card(), "time": datetime.datetime.now().isoformat(timespec="seconds")}
    lines, skipped = measure_all(
        work, deadline, lambda found: append_lines(output, [{**line, **facts} for line in found]), rounds=rounds
    )
    print(f"\n{facts['card']}, torch {facts['torch']}, CUDA {facts['cuda']}, TRL {facts['trl']}, {facts['date']}")
    print("\n".join(table(lines, work)))
    if skipped:
        print(f"\nleft out, as time was up: {len(skipped)} tasks, the first {skipped[0]}")
    print(f"lines in {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
