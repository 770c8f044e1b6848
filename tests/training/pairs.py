"""Small preference data and one way to build a trainer on it, for the training tests."""

from __future__ import annotations

import gzip
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from peft import LoraConfig

from mallowspo import MallowsPOConfig, MallowsPOTrainer
from tiny import tiny_llama, tiny_tokenizer

_ASK = ["cook rice", "name a good film", "add three and four", "spell cat", "paint a wall", "say hello"]
_SAY = ["rinse it first", "maybe one or two", "seven", "I do not know", "use a brush and take your time", "no"]


def small_pairs(count: int = 32) -> Dataset:
    """Rows with prompts that come back, responses of one to ten words, and no two alike."""
    choices = itertools.permutations(range(len(_SAY)), 2)
    rows = []
    for i, (chosen, rejected) in zip(range(count), choices, strict=False):
        rows.append(
            {
                "prompt": f"Question: how do I {_ASK[(i // 2) % len(_ASK)]}? Answer:",
                "chosen": f" {_SAY[chosen]}",
                "rejected": f" {_SAY[rejected]} {_SAY[(rejected + i) % 6]}",
            }
        )
    return Dataset.from_list(rows)


def real_pairs(shared: Path, count: int = 48, *, prompt: int = 150, response: int = 100) -> Dataset:
    """The first short dialogues of the HH data, so many characters at most, which a tiny model scores fast."""
    rows = []
    with gzip.open(shared / "data/hh/helpful_train.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            if len(row["prompt"]) < prompt and max(len(row["chosen"]), len(row["rejected"])) < response:
                rows.append({name: row[name] for name in ("prompt", "chosen", "rejected")})
            if len(rows) == count:
                break
    return Dataset.from_list(rows)


def options(output_dir: Path, **changes: Any) -> dict[str, Any]:
    """Arguments that TRL's configuration and ours both take."""
    return {
        "output_dir": str(output_dir),
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_steps": 1,
        "learning_rate": 1e-3,
        "per_device_train_batch_size": 4,
        "max_length": 256,
        "max_steps": 20,
        "seed": 3,
    } | changes


def llama(**config: Any) -> Any:
    """A random Llama with a row for every token of the tests' tokenizer."""
    return tiny_llama(vocab_size=len(tiny_tokenizer()), **config)


def saved_llama(folder: Path, **config: Any) -> str:
    """The path of one on disk, so that trainers load it as they would any other."""
    llama(**config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


def lora(**changes: Any) -> LoraConfig:
    """A small adapter."""
    return LoraConfig(**{"r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"} | changes)


def add_by_transformers(model: Any, config: LoraConfig) -> None:
    """Give a model an adapter by transformers' own call; transformers 5.24 asks for a peft that is not published."""
    try:
        model.add_adapter(config)
    except ValueError as error:
        if "version of PEFT" not in str(error):
            raise
        pytest.skip(str(error))


_ARGUMENTS = {"ref_model", "data_collator", "eval_dataset", "processing_class", "peft_config", "compute_metrics"}


def build(model: Any, folder: Path, rows: Dataset | None = None, **given: Any) -> MallowsPOTrainer:
    """A trainer of a setting's model, or of one in memory; what is given are options, and the trainer's arguments."""
    arguments = {name: given.pop(name) for name in _ARGUMENTS & given.keys()}
    if hasattr(model, "path"):
        model, rows = model.path, model.rows if rows is None else rows
    else:
        arguments.setdefault("processing_class", tiny_tokenizer())
    args = MallowsPOConfig(**options(folder, **given))
    return MallowsPOTrainer(model, args=args, train_dataset=rows, **arguments)


def trained(*given: Any, **options: Any) -> MallowsPOTrainer:
    """As `build`, and trained."""
    run = build(*given, **options)
    run.train()
    return run


def history(trainer: Any, name: str) -> list[float]:
    """The logged values of one metric, step by step."""
    return [entry[name] for entry in trainer.state.log_history if name in entry]
