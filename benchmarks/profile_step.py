"""Where the time of one step goes: operations of forward and backward pass and optimiser, by kind.

python benchmarks/profile_step.py --output benchmarks/results/profile.csv   # about a minute
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from measure import append_lines, origin
from workload import MODELS, PAIRS, dataset, prepare

KINDS = {
    "products of matrices": ("aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm"),
    "attention": (
        "aten::_scaled_dot_product_flash_attention_for_cpu",
        "aten::_scaled_dot_product_flash_attention_for_cpu_backward",
    ),
    "filling and copying memory": ("aten::fill_", "aten::zero_", "aten::copy_", "aten::cat", "aten::clone"),
    "softmax and its like": ("aten::_softmax", "aten::exp", "aten::amax", "aten::argmax", "aten::log"),
    "optimiser": ("aten::_fused_adamw_", "aten::_foreach_norm", "aten::_foreach_mul_"),
}
OTHER = "elementwise operations and all else"


def profiled(model: str, regime: str) -> list[dict[str, Any]]:
    """Seconds of the processor's own time in each kind of operation, of the third step of a run."""
    from torch.profiler import ProfilerActivity, profile
    from transformers import TrainerCallback

    from mallowspo import MallowsPOConfig, MallowsPOTrainer

    class Watch(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 2:
                self.profile = profile(activities=[ProfilerActivity.CPU])
                self.profile.__enter__()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 3:
                self.profile.__exit__(None, None, None)

    watch = Watch()
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder) / "model", model)
        args = MallowsPOConfig(
            output_dir=f"{folder}/out", use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none",
            disable_tqdm=True, save_strategy="no", logging_strategy="no", max_steps=3, max_length=None, seed=3,
            per_device_train_batch_size=PAIRS,
        )  # fmt: skip
        rows = dataset(regime, 3 * PAIRS)
        MallowsPOTrainer(f"{folder}/model", args=args, train_dataset=rows, callbacks=[watch]).train()
    kind_of = {name: kind for kind, names in KINDS.items() for name in names}
    seconds = dict.fromkeys([*KINDS, OTHER], 0.0)
    calls = dict.fromkeys([*KINDS, OTHER], 0)
    for event in watch.profile.key_averages():
        kind = kind_of.get(event.key, OTHER)
        seconds[kind] += event.self_cpu_time_total / 1e6
        calls[kind] += event.count
    whole = sum(seconds.values())
    return [
        {"model": model, "regime": regime, "kind": kind, "seconds": round(value, 4), "share": round(value / whole, 4),
         "calls": calls[kind], **origin()}
        for kind, value in seconds.items()
    ]  # fmt: skip


def main() -> None:
    """Profile A and C in regime a."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="CSV to write; an existing one is not overwritten")
    args = parser.parse_args()
    if args.output.exists():
        parser.error(f"{args.output} exists: results are kept, give another name")
    for model in MODELS:
        append_lines(args.output, profiled(model, "a"))


if __name__ == "__main__":
    main()
