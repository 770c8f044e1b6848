"""The controllable-generation study from end to end on a tiny policy, and the rules by which it compares."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from mallowspo.data.sources import load_preferences
from mallowspo.scoring.reference_cache import CACHE_VARIABLE
from mallowspo.stats.frontiers import SeedFrontier
from mallowspo.studies.controllable import bench
from mallowspo.studies.controllable.bench import Inputs, measure, open_bench, run_job
from mallowspo.studies.controllable.design import CONTROLLABLE_METHODS, ControllableDesign
from mallowspo.studies.controllable.study import CONTROLLABLE, ControllableSettings, fast
from mallowspo.studies.controllable.summary import area, choose_rate, compare_methods
from mallowspo.studies.policies import Job
from mallowspo.studies.study import run_study
from studies.controllable_inputs import write_classifier, write_texts
from tiny import save_tiny


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("controllable")
    design = ControllableDesign(
        model_name_or_path=str(save_tiny(folder / "policy")),
        dataset_name=str(write_texts(folder / "texts.txt")),
        reward_model=str(write_classifier(folder / "classifier")),
        use_cpu=True,
    )
    whole = fast(ControllableSettings(design=design, output_dir=str(folder / "out")))
    return replace(whole, learning_rates=(1e-3,))


@pytest.fixture(scope="module")
def run(settings):
    return run_study(CONTROLLABLE, settings)


@pytest.fixture(scope="module")
def opened(settings, tmp_path_factory):
    """A bench beside the study's own."""
    return open_bench(Inputs(settings.design, "any"), None, tmp_path_factory.mktemp("beside"))


def lasting(runs):
    return [{key: value for key, value in run.items() if key != "cpu_seconds"} for run in runs]


def test_it_writes_what_it_promises(settings, run):
    folder = Path(settings.output_dir)
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert "decides nothing" in html
    assert {path.name for path in (folder / "figures").iterdir()} >= {"frontier.svg", "frontier.png"}
    rows = load_preferences(folder / "preferences.jsonl").dataset
    assert len(rows) == run["facts"]["pairs"] > 5
    assert all(row["chosen_reward"] > row["rejected_reward"] for row in rows)


def test_every_method_had_the_same_budget_and_moved(run):
    assert {(r["method"], r["beta"]) for r in run["runs"]} == {
        (m, b) for m in CONTROLLABLE_METHODS for b in (0.1, 1.0)
    }
    assert len({r["steps"] for r in run["runs"]}) == 1
    assert all(r["kl"] > 0 and 0 < r["reward"] < 1 for r in run["runs"])
    assert {r["method"] for r in run["runs"] if "weight_quantiles" in r} == {"mallows_theta", "mallows_phi"}
    assert run["facts"]["against_reward"] == 0.0


def test_a_tempered_weight_is_the_root_of_the_weight_and_further_methods_are_shown(settings, run, tmp_path):
    betas = (0.1, 1.0)
    methods = ("dpo", "mallows_theta", "mallows_theta_50", "mallows_norm")
    more = run_study(CONTROLLABLE, replace(settings, methods=methods, ipo_betas=betas, output_dir=str(tmp_path)))
    quantiles = {row["method"]: np.array(row["weight_quantiles"]) for row in more["runs"] if row["method"] != "dpo"}
    whole, root = quantiles["mallows_theta"], quantiles["mallows_theta_50"]
    np.testing.assert_allclose((root / root[1]) ** 2, whole / whole[1], rtol=1e-4)
    assert {row["method"] for row in more["comparisons"]} >= {*methods[1:]}
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "MallowsPO-θ, √w" in page and "IPO" not in page
    shared = [row for row in lasting(run["runs"]) if row["method"] in methods]
    assert [row for row in lasting(more["runs"]) if row["method"] in ("dpo", "mallows_theta")] == shared


def test_a_study_that_was_stopped_goes_on_where_it_was(settings, run, monkeypatch):
    """Pairs that were deleted are written again; nothing else is done twice."""
    folder = Path(settings.output_dir)
    pairs = (folder / "preferences.jsonl").read_bytes()
    (folder / "preferences.jsonl").unlink()
    log = folder / "jobs.jsonl"
    whole = log.read_text(encoding="utf-8").splitlines(keepends=True)
    log.write_text("".join(whole[:8]), encoding="utf-8")  # the pairs and seven of eight runs
    trained = []
    train = bench.train_policy
    monkeypatch.setattr(bench, "train_policy", lambda *given, **more: trained.append(1) or train(*given, **more))
    again = run_study(CONTROLLABLE, settings)
    assert len(trained) == 1
    assert lasting(again["runs"]) == lasting(run["runs"])
    assert (folder / "preferences.jsonl").read_bytes() == pairs


def test_results_do_not_depend_on_who_runs_them(settings, run, tmp_path):
    parallel = run_study(CONTROLLABLE, replace(settings, output_dir=str(tmp_path), workers=1))
    assert lasting(parallel["runs"]) == lasting(run["runs"])
    alike = ("facts", "reference", "optimum", "areas", "comparisons", "examples")
    assert {name: parallel[name] for name in alike} == {name: run[name] for name in alike}
    assert (tmp_path / "preferences.jsonl").is_file()


def test_other_files_under_the_same_names_are_another_study(settings):
    """A model that was saved again is trained again, whatever the log holds of the one before."""
    [stage] = [stage for stage in CONTROLLABLE.stages if stage.name == "runs"]
    before = stage.setup(settings, {})
    weights = Path(settings.design.model_name_or_path) / "model.safetensors"
    was = weights.stat()
    os.utime(weights, ns=(was.st_atime_ns, was.st_mtime_ns + 1_000_000_000))
    try:
        assert stage.setup(settings, {}) != before
    finally:
        os.utime(weights, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert stage.setup(settings, {}) == before


def test_methods_of_a_seed_share_the_references_scores(opened, monkeypatch):
    """They lie in the study's folder, unless the user has named another place; nothing stays set afterwards."""
    job = Job(seed=0, method="dpo", beta=1.0, learning_rate=1e-3)
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    run_job(opened, job)
    assert CACHE_VARIABLE not in os.environ
    [store] = (opened.folder / "cache/reference").iterdir()
    run_job(opened, replace(job, method="ipo"))
    assert [*(opened.folder / "cache/reference").iterdir()] == [store]
    monkeypatch.setenv(CACHE_VARIABLE, str(opened.folder / "named"))
    run_job(opened, job)
    assert (opened.folder / "named/reference").is_dir()


def test_reward_and_kl_are_those_of_the_same_responses(opened, run):
    """The reference measured against itself has no KL, and the reward of its own responses, seed by seed."""
    found = measure(opened, opened.reference, 0)
    assert found["kl"] == found["kl_plain"] == 0.0
    assert found["reward"] == pytest.approx(run["reference"]["reward"]["mean"])
    assert measure(opened, opened.reference, 1)["reward"] != found["reward"]
    many = replace(opened, design=replace(opened.design, eval_samples=40))
    # The same quantity from the draws of the optimum, which no other draw shares.
    assert run["optimum"]["reward"][0] == pytest.approx(
        measure(many, opened.reference, 0)["reward"], abs=5 * found["reward_standard_error"]
    )


def test_a_run_depends_on_its_job_alone(opened, run):
    wanted = next(r for r in run["runs"] if (r["method"], r["beta"]) == ("mallows_phi", 1.0))
    found = run_job(opened, Job(seed=0, method="mallows_phi", beta=1.0, learning_rate=1e-3))
    assert {**found, "cpu_seconds": 0, "example": ""} == {**wanted, "cpu_seconds": 0, "example": ""}


def test_one_seed_decides_nothing(run):
    assert all(row["verdict"] == "open" for row in run["comparisons"])


# Statistics


def test_methods_are_compared_seed_by_seed_at_equal_kl(rng):
    base = rng.normal(size=4)
    extra = np.asarray([0.1, 0.2, 0.3, 0.4])
    # The method needs half of the KL for the same reward on a line with slope 1 in log KL: it is ahead by log 2.
    per_method = {
        "dpo": [SeedFrontier([1.0, 8.0], [b, b + np.log(8)]) for b in base],
        "mallows_theta": [
            SeedFrontier([0.5, 4.0], [b + x, b + x + np.log(8)]) for b, x in zip(base, extra, strict=True)
        ],
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
    [row] = compare_methods(
        {"dpo": [SeedFrontier([1.0, 2.0], [0, 1])] * 3, "ipo": [SeedFrontier([3.0, 4.0], [0, 1])] * 3}
    )
    assert np.isnan(row["difference"]["mean"]) and row["verdict"] == "open"
    assert np.isnan(area(SeedFrontier([1.0, 2.0], [0, 1]), 3.0, 2.0))


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
