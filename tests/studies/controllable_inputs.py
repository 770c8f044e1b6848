"""A tiny classifier and a few texts on disk, for the tests of the controllable-generation study."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from tiny import tiny_tokenizer

WHO = ("a little girl", "the brown fox", "a lazy dog", "the misty pond", "a big wizard", "the dark house")
DID = ("lived near", "jumps over", "boils", "can help", "vexed", "knows", "is fine in")
WHAT = ("the water", "a small forest", "the best rice", "seven wizards", "the big box")


def write_texts(path: Path) -> Path:
    """Write 210 different lines, a third of which begin with 'Once'."""
    starts = ("Once", "Then", "Today")
    combinations = [(who, did, what) for who in WHO for did in DID for what in WHAT]
    lines = [
        f"{starts[i % 3]} {who} {did} {what} and the rest of the day."
        for i, (who, did, what) in enumerate(combinations)
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_classifier(folder: Path, labels: tuple[str, ...] = ("NEGATIVE", "POSITIVE")) -> Path:
    """Save a tiny random sequence classifier with its tokenizer."""
    tiny_tokenizer().save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=128,
        pad_token_id=0,
        initializer_range=0.2,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        LlamaForSequenceClassification(config).save_pretrained(folder)
    return folder
