"""Stack tokenised pairs into the batch that TRL's trainer expects, with the columns that a MallowsPO loss reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mallowspo.data.annotations import LOSS_COLUMNS
from mallowspo.data.records import PLACES_COLUMN, RANKS_COLUMN
from mallowspo.errors import InputError

__all__ = ["EXTRA_COLUMNS", "LIST_KEY", "PreferenceCollator"]

LIST_KEY = "list"
"""Under which an example of a run that reads ranked lists holds the rows of its list."""

EXTRA_COLUMNS = (*LOSS_COLUMNS, "dispersion_raw", "dispersion_index", "row_index")
"""Columns of ours that reach the batch where the data has them; all but `row_index` are floats."""


@dataclass
class PreferenceCollator:
    """TRL's `DataCollatorForPreference`, plus one tensor of shape (B,) for each of `EXTRA_COLUMNS` in the data."""

    # The first half of `input_ids` and the masks (2B, T) is the chosen responses, the second the rejected ones;
    # `ref_chosen_logps` and `ref_rejected_logps` are TRL's own, shape (B,), in nats.

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

        of_list: list[int] | None = None
        if examples and LIST_KEY in examples[0]:
            of_list = [number for number, example in enumerate(examples) for _ in example[LIST_KEY]]
            examples = [row for example in examples for row in example[LIST_KEY]]
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
        if of_list is not None:
            batch["list_b"] = torch.tensor(of_list)
            for name in (PLACES_COLUMN, RANKS_COLUMN):
                batch[name] = torch.tensor([example[name] for example in examples])
        return batch
