"""A base model and dialogues small enough for a test, in the forms that the dialogue study reads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tiny import save_tiny

WORDS = "one two three four five six seven eight nine ten".split()


def dialogue_rows(count, seed=0, turns=1):
    """Questions whose good answers are preferred in nine of ten rows; every third dialogue has a second turn."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        topic = " ".join(rng.choice(WORDS, 3))
        prompt = f"\n\nHuman: what is {topic} {number % 40}?\n\nAssistant:"
        if turns > 1 and number % 3 == 0:
            prompt += " yes\n\nHuman: maybe no?\n\nAssistant:"
        answers = [f" good {rng.choice(WORDS)}", f" bad {' '.join(rng.choice(WORDS, rng.integers(1, 4)))}"]
        if rng.random() < 0.1:
            answers.reverse()
        rows.append({"prompt": prompt, "chosen": answers[0], "rejected": answers[1]})
    return rows


def write_lines(path: Path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def votes(count):
    """Answers on which three people voted; every fifth row is a tie."""
    rng = np.random.default_rng(9)
    return [
        {
            "instruction": f"what is {rng.choice(WORDS)} {number}?",
            "input": "",
            "response1": "good one",
            "response2": "bad two",
            "annotator1": 1,
            "annotator2": 0 if number % 5 == 0 else 1 + number % 2,
            "annotator3": 2 if number % 5 == 0 else 1,
        }
        for number in range(count)
    ]


def dialogue_world(folder: Path) -> dict[str, str]:
    """Write model and data.

    Returns:
        Field of `DialogueSetup` -> path.
    """
    (folder / "votes.json").write_text(json.dumps(votes(20)), encoding="utf-8")
    return {
        "model_name_or_path": str(save_tiny(folder / "model")),
        "train_data": write_lines(folder / "train.jsonl", dialogue_rows(90, seed=1, turns=2)),
        "test_data": write_lines(folder / "test.jsonl", dialogue_rows(20, seed=2)),
        "ood_data": write_lines(folder / "ood.jsonl", dialogue_rows(20, seed=3)),
        "votes_data": str(folder / "votes.json"),
    }
