"""Every index and map that the configuration lists trains, and evaluation rows get the map of the training rows."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from pairs import build, real_pairs
from scipy.stats import rankdata

from mallowspo.dispersion import ESTIMATORS, fit_shrink
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


# Tempered and shrunken weights.


@pytest.mark.parametrize(
    ("weighed", "plain"),
    [("mallows_theta", "dpo"), ("mallows_ipo", "ipo"), ("mallows_norm", "dpo_norm"), ("mallows_simpo", "simpo")],
)
def test_a_power_of_zero_is_the_objective_without_weights(random_setting, tmp_path, weighed, plain):
    tempered = build(random_setting, tmp_path, objective=weighed, dispersion_power=0.0, max_steps=3)
    tempered.train()
    without = build(random_setting, tmp_path, objective=plain, precompute_ref_log_probs=True, max_steps=3)
    without.train()
    losses = [[entry["loss"] for entry in run.state.log_history if "loss" in entry] for run in (tempered, without)]
    assert losses[0] == losses[1] and len(losses[0]) == 3


def test_a_power_of_zero_gives_the_kendall_link_one_phi_for_all(random_setting, tmp_path):
    run = build(random_setting, tmp_path, objective="mallows_phi", dispersion_power=0.0, max_steps=1)
    assert run.calibration.weight(run.train_dataset["dispersion_raw"]).tolist() == [1.0] * len(run.train_dataset)


@pytest.mark.parametrize("objective", ["mallows_theta", "mallows_phi"])
def test_the_weight_is_shrunken_then_tempered_then_scaled_then_clipped(random_setting, tmp_path, objective):
    run = build(
        random_setting, tmp_path, objective=objective, dispersion_shrink=5.0, dispersion_power=0.5,
        dispersion_clip=[0.2, 1.3], dispersion_per="pair", max_steps=1,
    )  # fmt: skip
    raw = np.array(run.train_dataset["dispersion_raw"])
    spread = np.sqrt(raw.mean() * np.maximum(0, 1 + 5 * (raw / raw.mean() - 1)))
    expected = np.clip(run.calibration.scale * spread, 0.2, 1.3)
    assert run.calibration.weight(raw) == pytest.approx(expected) and expected.mean() == pytest.approx(1.0)
    run.train()
    logged = [entry["dispersion/weight_mean"] for entry in run.state.log_history if "loss" in entry]
    order = run.calibration.weight(raw)
    assert min(order) <= logged[0] <= max(order)


def voted(rows, folder, *, agreed=lambda row, place: place % 2 == 0):
    """A file of eight votes on each of the rows, unanimous where people agree on its prompt and else in halves."""
    seen, lines = {}, []
    for row in rows:
        place = seen.setdefault(row["prompt"], len(seen))
        lines.append(json.dumps(row | {"votes": [8, 0] if agreed(row, place) else [4, 4]}) + "\n")
    file = Path(folder) / "votes.jsonl"
    file.write_text("".join(lines))
    return file


def test_votes_on_the_prompts_fit_the_shrink_factor(random_setting, tmp_path):
    rows = random_setting.rows
    file = voted(rows, tmp_path)
    run = build(
        random_setting, tmp_path, dispersion_shrink="votes", dispersion_votes=str(file), save_strategy="steps",
        save_steps=1, max_steps=1,
    )  # fmt: skip
    raw, names = np.array(run.train_dataset["dispersion_raw"]), run.train_dataset["prompt_id"]
    votes = [json.loads(line)["votes"] for line in file.read_text().splitlines()]
    fit = fit_shrink(raw, [v[0] for v in votes], [v[1] for v in votes], prompt_n=names[:])
    assert run.calibration.shrink == pytest.approx(fit.shrink.mean, rel=1e-6)
    run.train()
    saved = json.loads((tmp_path / "checkpoint-1" / "mallowspo.json").read_text())["calibration"]
    assert saved["shrink"] == run.calibration.shrink
    with pytest.raises(InputError, match="shrink"):
        build(random_setting, tmp_path, dispersion_shrink=0.25, max_steps=2).train(resume_from_checkpoint=True)


def test_a_filter_leaves_the_factor_that_is_fitted_about_the_mean_of_what_stays(random_setting, tmp_path):
    file = voted(random_setting.rows, tmp_path)
    whole = build(random_setting, tmp_path, max_steps=1).train_dataset
    run = build(
        random_setting, tmp_path, dispersion_shrink="votes", dispersion_votes=str(file), dispersion_filter=[0.0, 0.6],
        max_steps=1,
    )  # fmt: skip
    kept = np.array(run.train_dataset["dispersion_raw"])
    assert len(kept) < len(whole)
    votes = [json.loads(line)["votes"] for line in file.read_text().splitlines()]
    fit = fit_shrink(
        np.array(whole["dispersion_raw"]), [v[0] for v in votes], [v[1] for v in votes],
        prompt_n=whole["prompt_id"][:], mean=kept.mean(),
    )  # fmt: skip
    assert run.calibration.shrink == pytest.approx(fit.shrink.mean, rel=1e-6)
    assert run.calibration.raw_mean == pytest.approx(kept.mean())


def test_votes_on_the_prompts_fit_the_isotonic_map(random_setting, tmp_path):
    plain = build(random_setting, tmp_path, max_steps=1).train_dataset
    index = dict(zip(random_setting.rows["prompt"], plain["dispersion_index"], strict=True))
    middle = np.median(list(index.values()))
    file = voted(random_setting.rows, tmp_path, agreed=lambda row, place: index[row["prompt"]] < middle)
    run = build(random_setting, tmp_path, dispersion_map="isotonic", dispersion_votes=str(file), max_steps=1)
    # phi = (1 - p)/p of the smoothed majority: p is 8.5/9 where people agree, 1/2 elsewhere.
    expected = np.where(np.array(run.train_dataset["dispersion_index"]) < middle, 2 * np.log(8.5 / 0.5), 0.0)
    assert np.array(run.train_dataset["dispersion_raw"]) == pytest.approx(expected)


def test_votes_on_other_prompts_are_refused(random_setting, tmp_path):
    rows = [row | {"prompt": "Another question? " + row["prompt"]} for row in random_setting.rows]
    file = voted(rows, tmp_path)
    with pytest.raises(InputError, match="dispersion_shrink"):
        build(random_setting, tmp_path, dispersion_shrink="votes", dispersion_votes=str(file))
    with pytest.raises(InputError, match="dispersion_votes"):
        build(random_setting, tmp_path, dispersion_shrink="votes", dispersion_votes=str(tmp_path / "none.jsonl"))


def test_auto_reads_the_number_of_alternatives_off_the_reference(random_setting, tmp_path):
    run = build(
        random_setting, tmp_path, dispersion_estimator="divergent_token", dispersion_map="mallows",
        dispersion_alternatives="auto",
    )  # fmt: skip
    nats = np.array(run.train_dataset["dispersion_index"]) * run.calibration.index_map["unit"]
    taken = run.calibration.index_map["alternatives"]
    assert np.log(taken - 1) < np.quantile(nats, 0.95) <= np.log(taken)


def test_votes_that_fit_nothing_are_refused_by_the_option_that_named_them(random_setting, tmp_path):
    """People who are split on every prompt, and too few of them."""
    tied, few = tmp_path / "tied", tmp_path / "few"
    tied.mkdir()
    few.mkdir()
    with pytest.raises(InputError, match="^dispersion_shrink: "):
        build(random_setting, tmp_path, dispersion_shrink="votes", dispersion_map="isotonic",
              dispersion_votes=str(voted(random_setting.rows, tied, agreed=lambda row, place: False)))  # fmt: skip
    with pytest.raises(InputError, match="^dispersion_votes: "):
        build(random_setting, tmp_path, dispersion_shrink="votes",
              dispersion_votes=str(voted(list(random_setting.rows)[:5], few)))  # fmt: skip
    with pytest.raises(InputError, match="^dispersion_votes: (?!dataset)"):
        build(random_setting, tmp_path, dispersion_shrink="votes", dispersion_votes=str(tmp_path / "none.jsonl"))
