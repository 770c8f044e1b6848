"""How a step's cost grows: with prompts, responses, responses to a prompt, vocabulary, and rows of data.

    python benchmarks/scaling.py --output benchmarks/results/scaling.csv   # about 8 minutes; goes on where it was

One thing grows at a time, from a small random Llama (hidden 256, 4 layers, vocabulary 4,096), prompts of 128 tokens,
responses of 64 and 4 pairs a step. With K responses to a prompt a step is two lists of K, in K (K - 1) / 2 pairs each;
TRL gets these pairs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

from measure import measure_missing, run_child
from step import ARMS, run_arm
from workload import dataset, prepare, ranked_lists

SHAPE = {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4, "num_attention_heads": 4,
         "num_key_value_heads": 4, "vocab_size": 4096, "tie_word_embeddings": True}  # fmt: skip
PROMPT, RESPONSE, PAIRS, WARM, TIMED = 128, 64, 4, 1, 4
AXES: dict[str, tuple[int, ...]] = {
    "prompt tokens": (64, 256, 1024),
    "response tokens": (32, 128, 512),
    "responses to a prompt": (2, 4, 6),
    "vocabulary": (2048, 16384, 65536),
    "rows of data": (32, 128, 512),
}
COMPARED = ("trl_compact_tuned", "ours_stored")


def child(task: dict[str, Any]) -> list[dict[str, Any]]:
    """One point of one axis, in this process."""
    axis, value = task["axis"], task["value"]
    arm = ARMS[task["arm"]]
    prompt = value if axis == "prompt tokens" else PROMPT
    response = value if axis == "response tokens" else RESPONSE
    shape = {**SHAPE, "vocab_size": value} if axis == "vocabulary" else SHAPE
    steps = WARM + TIMED
    if axis == "responses to a prompt":
        pairs = 2 * value * (value - 1) // 2
        rows = ranked_lists((prompt, response), 2 * steps, value)
        if arm.trainer == "trl":
            rows = _pairs_of(rows)
    else:
        pairs = PAIRS
        rows = dataset((prompt, response), value if axis == "rows of data" else PAIRS * steps)
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder) / "model", shape)
        return run_arm(arm, f"{folder}/model", rows, pairs, WARM, TIMED, f"{folder}/out")


def _pairs_of(lists: Any) -> Any:
    from datasets import Dataset

    return Dataset.from_list(
        [
            {"prompt": row["prompt"], "chosen": better, "rejected": worse}
            for row in lists
            for better, worse in itertools.combinations(row["responses"], 2)
        ]
    )


def measure(task: dict[str, Any]) -> list[dict[str, Any]]:
    """One point in a process of its own."""
    lines: list[dict[str, Any]] = run_child(__file__, task, dict(ARMS[task["arm"]].environment))["lines"]
    return lines


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axes", nargs="+", default=list(AXES), choices=AXES)
    parser.add_argument("--output", type=Path, help="CSV; what it holds already is not measured again")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps({"lines": child(json.loads(args.child))}))
        return
    tasks = [
        {"axis": axis, "value": value, "arm": arm, "round": 0}
        for axis in args.axes
        for value in AXES[axis]
        for arm in COMPARED
    ]
    measure_missing(args.output, tasks, measure)


if __name__ == "__main__":
    main()
