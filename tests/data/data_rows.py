"""Rows without a fault, to plant faults in, and files of them in every format; imported by the tests of data."""

import csv
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

WORDS = ["good", "bad", "yes", "no", "maybe", "one", "two", "three", "four", "five", "six", "seven"]


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def pair(prompt="The sky is", chosen=" blue.", rejected=" green.", **more):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


def chat(prompt="hello", chosen="good", rejected="bad", **more):
    return pair([user(prompt)], [assistant(chosen)], [assistant(rejected)], **more)


def clean_rows(n=40):
    """HH-like text rows: each prompt once, responses unlike, the longer one chosen in every other row."""
    rows = []
    for i in range(n):
        long = " " + " ".join(WORDS[(i + j) % 6] for j in range(6)) + f" {i} yes."
        short = " " + " ".join(WORDS[6 + (i + j) % 6] for j in range(3)) + f" {i} no."
        prompt = f"\n\nHuman: question number {i}, what now?\n\nAssistant:"
        rows.append(pair(prompt, *((long, short) if i % 2 else (short, long))))
    return rows


def as_chat(rows):
    return [row | chat(*(row[name].strip() for name in ("prompt", "chosen", "rejected"))) for row in rows]


def write(path, rows):
    """Write rows in the format that the name asks for; without a suffix as `datasets` saves them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    packed = path.name.endswith(".gz")
    form = path.name.removesuffix(".gz").rpartition(".")[2]
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
    elif form == "csv":
        names = list(dict.fromkeys(name for row in rows for name in row))
        opened = gzip.open if packed else open
        with opened(path, "wt", newline="", encoding="utf-8", errors="replace") as stream:
            csv.writer(stream).writerows([names, *([row.get(name, "") for name in names] for row in rows)])
    elif form in ("json", "jsonl", "ndjson"):
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        raw = (f"[{', '.join(lines)}]" if form == "json" else "".join(f"{line}\n" for line in lines)).encode()
        path.write_bytes(gzip.compress(raw) if packed else raw)
    else:
        Dataset.from_list(rows).save_to_disk(path)
    return path


def empty_tokenizer():
    """What comes of a folder that holds no files of a tokenizer: it makes no token of a text."""
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), eos_token="</s>", pad_token="</s>")
