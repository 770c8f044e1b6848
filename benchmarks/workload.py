"""What the benchmarks train: random Llamas on random words of given lengths, and a real model on real dialogues."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"

# Random Llamas. A's work is in the head, C's in the layers, as in a model of some billion parameters.
MODELS: dict[str, dict[str, Any]] = {
    "A": {"hidden_size": 288, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 6,
          "num_key_value_heads": 6, "vocab_size": 32000, "tie_word_embeddings": True},
    "C": {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8, "num_attention_heads": 8,
          "num_key_value_heads": 8, "vocab_size": 4096, "tie_word_embeddings": True},
}  # fmt: skip

REGIMES = {"a": (384, 96), "b": (128, 128), "c": (32, 256)}
"""Mean tokens of a prompt and of a response; lengths are lognormal."""

REAL_MODEL, REAL_REGIME = "stories-3m", "hh"
"""A pretrained model of 3.3 million parameters on Anthropic's helpful dialogues, from `../shared`."""

PAIRS = 8
WORDS = 2000


def lengths(regime: tuple[int, int] | str, count: int) -> list[tuple[int, int, int]]:
    """Tokens of prompt, chosen and rejected response of each pair; the same for every arm."""
    import numpy as np

    rng = np.random.default_rng(7)
    prompt, response = REGIMES[regime] if isinstance(regime, str) else regime

    def draw(mean: int) -> int:
        # A lognormal with sigma 0.4 has the mean exp(0.08) times its median.
        return int(np.clip(rng.lognormal(np.log(mean) - 0.08, 0.4), 2, 4 * mean))

    return [(draw(prompt), draw(response), draw(response)) for _ in range(count)]


def write_tokenizer(folder: Path) -> None:
    """A tokenizer of one word a token, so that lengths are what they are drawn to be."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<eos>": 1} | {f"w{i}": i for i in range(2, WORDS)}
    core = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", pad_token="<pad>").save_pretrained(folder)


def prepare(folder: Path, shape: dict[str, Any] | str) -> None:
    """Write the model, and a tokenizer to it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    write_tokenizer(folder)
    torch.manual_seed(0)
    given = MODELS[shape] if isinstance(shape, str) else shape
    config = LlamaConfig(**given, max_position_embeddings=4096, pad_token_id=0, eos_token_id=1, bos_token_id=1)
    LlamaForCausalLM(config).save_pretrained(folder)


def dataset(regime: tuple[int, int] | str, count: int) -> Any:
    """Random words, as text: both trainers tokenise it themselves. For `hh` the first dialogues that fit."""
    from datasets import Dataset

    if regime == REAL_REGIME:
        return Dataset.from_list(_dialogues(count))
    words = _words()
    return Dataset.from_list(
        [{"prompt": words(p), "chosen": words(c - 1), "rejected": words(r - 1)} for p, c, r in lengths(regime, count)]
    )


def ranked_lists(regime: tuple[int, int], count: int, responses: int) -> Any:
    """Prompts with K ranked responses each."""
    from datasets import Dataset

    words = _words()
    drawn = lengths(regime, count * responses)
    return Dataset.from_list(
        [
            {
                "prompt": words(drawn[i * responses][0]),
                "responses": [words(drawn[i * responses + k][1] - 1) for k in range(responses)],
                "ranks": list(range(1, responses + 1)),
            }
            for i in range(count)
        ]
    )


def _words() -> Any:
    import numpy as np

    rng = np.random.default_rng(11)
    return lambda tokens: "".join(f" w{i}" for i in rng.integers(2, WORDS, tokens))


def _dialogues(count: int, max_length: int = 512) -> list[dict[str, str]]:
    """Rows of the HH data whose prompt and responses fit the model's context whole."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(SHARED / "models" / REAL_MODEL)
    rows: list[dict[str, str]] = []
    with gzip.open(SHARED / "data/hh/helpful_train.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            row = {name: json.loads(line)[name] for name in ("prompt", "chosen", "rejected")}
            sizes = [len(tokenizer(row["prompt"] + row[side])["input_ids"]) + 1 for side in ("chosen", "rejected")]
            if max(sizes) <= max_length:
                rows.append(row)
            if len(rows) == count:
                return rows
    raise ValueError(f"only {len(rows)} dialogues fit {max_length} tokens, {count} are needed")


def real_lengths(count: int) -> list[tuple[int, int, int]]:
    """Tokens of the first dialogues, as `lengths` gives them for random words."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(SHARED / "models" / REAL_MODEL)
    found = []
    for row in _dialogues(count):
        prompt, *whole = (
            len(tokenizer(row["prompt"] + side)["input_ids"]) for side in ("", row["chosen"], row["rejected"])
        )
        found.append((prompt, *(size + 1 - prompt for size in whole)))
    return found
