"""The batch is TRL's own, with our columns beside it."""

from __future__ import annotations

import pytest
import torch
from trl.trainer.dpo_trainer import DataCollatorForPreference

from mallowspo.data.collation import EXTRA_COLUMNS, PreferenceCollator
from mallowspo.errors import InputError

ROWS = [
    {"prompt_ids": [1, 2, 3], "chosen_ids": [4, 5], "rejected_ids": [6], "ref_chosen_logps": -1.5},
    {"prompt_ids": [7], "chosen_ids": [9], "rejected_ids": [10, 11], "ref_chosen_logps": -2.5},
]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_length": 4},
        {"max_length": 4, "truncation_mode": "keep_end"},
        {"pad_to_multiple_of": 8},
    ],
)
def test_without_extra_columns_the_batch_is_trls(options):
    theirs = DataCollatorForPreference(pad_token_id=0, **options)(ROWS)
    ours = PreferenceCollator(pad_token_id=0, **options)(ROWS)
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name].to(theirs[name].dtype), theirs[name]) for name in theirs)


def test_extra_columns_are_stacked():
    rows = [
        {**row, **{name: i + 0.25 for name in EXTRA_COLUMNS}, "row_index": 2**40 + i} for i, row in enumerate(ROWS)
    ]
    batch = PreferenceCollator(pad_token_id=0)(rows)
    for name in EXTRA_COLUMNS:
        assert batch[name].shape == (2,)
    assert batch["row_index"].tolist() == [2**40, 2**40 + 1]
    for name in ("beta", "loss_weight"):
        assert batch[name].dtype == torch.float64  # of the data digit for digit
    for name in set(EXTRA_COLUMNS) - {"row_index", "beta", "loss_weight"}:
        assert batch[name].dtype == torch.float32
        assert batch[name].tolist() == [0.25, 1.25]


def test_reference_log_probabilities_keep_their_digits():
    rows = [{**row, "ref_chosen_logps": -500.123456789, "ref_rejected_logps": -400.0} for row in ROWS]
    assert PreferenceCollator(pad_token_id=0)(rows)["ref_chosen_logps"].tolist() == [-500.123456789] * 2


def test_whole_numbers_become_floats_and_other_columns_are_left_out():
    batch = PreferenceCollator(pad_token_id=0)([{**row, "margin": 1, "prompt_id": "x"} for row in ROWS])
    assert batch["margin"].dtype == torch.float32
    assert "prompt_id" not in batch


def test_a_missing_value_is_named():
    rows = [{**ROWS[0], "margin": 1.0, "row_index": 6998}, {**ROWS[1], "margin": None, "row_index": 6999}]
    with pytest.raises(InputError, match="column 'margin': row 7,000 has no value"):
        PreferenceCollator(pad_token_id=0)(rows)


def test_padding_by_position_keeps_an_eos_that_is_also_the_pad():
    rows = [{"prompt_ids": [1], "chosen_ids": [5, 2], "rejected_ids": [6, 7, 8, 2]}]
    batch = PreferenceCollator(pad_token_id=2)(rows)
    assert batch["input_ids"].tolist() == [[1, 5, 2, 2, 2], [1, 6, 7, 8, 2]]
    assert batch["completion_mask"].tolist() == [[0, 1, 1, 0, 0], [0, 1, 1, 1, 1]]
