"""The alarm of likelihood displacement: when it goes off, when it does not, and that every pair counts once."""

from functools import partial

import numpy as np
import pytest
import torch
from pairs import history, llama, small_pairs, trained
from scipy import stats

from mallowspo.training.displacement import CONFIDENCE, MIN_PAIRS, DisplacementMonitor

train = partial(trained, objective="dpo")


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if "likelihood displacement" in record.getMessage()]


def test_a_run_that_is_driven_too_hard_warns_once_and_again_when_it_has_doubled(random_setting, tmp_path, caplog):
    run = train(random_setting, tmp_path, learning_rate=1e-2, max_steps=24)
    said, alarms = warnings_of(caplog), run.displacement.alarms
    assert 2 <= len(said) == len(alarms) <= 4  # of 24 logs
    for earlier, later in zip(alarms, alarms[1:], strict=False):
        assert later.step > earlier.step and later.chosen_per_token_upper < 2 * earlier.chosen_per_token
    for text in (f"step {alarms[0].step}:", "less likely than under the reference", f"last {alarms[0].pairs} pairs",
                 "Lower learning_rate (now 0.01)", "raise beta (now 0.1)", "sft_weight (now 0)"):  # fmt: skip
        assert text in said[0]
    # The margins alone look well.
    assert history(run, "rewards/margins")[-1] > 0.5 and history(run, "logps_delta/displaced")[-1] == 1.0


@pytest.mark.parametrize("changes", [{"learning_rate": 1e-3}, {"learning_rate": 1e-2, "sft_weight": 1.0}], ids=str)
def test_a_healthy_run_and_one_that_took_the_advice_do_not_warn(random_setting, tmp_path, caplog, changes):
    run = train(random_setting, tmp_path, max_steps=24, **changes)
    assert warnings_of(caplog) == [] and run.displacement.alarms == []
    assert len(run.displacement.pairs) >= MIN_PAIRS  # it looked


def test_the_threshold_counts_and_infinity_switches_the_alarm_off(random_setting, tmp_path, caplog):
    run = train(random_setting, tmp_path, learning_rate=1e-2, displacement_alarm=float("inf"), max_steps=20)
    assert warnings_of(caplog) == [] and run.displacement.to_dict()["alarms"] == []
    first, later = (
        train(random_setting, tmp_path, learning_rate=1e-2, displacement_alarm=threshold, max_steps=20)
        for threshold in (0.01, 0.3)
    )
    assert first.displacement.alarms[0].step < later.displacement.alarms[0].step


@pytest.mark.parametrize(("batch", "accumulation"), [(13, 1), (4, 2), (5, 3)])
def test_every_pair_counts_once_and_by_definition(random_setting, tmp_path, batch, accumulation):
    """A policy that stays where it is against another reference: recomputed from the models' plain logits."""
    reference = llama(seed=9)
    run = train(
        random_setting, tmp_path, rows=small_pairs(13), ref_model=reference, learning_rate=0.0, max_steps=-1,
        num_train_epochs=1, logging_steps=100, logging_first_step=False, per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
    )  # fmt: skip
    expected = []
    for row in run.train_dataset:
        ids, start = torch.tensor([row["prompt_ids"] + row["chosen_ids"]]), len(row["prompt_ids"])
        with torch.no_grad():
            logps = [model(ids).logits[0].log_softmax(-1) for model in (run.model, reference)]
        own = [float(values[start - 1 : -1].gather(1, ids[0, start:, None]).sum()) for values in logps]
        expected.append([(own[0] - own[1]) / len(row["chosen_ids"]), own[0] - own[1]])
    expected = np.asarray(sorted(expected))
    found = run.displacement.pairs
    np.testing.assert_allclose(found[found[:, 0].argsort()][:, :2], expected, rtol=1e-4, atol=1e-5)
    logged = run.state.log_history[-1]
    assert logged["logps_delta/displaced"] == pytest.approx((expected[:, 1] < 0).mean())
    assert 0 < logged["logps_delta/displaced"] < 1
    assert logged["logps_delta/chosen_per_token"] == pytest.approx(expected[:, 0].mean(), rel=1e-4)


def add(monitor, per_token):
    per_token = torch.as_tensor(per_token, dtype=torch.float64)
    zero = torch.zeros_like(per_token)
    monitor.add(
        {
            "logps_delta/chosen_per_token": per_token, "logps_delta/chosen": per_token, "logps_delta/rejected": zero,
            "logps_delta/displaced": (per_token < 0).double(),
        }
    )  # fmt: skip


def test_the_bound_is_students():
    values = np.random.default_rng(0).normal(-0.2, 0.3, 50)
    monitor = DisplacementMonitor(0.01)
    add(monitor, values)
    alarm = monitor.check(3)
    upper = stats.ttest_1samp(values, 0.0).confidence_interval(2 * CONFIDENCE - 1).high
    assert alarm.chosen_per_token_upper == pytest.approx(upper, rel=1e-9)
    assert alarm.displaced == (values < 0).mean() and alarm.step == 3 and alarm.pairs == 50


def test_small_logs_are_filled_up_from_those_before_them():
    monitor = DisplacementMonitor(0.01)
    for step in range(1, 4):
        add(monitor, [-1.0] * 10)
        assert monitor.check(step) is None  # 10, 20, 30 pairs: too few to judge
    add(monitor, [-1.0] * 5)
    assert monitor.check(4).pairs == 35
    add(monitor, [5.0] * 40)
    assert monitor.check(5) is None and len(monitor.pairs) == 40  # a log of 40 stands on its own
    assert monitor.check(6) is None and len(monitor.pairs) == 40  # nothing new


def test_chance_seldom_sets_it_off():
    """1,000 logs of a policy that is where it may be at worst: about one in a thousand may warn."""
    rng, alarms = np.random.default_rng(1), 0
    for _ in range(1000):
        monitor = DisplacementMonitor(0.05)
        add(monitor, rng.normal(-0.05, 1.0, 40))
        alarms += monitor.check(1) is not None
    assert alarms <= stats.binom.ppf(0.9999, 1000, 1 - CONFIDENCE)


def test_without_a_reference_there_is_nothing_to_watch(tmp_path, random_setting):
    run = train(random_setting, tmp_path, objective="simpo", max_steps=2)
    assert "logps_delta/displaced" not in run.state.log_history[0] and len(run.displacement.pairs) == 0
