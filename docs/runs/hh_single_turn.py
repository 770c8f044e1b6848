"""Write the single-turn dialogues of a preference data set as prompt, chosen and rejected, raw text.

python docs/runs/hh_single_turn.py Anthropic/hh-rlhf output/hh_single_turn   # needs a hub

It writes train.jsonl and test.jsonl, and for the SFT sft/train.jsonl with prompt and completion (the chosen reply).

HH as it is published holds two whole dialogues a row. The prompt here is all before the last reply, which a common
prefix of the two texts is not where both replies begin alike. Rows with several human turns, and rows whose two
dialogues differ before the last reply, are left out and counted.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from mallowspo.data.sources import load_preferences
from mallowspo.files import write_text
from mallowspo.studies.dialogue.data import TURN, split_text


def single_turns(source: str, split: str) -> tuple[list[dict[str, str]], int]:
    """The rows with one human turn, and how many others there were."""
    rows, read = [], 0
    for row in load_preferences(source, split=split).dataset:
        read += 1
        (prompt, chosen), (other, rejected) = split_text(row["chosen"]), split_text(row["rejected"])
        if prompt == other and prompt.count(TURN) == 1:
            rows.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    return rows, read - len(rows)


def lines_of(rows: list[dict[str, str]]) -> str:
    """Rows as JSON lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def main(source: str, folder: str, splits: tuple[str, ...] = ("train", "test")) -> None:
    """Write one file a split, and the first split once more for the SFT."""
    for split in splits:
        rows, others = single_turns(source, split)
        write_text(Path(folder) / f"{split}.jsonl", lines_of(rows))
        if split == splits[0]:
            completions = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in rows]
            write_text(Path(folder) / "sft/train.jsonl", lines_of(completions))
        sys.stdout.write(f"{folder}/{split}.jsonl: {len(rows)} rows; {others} others left out\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
