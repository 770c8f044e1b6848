"""Contradictions are refused when the configuration is built, with the way out."""

import pytest
from pairs import options

from mallowspo import MallowsPOConfig
from mallowspo.errors import InputError


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"objective": "dop"}, "objective: got 'dop', expected one of 'mallows_theta'"),
        ({"link": "logit"}, "link: got 'logit'"),
        ({"objective": "mallows_phi", "dispersion": "none"}, "got 'none' with the Kendall link"),
        ({"objective": "dpo", "link": "kendall"}, "got 'none' with the Kendall link"),
        ({"objective": "mallows_ipo", "margin": 0.5}, "the squared link has no margin"),
        ({"objective": "dpo", "margin": 0.5}, "where it has no effect"),
        ({"beta": 0.0}, "beta: got 0.0"),
        ({"beta": -1.0}, "beta: got -1.0"),
        ({"beta": float("nan")}, "beta: got nan"),
        ({"dispersion": "entropi"}, "dispersion: got 'entropi'"),
        ({"dispersion_estimator": "median"}, "dispersion_estimator: got 'median'"),
        ({"dispersion_map": "log"}, "dispersion_map: got 'log'"),
        ({"dispersion_per": "row"}, "dispersion_per: got 'row'"),
        ({"dispersion_scale": "-1"}, "dispersion_scale: got '-1'"),
        ({"dispersion_scale": "much"}, "dispersion_scale: got 'much'"),
        ({"dispersion_clip": [1.0]}, "dispersion_clip"),
        ({"dispersion_clip": [2.0, 1.0]}, "dispersion_clip"),
        ({"objective": "dpo", "dispersion_scale": "0.3"}, "dispersion_scale: got '0.3' with dispersion 'none'"),
        ({"objective": "dpo", "dispersion_per": "pair"}, "where it has no effect"),
        ({"invalid_rows": "skip"}, "invalid_rows: got 'skip'"),
        ({"loss_type": ["ipo"], "objective": "hinge"}, "loss_type: got 'ipo'"),
        ({"loss_type": ["sigmoid", "sft"], "sft_weight": 0.3}, "sft_weight: got 0.3"),
        ({"loss_type": ["sigmoid", "ipo"]}, "loss_type: got"),
        ({"loss_type": ["sft"]}, "loss_type: got"),
        ({"loss_type": ["exo_pair"]}, "trl.DPOTrainer"),
        ({"loss_weights": [1.0, 1.0]}, "loss_weights: got"),
        ({"loss_weights": [0.0]}, "loss_weights: got"),
        ({"learning_rate": -1.0}, "learning_rate: got -1.0"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps: got 0"),
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size: got 0"),
        ({"max_grad_norm": float("nan")}, "max_grad_norm: got nan"),
        ({"num_train_epochs": -2}, "num_train_epochs: got -2"),
        ({"max_length": 0}, "max_length: got 0"),
        ({"precompute_ref_batch_size": 0}, "precompute_ref_batch_size: got 0"),
        ({"adam_beta2": 1.0}, "adam_beta2: got 1.0"),
        ({"train_sampling_strategy": "group_by_length"}, "train_sampling_strategy: got 'group_by_length'"),
        ({"ld_alpha": 0.5}, "ld_alpha: got 0.5"),
        ({"f_divergence_type": "js_divergence"}, "f_divergence_type"),
        ({"use_weighting": True}, "use_weighting"),
        ({"padding_free": True}, "padding_free"),
        ({"sync_ref_model": True}, "sync_ref_model"),
        ({"kendall_smoothing": 0.1}, "kendall_smoothing: the sigmoid link has no blend"),
    ],
    ids=str,
)
def test_contradictions(tmp_path, changes, said):
    with pytest.raises(InputError, match=said):
        MallowsPOConfig(**options(tmp_path, **changes))


def test_defaults_are_those_of_the_architecture(tmp_path):
    config = MallowsPOConfig(str(tmp_path), use_cpu=True, bf16=False)
    assert (config.objective, config.resolved_dispersion, config.dispersion_estimator) == (
        "mallows_theta", "entropy", "mean_entropy",
    )  # fmt: skip
    assert (config.dispersion_map, config.resolved_scale, config.dispersion_per) == ("neglog", "auto", "prompt")
    assert config.resolved_clip == (0.0, 10.0) and config.resolved_objective.kendall_smoothing == 0.5
    assert config.precompute_ref_log_probs is True


def test_dispersion_none_takes_the_weight_out_of_theta(tmp_path):
    config = MallowsPOConfig(str(tmp_path), use_cpu=True, bf16=False, dispersion="none")
    assert config.resolved_dispersion == "none" and config.precompute_ref_log_probs is False


@pytest.mark.parametrize(
    ("changes", "objective", "sft", "scale"),
    [
        ({"loss_type": "ipo"}, "ipo", 0.0, 1.0),
        ({"loss_type": ["hinge"], "loss_weights": [2.0]}, "hinge", 0.0, 2.0),
        ({"loss_type": ["sigmoid", "sft"], "loss_weights": [0.5, 0.2], "objective": "dpo"}, "dpo", 0.4, 0.5),
        ({"loss_type": ["sft", "sigmoid"], "loss_weights": [0.2, 1.0]}, "mallows_theta", 0.2, 1.0),
        ({"loss_type": ["ipo"], "objective": "mallows_ipo"}, "mallows_ipo", 0.0, 1.0),
    ],
    ids=str,
)
def test_losses_of_trl_are_read(tmp_path, changes, objective, sft, scale):
    config = MallowsPOConfig(**options(tmp_path, **changes))
    assert config.objective == objective and config.resolved_objective.sft_weight == pytest.approx(sft)
    assert config.loss_scale == scale
    again = MallowsPOConfig(**options(tmp_path, **changes, **({"sft_weight": config.sft_weight} if sft else {})))
    assert again.resolved_objective == config.resolved_objective


@pytest.mark.parametrize("named", [{}, {"objective": "dpo"}], ids=str)
def test_sigmoid_norm_is_dpo_per_token(tmp_path, named):
    config = MallowsPOConfig(**options(tmp_path, loss_type="sigmoid_norm", **named))
    assert (config.objective, config.resolved_objective.length_normalized) == ("dpo", True)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"num_train_epochs": 0, "max_steps": -1}, "num_train_epochs"),
        ({"beta": 1e9}, "beta"),
        ({"label_smoothing": 0.1}, "label_smoothing"),
        ({"loss_type": "ipo"}, "loss_type"),
        ({}, None),
    ],
    ids=str,
)
def test_what_is_seldom_meant_gets_a_line(tmp_path, changes, named):
    remarks = MallowsPOConfig(**options(tmp_path, **changes)).remarks
    assert [remark.split()[0] for remark in remarks] == ([named] if named else [])
