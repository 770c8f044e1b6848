"""The controllable-generation study from end to end on a tiny policy, and the rules by which its page speaks."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from experiments.controllable_inputs import write_classifier, write_policy, write_texts
from forks import run_script
from mallowspo.data.sources import load_preferences
from mallowspo.experiments import controllable_runs
from mallowspo.experiments.controllable import (
    ControllableConfig,
    ControllableDesign,
    fast_config,
    run_controllable_study,
)
from mallowspo.experiments.controllable_config import METHODS, Job
from mallowspo.experiments.controllable_report import write_controllable_report
from mallowspo.experiments.controllable_runs import Inputs, bench_of, measure, run_job
from mallowspo.experiments.controllable_summary import area, choose_rate, compare_methods, holm
from mallowspo.experiments.controllable_words import comparison_sentence, conclusions
from mallowspo.stats.frontiers import SeedFrontier


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("controllable")
    design = ControllableDesign(
        model_name_or_path=str(write_policy(folder / "policy")),
        dataset_name=str(write_texts(folder / "texts.txt")),
        reward_model=str(write_classifier(folder / "classifier")),
        use_cpu=True,
    )
    whole = fast_config(ControllableConfig(design=design, output_dir=str(folder / "out")))
    return replace(whole, learning_rates=(1e-3,))


@pytest.fixture(scope="module")
def run(config):
    calls: list[tuple[str, int, int]] = []
    results = run_controllable_study(config, progress=lambda stage, done, total: calls.append((stage, done, total)))
    return results, calls


def test_it_writes_what_it_promises(config, run):
    results, calls = run
    folder = Path(config.output_dir)
    assert json.loads((folder / "results.json").read_text(encoding="utf-8")) == results
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page and "decides nothing" in page
    assert {path.name for path in (folder / "figures").iterdir()} >= {"frontier.svg", "frontier.png"}
    assert calls[-1] == ("Writing the report", 1, 1) and ("Training the policies", 8, 8) in calls
    rows = load_preferences(folder / "preferences.jsonl").dataset
    assert len(rows) == results["facts"]["pairs"] > 5
    assert all(row["chosen_reward"] > row["rejected_reward"] for row in rows)


def test_every_method_had_the_same_budget_and_moved(run):
    results, _ = run
    assert {(r["method"], r["beta"]) for r in results["runs"]} == {(m, b) for m in METHODS for b in (0.1, 1.0)}
    assert len({r["steps"] for r in results["runs"]}) == 1
    assert all(r["kl"] > 0 and 0 < r["reward"] < 1 for r in results["runs"])
    assert {r["method"] for r in results["runs"] if "weight_quantiles" in r} == {"mallows_theta", "mallows_phi"}
    assert results["facts"]["against_reward"] == 0.0


def test_a_study_that_was_stopped_goes_on_where_it_was(config, run, monkeypatch):
    results, _ = run
    log = Path(config.output_dir) / "jobs.jsonl"
    whole = log.read_text(encoding="utf-8").splitlines(keepends=True)
    log.write_text("".join(whole[:7]), encoding="utf-8")
    trained = []
    monkeypatch.setattr(
        controllable_runs, "_train", lambda *given, of=controllable_runs._train: trained.append(1) or of(*given)
    )
    again = run_controllable_study(config)
    assert len(trained) == 1

    def lasting(runs):
        return [{key: value for key, value in run.items() if key != "cpu_seconds"} for run in runs]

    assert lasting(again["runs"]) == lasting(results["runs"])


def test_reward_and_kl_are_those_of_the_same_responses(config, run):
    """The reference measured against itself has no KL, and the reward of its own responses, seed by seed."""
    bench = bench_of(Inputs(config.design, "any"))
    found = measure(bench, bench.reference, 0)
    assert found["kl"] == found["kl_plain"] == 0.0
    assert found["reward"] == pytest.approx(run[0]["reference"]["reward"]["mean"])
    assert measure(bench, bench.reference, 1)["reward"] != found["reward"]
    many = replace(bench, design=replace(bench.design, eval_samples=40))
    # The same quantity from the draws of the optimum, which no other draw shares.
    assert run[0]["optimum"]["reward"][0] == pytest.approx(
        measure(many, bench.reference, 0)["reward"], abs=5 * found["reward_standard_error"]
    )


def test_a_run_depends_on_its_job_alone(config, run):
    results, _ = run
    wanted = next(r for r in results["runs"] if (r["method"], r["beta"]) == ("mallows_phi", 1.0))
    job = Job(seed=0, method="mallows_phi", beta=1.0, learning_rate=1e-3)
    found = run_job(Inputs(config.design, "any"), job)
    assert {**found, "cpu_seconds": 0, "example": ""} == {**wanted, "cpu_seconds": 0, "example": ""}


def test_the_page_can_be_made_again_from_the_file(run, tmp_path):
    for folder in (tmp_path, tmp_path / "again"):
        write_controllable_report(folder, run[0])
    first, again = ((folder / "figures/frontier.svg").read_bytes() for folder in (tmp_path, tmp_path / "again"))
    assert first == again


# Statistics


def line(kl_b, reward_b):
    return SeedFrontier(kl_b=kl_b, agreement_b=reward_b, value_b=reward_b)


def test_methods_are_compared_seed_by_seed_at_equal_kl(rng):
    base = rng.normal(size=4)
    extra = np.asarray([0.1, 0.2, 0.3, 0.4])
    # The method needs half of the KL for the same reward on a line with slope 1 in log KL: it is ahead by log 2.
    per_method = {
        "dpo": [line([1.0, 8.0], [b, b + np.log(8)]) for b in base],
        "mallows_theta": [line([0.5, 4.0], [b + x, b + x + np.log(8)]) for b, x in zip(base, extra, strict=True)],
    }
    [row] = compare_methods(per_method)
    wanted = np.log(2) + extra
    np.testing.assert_allclose(row["per_seed"], wanted)
    peer = stats.ttest_rel(base + wanted, base)
    assert row["p"] == pytest.approx(peer.pvalue) == row["p_holm"]
    low, high = peer.confidence_interval()
    assert row["difference"] == pytest.approx({"mean": wanted.mean(), "low": low, "high": high})
    assert (row["kl_low"], row["kl_high"], row["verdict"]) == (1.0, 4.0, "better")


def test_methods_that_share_no_kl_are_not_compared():
    [row] = compare_methods({"dpo": [line([1.0, 2.0], [0, 1])] * 3, "ipo": [line([3.0, 4.0], [0, 1])] * 3})
    assert np.isnan(row["difference"]["mean"]) and row["verdict"] == "open"
    assert np.isnan(area(line([1.0, 2.0], [0, 1]), 3.0, 2.0))


def test_holm_agrees_with_a_worked_example():
    # Four hypotheses, by hand: 4 × 0.005, 3 × 0.01, 2 × 0.03, and 0.04 raised to the one before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert np.isnan(holm([float("nan"), 0.5])[0]) and holm([float("nan"), 0.5])[1] == 0.5


def test_the_learning_rate_is_the_one_with_the_larger_area():
    def runs(rate, kl, reward):
        return [{"learning_rate": rate, "kl": k, "reward": r} for k, r in zip(kl, reward, strict=True)]

    # The higher rate reaches more reward, but less at equal KL.
    slow, fast = runs(1e-4, (1, 4), (0.4, 0.6)), runs(3e-4, (2, 16), (0.4, 0.9))
    found = choose_rate([1e-4, 3e-4], [*slow, *fast])
    assert (found["chosen"], found["rule"], found["kl_low"], found["kl_high"]) == (1e-4, "area", 2.0, 4.0)
    apart = choose_rate([1e-4, 3e-4], [*slow, *runs(3e-4, (8, 16), (0.4, 0.9))])
    assert (apart["chosen"], apart["rule"]) == (3e-4, "mean reward")
    assert choose_rate([1e-4], [])["rule"] == "given"


# Words


@pytest.fixture
def invented(run):
    """Results with five seeds, whose verdicts a test may set."""
    results = copy.deepcopy(run[0])
    results["config"]["seeds"] = list(range(5))
    for row in results["comparisons"]:
        set_verdict(row, "open")
    return results


def set_verdict(row, word, p_holm=0.01):
    centre = {"better": 0.1, "worse": -0.1, "open": 0.0}[word]
    row["difference"] = {"mean": centre, "low": centre - 0.05, "high": centre + 0.05}
    row |= {"verdict": word, "p": 0.01, "p_holm": p_holm}


def against_dpo(results, method):
    return next(row for row in results["comparisons"] if (row["method"], row["baseline"]) == (method, "dpo"))


@pytest.mark.parametrize(
    ("theta", "phi", "says"),
    [
        ("better", "better", "This agrees with the paper"),
        ("better", "open", "here one of the two methods is"),
        ("open", "open", "at this size that is not seen"),
        ("worse", "worse", "MallowsPO-θ and MallowsPO-φ bought less reward than DPO"),
    ],
)
def test_conclusions_follow_the_intervals_in_either_direction(invented, theta, phi, says):
    set_verdict(against_dpo(invented, "mallows_theta"), theta)
    set_verdict(against_dpo(invented, "mallows_phi"), phi)
    assert says in " ".join(conclusions(invented))


@pytest.mark.parametrize(
    ("word", "p_holm", "says"),
    [
        ("better", 0.01, "ahead of DPO: +0.100 [+0.050, +0.150]; it holds once the 6"),
        ("worse", 0.2, "behind DPO: −0.100 [−0.150, −0.050]; it does not hold once the 6"),
        ("open", 0.2, "not told apart from DPO"),
    ],
)
def test_a_sentence_says_what_its_interval_says(invented, word, p_holm, says):
    row = against_dpo(invented, "mallows_phi")
    set_verdict(row, word, p_holm)
    assert says in comparison_sentence(invented, row)


def test_one_seed_decides_nothing(run):
    assert "One seed resolves nothing" in conclusions(run[0])[0]
    assert all(row["verdict"] == "open" for row in run[0]["comparisons"])


def test_the_page_shows_the_numbers_of_the_committed_runs(tmp_path):
    script = Path(__file__).resolve().parents[2] / "docs/runs/controllable_study.py"
    done = run_script(script, "--check", log=tmp_path / "log")
    assert done.returncode == 0, done.stderr
