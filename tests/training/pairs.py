"""Small preference data and one way to run a trainer on it, for the training tests."""

from __future__ import annotations

import gzip
import itertools
import json
from pathlib import Path
from typing import Any

from datasets import Dataset

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


def history(trainer: Any, name: str) -> list[float]:
    """The logged values of one metric, step by step."""
    return [entry[name] for entry in trainer.state.log_history if name in entry]
