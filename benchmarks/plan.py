"""What `mallowspo plan` says of memory, held against the peak of a process that trains.

    python benchmarks/plan.py --output benchmarks/results/plan.csv   # goes on where it was
    python benchmarks/plan.py --docs   # writes its table, and what the command says of the examples, into docs/plan.md

Each run is a process of its own on the CPU: its peak while it makes its second step, above what it held with its
libraries loaded and no model, less the same for a model of a few thousand weights, which is what the process itself
takes. The C library's allocator is told to give freed memory back at once, so that what is held is what is in use,
which is what is planned. As it comes, it keeps gaps of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from measure import forget_peak, measure_missing, read_lines, resident, run_child
from workload import ROOT, write_tokenizer

# Above so many bytes a piece of memory is the system's, and goes back to it when it is freed.
GIVEN_BACK = {"MALLOC_MMAP_THRESHOLD_": "32768", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_ARENA_MAX": "1"}
PAIRS = 4
PROMPT, RESPONSE = 96, 96

# Random models, of which the first four are held to 15%; and the first one trained in other ways.
SHAPES: dict[str, dict[str, Any]] = {
    "none": {"model_type": "llama", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
             "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 2000},
    "llama": {"model_type": "llama", "hidden_size": 640, "intermediate_size": 1728, "num_hidden_layers": 8,
              "num_attention_heads": 10, "num_key_value_heads": 5, "vocab_size": 24000},
    "qwen2": {"model_type": "qwen2", "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 6,
              "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 80000, "tie_word_embeddings": True},
    "gpt_neox": {"model_type": "gpt_neox", "hidden_size": 640, "intermediate_size": 2560, "num_hidden_layers": 6,
                 "num_attention_heads": 10, "vocab_size": 30000},
    "olmo2": {"model_type": "olmo2", "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 6,
              "num_attention_heads": 12, "num_key_value_heads": 12, "vocab_size": 16384},
}  # fmt: skip
WAYS: dict[str, dict[str, Any]] = {
    "full": {},
    "lora": {"use_peft": True, "lora_r": 16, "lora_target_modules": "all-linear"},
    "checkpointing": {"gradient_checkpointing": True},
    "live": {"objective": "dpo"},
    "rmsprop": {"optim": "rmsprop"},
}
_COMMON = {"max_steps": 2, "per_device_train_batch_size": PAIRS, "max_length": 2 * (PROMPT + RESPONSE)}


def planned(shape: dict[str, Any], way: dict[str, Any]) -> dict[str, Any]:
    """What the command says, by its own function."""
    from mallowspo.cli.plan import plan_of

    options = {"gradient_checkpointing": False, "precompute_ref_log_probs": "objective" not in way} | _COMMON | way
    flags = [
        *("--model_shape", json.dumps(shape), "--prompt_tokens", str(PROMPT), "--response_tokens", str(RESPONSE)),
        *("--use_cpu", "true", "--bf16", "false"),
    ]
    for name, value in options.items():
        flags += [f"--{name}", str(value)]
    _, found = plan_of(flags)
    return found


def child(task: dict[str, Any]) -> dict[str, Any]:
    """Train in this process: what it holds at the peak of its last step above what it held before the model, GB."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, TrainerCallback
    from trl import ModelConfig, get_peft_config

    from mallowspo import MallowsPOConfig, MallowsPOTrainer

    AutoModelForCausalLM, ModelConfig  # noqa: B018  # loaded before memory is looked at
    way = dict(WAYS[task["way"]])
    model_args = {name: way.pop(name) for name in list(way) if name == "use_peft" or name.startswith("lora_")}
    options = {"gradient_checkpointing": False, "precompute_ref_log_probs": "objective" not in way} | _COMMON | way
    words = [f" w{2 + i % 1000}" for i in range(4 * (PROMPT + RESPONSE))]
    rows = Dataset.from_list(
        [
            {
                "prompt": "".join(words[i : i + PROMPT]),
                "chosen": "".join(words[i + 7 : i + 6 + RESPONSE]),
                "rejected": "".join(words[i + 9 : i + 8 + RESPONSE]),
            }
            for i in range(2 * PAIRS)
        ]
    )
    peaks: list[float] = []

    class Peak(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            forget_peak()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            peaks.append(resident("VmHWM"))

    bare = resident()
    trainer = MallowsPOTrainer(
        task["folder"],
        args=MallowsPOConfig(
            f"{task['folder']}/out", use_cpu=True, bf16=False, report_to="none", disable_tqdm=True,
            save_strategy="no", logging_strategy="no", seed=3, **options,
        ),
        train_dataset=rows, callbacks=[Peak()],
        processing_class=PreTrainedTokenizerFast.from_pretrained(task["folder"]),
        peft_config=get_peft_config(ModelConfig(**model_args)) if model_args else None,
    )  # fmt: skip
    trainer.train()
    return {"gb": peaks[-1] - bare, "path": trainer.scoring.path, "row_tokens": trainer.scoring.row_tokens}


def grown(model: str, way: str) -> dict[str, Any]:
    """Run one model in a process of its own."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with tempfile.TemporaryDirectory() as name:
        write_tokenizer(Path(name))
        values = dict(SHAPES[model])
        config = AutoConfig.for_model(values.pop("model_type"), max_position_embeddings=2048, **values)
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(name)
        return run_child(__file__, {"folder": name, "way": way}, GIVEN_BACK)


def measure(task: dict[str, Any], peak_gb: Mapping[tuple[str, str], float]) -> list[dict[str, Any]]:
    """One model trained in one way: planned and measured."""
    model, way = task["model"], task["way"]
    plan, nothing = planned(SHAPES[model], WAYS[way]), planned(SHAPES["none"], WAYS[way])
    engine = plan["engines"]["ddp"]
    parts = {f"{part}_gb": round(value, 4) for part, value in engine["parts_gb"].items()}
    measured = peak_gb[model, way] - peak_gb["none", way] + nothing["engines"]["ddp"]["total_gb"]
    return [
        {
            "parameters": plan["model"]["parameters"], "row_tokens": plan["row"]["tokens"], **parts,
            "planned_gb": round(engine["total_gb"], 4), "measured_gb": round(measured, 4),
            "process_gb": round(peak_gb["none", way], 4), "ratio": round(engine["total_gb"] / measured, 4),
        }
    ]  # fmt: skip


def table(lines: list[dict[str, str]]) -> str:
    """The lines as Markdown."""
    names = ("model", "way", "parameters", "row", "planned GB", "measured GB", "planned / measured")
    rows = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for line in lines:
        million = f"{int(line['parameters']) / 1e6:.0f} M"
        rows.append(
            f"| {line['model']} | {line['way']} | {million} | {line['row_tokens']} | "
            f"{float(line['planned_gb']):.2f} | {float(line['measured_gb']):.2f} | "
            f"{float(line['ratio']):.2f} |"
        )
    return "\n".join(rows)


EXAMPLES = {
    "8 billion parameters on 8 devices": "--model_shape docs/plan/llama-3-8b.json --gpus 8 --memory 80",
    "The same with a LoRA adapter on a base in 4 bits, on one": "--model_shape docs/plan/llama-3-8b.json --memory 24 "
    "--use_peft --load_in_4bit --lora_target_modules all-linear --lora_r 16 --per_device_train_batch_size 2",
    "70 billion on 64": "--model_shape docs/plan/llama-3-70b.json --gpus 64 --memory 80 "
    "--per_device_train_batch_size 4",
}
DOCS, RESULTS = ROOT / "docs/plan.md", ROOT / "benchmarks/results/plan.csv"


def example(title: str, options: str) -> str:
    """An example as the page shows it: the command and what it prints."""
    command = f"mallowspo plan --config docs/plan/recipe.yaml {options}"
    done = subprocess.run(
        [sys.executable, "-m", "mallowspo.cli.main", *command.split()[1:]],
        cwd=ROOT, env=os.environ | {"COLUMNS": "100"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode not in (0, 1):
        raise RuntimeError(done.stderr[-2000:])
    return f"**{title}.** `{command}`:\n\n```text\n{done.stdout.strip()}\n```"


def write_docs(page: Path) -> None:
    """Write both blocks of the page."""
    text = page.read_text(encoding="utf-8")
    lines = read_lines(RESULTS)
    origin = "{machine}; torch {torch}, transformers {transformers}, TRL {trl}; {date}.".format(**lines[0])
    blocks = {
        "measured": f"{table(lines)}\n\n{origin}",
        "examples": "\n\n".join(example(*item) for item in EXAMPLES.items()),
    }
    for name, block in blocks.items():
        pattern = rf"(<!-- begin {name}:[^\n]*-->\n).*?(<!-- end {name} -->)"
        text = re.sub(pattern, lambda found, block=block: f"{found[1]}{block}\n{found[2]}", text, flags=re.DOTALL)
    page.write_text(text, encoding="utf-8")


def main() -> None:
    """Measure what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="CSV; what it holds already is not measured again")
    parser.add_argument("--jobs", type=int, default=1, help="processes that train side by side")
    parser.add_argument("--docs", action="store_true", help="write docs/plan.md anew, and measure nothing")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(child(json.loads(args.child))))
        return
    if args.docs:
        write_docs(DOCS)
        return
    from transformers import AutoModelForCausalLM  # once: threads that import it side by side find half of it

    AutoModelForCausalLM  # noqa: B018
    models = [name for name in SHAPES if name != "none"]
    tasks = [{"model": name, "way": "full"} for name in models]
    tasks += [{"model": models[0], "way": way} for way in WAYS if way != "full"]
    for way in WAYS:
        some = [task for task in tasks if task["way"] == way]
        kept = {(line["model"], line["way"]) for line in read_lines(args.output)}
        if all((task["model"], way) in kept for task in some):
            continue
        # Side by side: memory does not depend on who else runs.
        runs = [("none", way), *((task["model"], way) for task in some)]
        with ThreadPoolExecutor(args.jobs) as pool:
            found = dict(zip(runs, pool.map(lambda run: grown(*run)["gb"], runs), strict=True))
        print(table(measure_missing(args.output, some, partial(measure, peak_gb=found))), flush=True)


if __name__ == "__main__":
    main()
