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
        ({"loss_type": ["ipo"]}, "set objective: ipo"),
        ({"loss_type": ["sigmoid", "sft"]}, "sft_weight: 1.0"),
        ({"loss_type": ["exo_pair"]}, "trl.DPOTrainer"),
        ({"loss_weights": [1.0]}, "loss_weights: got"),
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
