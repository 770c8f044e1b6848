"""Stack tokenised pairs into the batch that TRL's trainer expects, with the columns that a MallowsPO loss reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mallowspo.data.annotations import LOSS_COLUMNS
from mallowspo.errors import InputError

__all__ = ["EXTRA_COLUMNS", "PreferenceCollator"]

EXTRA_COLUMNS = (*LOSS_COLUMNS, "dispersion_raw", "dispersion_index", "row_index")
"""Columns of ours that reach the batch where the data has them; all but `row_index` are float32."""


@dataclass
class PreferenceCollator:
    """TRL's `DataCollatorForPreference`, plus one tensor of shape (B,) for each of `EXTRA_COLUMNS` in the data.

    The first half of `input_ids`, `attention_mask` and `completion_mask` is the chosen responses, the second the
    rejected ones, shape (2B, T). `ref_chosen_logps` and `ref_rejected_logps` are TRL's own, shape (B,), in nats.

    Args:
        pad_token_id: Fills up `input_ids`; the masks tell by position what is padding.
        max_length: Tokens to keep of each prompt and response together, or None for all.
        truncation_mode: `keep_start` or `keep_end`.
        pad_to_multiple_of: Round T up to a multiple of this.
        return_tensors: Only `pt`.

    Example:
        >>> rows = [{"prompt_ids": [1, 2], "chosen_ids": [3], "rejected_ids": [4, 5], "row_index": 7, "margin": 0.5}]
        >>> batch = PreferenceCollator(pad_token_id=0)(rows)
        >>> batch["input_ids"].tolist(), batch["margin"].tolist(), batch["row_index"].tolist()
        ([[1, 2, 3, 0], [1, 2, 4, 5]], [0.5], [7])
    """

    pad_token_id: int
    max_length: int | None = None
    truncation_mode: str = "keep_start"
    pad_to_multiple_of: int | None = None
    return_tensors: str = "pt"
    _inner: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        from trl.trainer.dpo_trainer import DataCollatorForPreference

        self._inner = DataCollatorForPreference(
            pad_token_id=self.pad_token_id,
            max_length=self.max_length,
            truncation_mode=self.truncation_mode,
            pad_to_multiple_of=self.pad_to_multiple_of,
            return_tensors=self.return_tensors,
        )

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Stack the examples; raises `InputError` where some of them lack a column that others have."""
        import torch

        batch: dict[str, Any] = self._inner(examples)
        exact = torch.float32 if torch.backends.mps.is_available() else torch.float64  # MPS has no float64
        for name in ("ref_chosen_logps", "ref_rejected_logps"):
            if name in batch:
                # TRL rounds them to float32, which at -500 nats is an error of 3e-5 in the gap.
                batch[name] = torch.tensor([example[name] for example in examples], dtype=exact)
        for name in EXTRA_COLUMNS:
            values = [example.get(name) for example in examples]
            if all(value is None for value in values):
                continue
            if any(value is None for value in values):
                row = examples[values.index(None)].get("row_index", values.index(None))
                raise InputError(f"column {name!r}: row {row + 1:,} has no value, others have one")
            # float32 whatever the model's dtype: bfloat16 would lose the weights. A beta of the data is that of the
            # options, digit for digit.
            kinds = {"row_index": torch.long, "beta": exact, "loss_weight": exact}
            batch[name] = torch.tensor(values, dtype=kinds.get(name, torch.float32))
        return batch
