"""Columns of the data that change the loss of their row: beta and loss_weight, for every objective."""

import numpy as np
import pytest
import torch
from pairs import build, history, trained
from trl.trainer.dpo_trainer import DataCollatorForPreference

from mallowspo.errors import InputError
from mallowspo.objectives import OBJECTIVES
from mallowspo.training.description import run_table_rows

PAIRS = [name for name, objective in OBJECTIVES.items() if not objective.reads_lists]


def with_columns(rows, **columns):
    for name, values in columns.items():
        rows = rows.add_column(name, [values] * len(rows) if isinstance(values, float) else list(values))
    return rows


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("objective", PAIRS)
def test_one_beta_in_every_row_is_the_options_beta(random_setting, tmp_path, objective, packed):
    changes = {"objective": objective, "max_steps": 2, "share_prompts": packed}
    by_option = trained(random_setting, tmp_path, beta=0.7, **changes)
    by_column = trained(random_setting, tmp_path, with_columns(random_setting.rows, beta=0.7), beta=0.1, **changes)
    for name in ("loss", "grad_norm", "rewards/margins"):
        assert history(by_column, name) == pytest.approx(history(by_option, name), rel=1e-6)


def evaluated(setting, folder, rows, **changes):
    """Loss of a set of rows after two steps on others, at a rate that moves the policy off its reference."""
    run = trained(setting, folder, eval_dataset=rows, max_steps=2, learning_rate=5e-3, **changes)
    return run.evaluate()["eval_loss"]


@pytest.mark.parametrize("objective", ["dpo", "mallows_theta", "mallows_phi", "mallows_ipo", "simpo", "hinge"])
def test_a_mixture_is_the_mean_of_its_parts(random_setting, tmp_path, objective):
    """Half of the rows at one beta, half at another: each row has the loss that it has at its own beta alone."""
    rows = random_setting.rows.select(range(12))
    halves = rows.select(range(6)), rows.select(range(6, 12))
    changes = {"objective": objective, "per_device_eval_batch_size": 5}
    # Training rows have no column here: evaluation reads its own.
    apart = [
        evaluated(random_setting, tmp_path, with_columns(half, beta=beta), **changes)
        for half, beta in zip(halves, (0.05, 2.0), strict=True)
    ]
    mixed = evaluated(random_setting, tmp_path, with_columns(rows, beta=[0.05] * 6 + [2.0] * 6), **changes)
    assert mixed == pytest.approx(np.mean(apart), rel=1e-5) and apart[0] != pytest.approx(apart[1], rel=1e-3)


def test_loss_weights_are_one_weighted_mean_over_the_batch_however_it_is_cut(random_setting, tmp_path):
    """Accumulated, packed and padded: weights of mean 1 over the training rows, and rows of weight 0 teach nothing."""
    rows = with_columns(random_setting.rows.select(range(16)), loss_weight=[3.0, 0.0, 1.0, 0.5] * 4)
    changes = {"objective": "mallows_theta", "max_steps": 2}
    whole = trained(random_setting, tmp_path, rows, per_device_train_batch_size=8, **changes)
    assert whole.loss_weight_scale == pytest.approx(1 / 1.125)
    for cut in (
        {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
        {"per_device_train_batch_size": 8, "share_prompts": False},
    ):
        other = trained(random_setting, tmp_path, rows, **cut, **changes)
        for name in ("loss", "grad_norm"):
            assert history(other, name) == pytest.approx(history(whole, name), rel=1e-4)
    assert history(whole, "loss_weight")[0] != 1.0  # of the batch; over all rows it is 1


def test_a_loss_weight_multiplies_the_loss_of_its_row(random_setting, tmp_path):
    rows = random_setting.rows.select(range(8))
    weights = [4.0, 0.0, 1.0, 1.0, 2.0, 0.0, 0.0, 0.0]
    changes = {"objective": "dpo", "per_device_eval_batch_size": 3}
    single = [evaluated(random_setting, tmp_path, rows.select([i]), **changes) for i in range(8)]
    run = trained(
        random_setting, tmp_path, with_columns(random_setting.rows, loss_weight=2.0),
        eval_dataset=with_columns(rows, loss_weight=weights), max_steps=2, learning_rate=5e-3, **changes,
    )  # fmt: skip
    # The training rows' mean is 2: a weight of 2 counts once.
    assert run.evaluate()["eval_loss"] == pytest.approx(np.mean(np.array(weights) / 2 * single), rel=1e-5)


def test_equal_loss_weights_change_nothing(random_setting, tmp_path):
    plain = trained(random_setting, tmp_path, max_steps=2)
    weighed = trained(random_setting, tmp_path, with_columns(random_setting.rows, loss_weight=7.0), max_steps=2)
    assert history(weighed, "loss") == pytest.approx(history(plain, "loss"), rel=1e-6)


def test_the_run_table_says_what_a_column_does(random_setting, tmp_path):
    values = np.linspace(0.1, 0.4, len(random_setting.rows))
    run = build(
        random_setting, tmp_path, with_columns(random_setting.rows, beta=values, loss_weight=values), max_steps=1
    )
    table = dict(
        run_table_rows(
            run.settings, run.splits, run.reference_sources, run.scoring, run.calibration,
            rows=len(run.train_dataset), remarks=run.remarks,
        )
    )  # fmt: skip
    assert "0.1 to 0.4" in table["column beta"] and "mean 0.25" in table["column loss_weight"]


@pytest.mark.parametrize("column", ["beta", "loss_weight"])
def test_a_column_that_cannot_be_honoured_is_refused_by_name(random_setting, tmp_path, column):
    rows = random_setting.rows
    for wrong in (-1.0, float("nan")) if column == "loss_weight" else (0.0, float("inf")):
        with pytest.raises(InputError, match=f"bad_{column}"):
            build(random_setting, tmp_path, with_columns(rows, **{column: [1.0] * (len(rows) - 1) + [wrong]}))
    if column == "loss_weight":
        with pytest.raises(InputError, match="loss_weight"):
            build(random_setting, tmp_path, with_columns(rows, loss_weight=0.0))
    with pytest.raises(InputError, match=column):
        collator = DataCollatorForPreference(pad_token_id=0)
        build(random_setting, tmp_path, with_columns(rows, **{column: 1.0}), objective="dpo", data_collator=collator)


@pytest.mark.parametrize("column", ["beta", "loss_weight"])
def test_a_run_does_not_go_on_with_other_values(random_setting, tmp_path, column):
    values = np.linspace(0.5, 1.5, len(random_setting.rows))
    changes = {"objective": "dpo", "save_strategy": "steps", "save_steps": 1}
    trained(random_setting, tmp_path, with_columns(random_setting.rows, **{column: values}), max_steps=1, **changes)
    other = build(
        random_setting, tmp_path, with_columns(random_setting.rows, **{column: values[::-1]}), max_steps=2, **changes
    )
    with pytest.raises(InputError, match="other training rows"):
        other.train(resume_from_checkpoint=True)


def test_the_public_loss_takes_one_beta_a_pair():
    from mallowspo.objectives import pairwise_loss

    logps = [torch.tensor([-1.0, -2.0]), torch.tensor([-2.0, -1.0]), torch.zeros(2), torch.zeros(2)]
    both = pairwise_loss(*logps, objective="dpo", beta=torch.tensor([0.5, 2.0]))
    for place, beta in enumerate((0.5, 2.0)):
        torch.testing.assert_close(both[place], pairwise_loss(*logps, objective="dpo", beta=beta)[place])
    with pytest.raises(InputError, match="beta"):
        pairwise_loss(*logps, objective="dpo", beta=torch.tensor([0.5, -2.0]))
