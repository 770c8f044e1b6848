"""Every index and map that the configuration lists trains, and evaluation rows get the map of the training rows."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from pairs import build, real_pairs
from scipy.stats import rankdata

from mallowspo.dispersion import ESTIMATORS
from mallowspo.dispersion.panel import neg_log_phi_from_choice_entropy
from mallowspo.errors import InputError


@pytest.mark.parametrize("estimator", sorted(set(ESTIMATORS) - {"answer_entropy", "panel"}))
def test_every_estimator_feeds_the_weight(random_setting, tmp_path, estimator):
    run = build(random_setting, tmp_path, dispersion_estimator=estimator, max_steps=1)
    rows = run.train_dataset
    assert run.calibration.estimator == estimator and run.calibration.weight_mean == pytest.approx(1.0)
    raw = -np.log(np.array(rows["dispersion_index"]))
    assert np.array(rows["dispersion_raw"]) == pytest.approx(raw)
    if estimator == "reference_margin":
        margin = np.abs(np.array(rows["ref_chosen_logps"]) - np.array(rows["ref_rejected_logps"]))
        _, group = np.unique(rows["prompt_id"], return_inverse=True)
        assert raw == pytest.approx((np.bincount(group, margin) / np.bincount(group))[group])
    assert np.isfinite(run.train().training_loss)


def test_a_panel_that_knows_nothing_is_refused(random_setting, tmp_path):
    """A random model is as uncertain as it can be: to the middle member all prompts are contested alike."""
    with pytest.raises(InputError, match="every row has raw weight 0"):
        build(random_setting, tmp_path, dispersion_estimator="panel", max_steps=1)


@pytest.mark.shared
def test_a_panel_feeds_the_weight(shared, tmp_path):
    rows = real_pairs(shared, 16, prompt=250, response=200)  # of shorter ones the panel knows next to nothing
    setting = SimpleNamespace(path=str(shared / "models/stories-260k"), rows=rows)
    run = build(setting, tmp_path, dispersion_estimator="panel", max_steps=1)
    assert run.calibration.estimator == "panel" and run.calibration.weight_mean == pytest.approx(1.0)
    raw = np.array(run.train_dataset["dispersion_raw"])
    assert len(np.unique(raw)) > 3 and (raw >= 0).all()
    assert np.isfinite(run.train().training_loss)


def test_quantile_uses_ranks_and_evaluation_rows_the_training_ranks(random_setting, tmp_path):
    rows = random_setting.rows
    run = build(
        random_setting, tmp_path, rows.select(range(15)), eval_dataset=rows.select(range(15, 30)),
        dispersion_estimator="answer_entropy", dispersion_map="quantile", dispersion_spread=[0.1, 1.1],
        dispersion_per="pair", max_steps=1,
    )  # fmt: skip
    index = np.array(run.train_dataset["dispersion_index"])
    assert index.max() > 1  # the sum, which `neglog` could not take
    raw = 2 * (1.1 - (rankdata(index) - 0.5) / len(index))
    assert np.array(run.train_dataset["dispersion_raw"]) == pytest.approx(raw)
    order = np.argsort(index)
    other = np.interp(run.eval_dataset["dispersion_index"], index[order], raw[order])
    assert np.array(run.eval_dataset["dispersion_raw"]) == pytest.approx(other)


def test_mallows_reads_phi_off_the_entropy(random_setting, tmp_path):
    run = build(
        random_setting, tmp_path, dispersion_estimator="first_token", dispersion_map="mallows",
        dispersion_alternatives=2000, dispersion_per="pair",
    )  # fmt: skip
    entropy = (np.array(run.train_dataset["ref_chosen_first_entropy"])
               + np.array(run.train_dataset["ref_rejected_first_entropy"])) / 2  # fmt: skip
    expected = 2 * neg_log_phi_from_choice_entropy(entropy, alternatives=2000)
    assert np.array(run.train_dataset["dispersion_raw"]) == pytest.approx(expected, rel=1e-6)


def test_the_map_travels_with_the_checkpoint(random_setting, tmp_path):
    changes = {"dispersion_map": "quantile", "save_strategy": "steps", "save_steps": 1}
    build(random_setting, tmp_path, max_steps=1, **changes).train()
    saved = next(Path(tmp_path).glob("checkpoint-1/mallowspo*.json"))
    assert json.loads(saved.read_text())["calibration"]["index_map"]["name"] == "quantile"
    resumed = build(random_setting, tmp_path, max_steps=2, **changes)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 2
    other = build(random_setting, tmp_path, max_steps=3, dispersion_spread=[0.5, 0.9], **changes)
    with pytest.raises(InputError, match="dispersion_spread"):
        other.train(resume_from_checkpoint=True)
