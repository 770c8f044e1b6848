"""A tiny reference and its data, for the tests of the store."""

from __future__ import annotations

from typing import Any

import torch
from datasets import Dataset

from mallowspo.compat import add_score_head
from mallowspo.data import PreferenceCollator
from mallowspo.scoring import ReferenceKey, model_fields, rows_key, score_padded, score_rows, tokenizer_fields
from tiny import tiny_llama, tiny_tokenizer


def token_rows(count: int, seed: int = 0) -> Dataset:
    """Rows of token ids: prompts of 2 to 9 tokens, responses of 1 to 12 that begin alike in half of the rows."""
    draw = torch.Generator().manual_seed(seed)

    def ids(low: int, high: int) -> list[int]:
        length = int(torch.randint(low, high, (1,), generator=draw))
        return torch.randint(6, 300, (length,), generator=draw).tolist()

    rows = []
    for i in range(count):
        common = ids(1, 4) if i % 2 else []
        rows.append(
            {
                "prompt_ids": ids(2, 10),
                "chosen_ids": [*common, *ids(1, 8), 2],
                "rejected_ids": [*common, *ids(1, 8), 2],
                "row_index": 3 * i,
                "prompt_id": f"p{i // 2}",
            }
        )
    return Dataset.from_list(rows)


class TinyReference:
    """A random Llama, its tokenizer, and what `write_store` needs of them."""

    def __init__(self, **config: Any) -> None:
        self.tokenizer = tiny_tokenizer()
        self.model = tiny_llama(vocab_size=400, **config)
        self.fields = model_fields(self.model) | tokenizer_fields(self.tokenizer)
        add_score_head(self.model)
        self.rows_scored = 0

    def key(self, rows: Dataset, **changes: Any) -> ReferenceKey:
        """The key of these rows."""
        fixed = {"mixed_precision": "no", "max_length": 64, "truncation_mode": "keep_start"}
        return ReferenceKey(**(self.fields | fixed | rows_key(rows) | changes))

    def forward(self, batch: Any) -> Any:
        """Scores of one batch."""
        with torch.no_grad():
            return score_padded(self.model, batch, per_token=True)

    def score(self, rows: Dataset, batch_size: int = 4, per_token: bool = False) -> Any:
        """Scores of rows."""
        self.rows_scored += len(rows)
        collate = PreferenceCollator(pad_token_id=0, max_length=64)
        return score_rows(rows, forward=self.forward, collate=collate, batch_size=batch_size, per_token=per_token)
