"""Rows without a fault, to plant faults in; imported by the tests of the linter."""

import json

WORDS = ["good", "bad", "yes", "no", "maybe", "one", "two", "three", "four", "five", "six", "seven"]


def clean_rows(n=40):
    """HH-like text rows: each prompt once, responses unlike, the longer one chosen in every other row."""
    rows = []
    for i in range(n):
        long = " " + " ".join(WORDS[(i + j) % 6] for j in range(6)) + f" {i} yes."
        short = " " + " ".join(WORDS[6 + (i + j) % 6] for j in range(3)) + f" {i} no."
        chosen, rejected = (long, short) if i % 2 else (short, long)
        prompt = f"\n\nHuman: question number {i}, what now?\n\nAssistant:"
        rows.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    return rows


def as_chat(rows):
    return [
        {
            "prompt": [{"role": "user", "content": row["prompt"].strip()}],
            "chosen": [{"role": "assistant", "content": row["chosen"].strip()}],
            "rejected": [{"role": "assistant", "content": row["rejected"].strip()}],
        }
        for row in rows
    ]


def write_lines(path, rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path
