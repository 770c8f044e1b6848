"""The study `world` and its preset, the quick start, in small forms."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from mallowspo.studies.policies import Grid
from mallowspo.studies.study import run_study
from mallowspo.studies.world.bench import WorldJob, make_world, open_world, pairs_of_seed
from mallowspo.studies.world.page import headline
from mallowspo.studies.world.study import QUICKSTART_METHODS, WORLD
from mallowspo.studies.world.summary import read_levels
from mallowspo.world.reference import ReferenceTraining

SMALL = ReferenceTraining(hidden_size=32, layers=1, steps=30)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two worlds, every part."""
    folder = tmp_path_factory.mktemp("world")
    settings = WORLD.presets["fast"](str(folder))
    settings = replace(settings, setup=replace(settings.setup, reference=SMALL))
    return folder, settings, run_study(WORLD, settings)


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """One world, with everything that the page of the quick start shows."""
    folder = tmp_path_factory.mktemp("quickstart")
    settings = WORLD.presets["quickstart_fast"](str(folder))
    return folder, settings, run_study(WORLD, settings)


def test_it_writes_what_it_promises(run):
    folder, settings, results = run
    assert {path.stem for path in (folder / "figures").glob("*.png")} == {
        "yardsticks", "consensus", "agreement", "pairs_consensus", "pairs_agreement", "rho",
    }  # fmt: skip
    ran = {(r["seed"], r["method"], r["pairs"], r["beta"]) for r in results["runs"]}
    common = ("dpo", "theta_best", "mallows_theta_true")
    at = {2: (*common, "theta_true_25", "theta_best_shrunk"), 3: common}
    assert ran == {(s, m, n, b) for s in (1, 2) for n, methods in at.items() for m in methods for b in settings.betas}
    assert len(results["runs"]) == len(ran)  # what one part has trained no other trains again


def test_a_part_that_is_left_out_is_missed_by_none(run, tmp_path):
    """From the finished runs of the whole, without training anything."""
    folder, settings, results = run
    shutil.copytree(folder, tmp_path / "copy")
    before = (folder / "jobs.jsonl").read_bytes()
    less = replace(settings, output_dir=str(tmp_path / "copy"), parts=("comparison",))
    alone = run_study(WORLD, less)
    assert (tmp_path / "copy/jobs.jsonl").read_bytes() == before
    usual = [row for row in results["comparisons"] if row["pairs"] == 2 and row["method"] != "theta_true_25"]
    assert alone["comparisons"] == [row for row in usual if row["method"] != "theta_best_shrunk"]


def test_the_quick_start_leaves_what_a_first_run_of_ones_own_needs(quick):
    folder, settings, results = quick
    reference = folder / "worlds/0/reference"
    assert AutoModelForCausalLM.from_pretrained(reference).num_parameters() == 67104
    assert AutoTokenizer.from_pretrained(reference).eos_token == "<eos>"
    rows = [json.loads(text) for text in (folder / "preferences.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 240 and set(rows[0]) == {"prompt", "chosen", "rejected"}
    assert all(row["chosen"] != row["rejected"] for row in rows)
    assert {(r["method"], r["beta"]) for r in results["runs"]} == {
        (m, b) for m in QUICKSTART_METHODS for b in settings.betas
    }
    assert len(results["examples"]) == 6 and (folder / "figures/index.png").is_file()


def test_it_goes_on_from_what_is_done(run):
    folder, settings, results = run
    before = (folder / "jobs.jsonl").read_bytes()
    made = (folder / "worlds/1/reference/model.safetensors").stat().st_mtime_ns
    again = run_study(WORLD, settings)
    assert (folder / "jobs.jsonl").read_bytes() == before
    assert (folder / "worlds/1/reference/model.safetensors").stat().st_mtime_ns == made
    assert again["comparisons"] == results["comparisons"] and again["gains"] == results["gains"]


def test_results_do_not_depend_on_who_runs_them(quick, tmp_path):
    """A study in a worker process, and with fewer methods, equals one in this process, number for number."""
    _, settings, results = quick
    fewer = replace(settings, output_dir=str(tmp_path), methods=("dpo", "mallows_theta"), workers=1)
    parallel = run_study(WORLD, fewer)
    ours = {(r["method"], r["beta"]): r for r in results["runs"]}
    assert len(parallel["runs"]) == 4
    assert all(theirs == ours[theirs["method"], theirs["beta"]] for theirs in parallel["runs"])


def test_a_smaller_beta_moves_a_policy_further(quick):
    kl = {(r["method"], r["beta"]): r["kl"] for r in quick[2]["runs"]}
    for method in QUICKSTART_METHODS:
        assert 0 < kl[method, 2.0] < kl[method, 0.5]


def test_more_pairs_contain_the_fewer_and_take_as_many_steps(run):
    folder, settings, _ = run
    bench = open_world(settings.setup, 1, folder)
    few, many = pairs_of_seed(bench, 1), pairs_of_seed(bench, 1, 3)
    assert len(few) == 2 * 96 and len(many) == 3 * 96
    assert [pair for place, pair in enumerate(many) if place % 3 < 2] == few
    jobs = [json.loads(line)["result"] for line in (folder / "jobs.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {job["steps"] for job in jobs if "steps" in job} == {6}


def test_a_careless_corpus_leaves_something_to_learn_where_people_agree(run):
    """The reference gives less of the best answer than the people of the agreed third do."""
    folder, settings, _ = run
    careful = replace(settings.setup, careless=0.0)
    agreed = {}
    for name, setup in (("careless", settings.setup), ("careful", careful)):
        bench = make_world(setup, WorldJob(1), folder / name)
        agreed[name] = bench.heldout.by_tercile(bench.heldout.measures(bench.heldout.reference_scores.logp_pk)["top1"])
    assert agreed["careless"][0] < agreed["careful"][0]


def test_every_seed_has_a_world_and_a_reference_of_its_own(run):
    folder, _, results = run
    first, second = results["worlds"]
    assert first["phi_by_tercile"] != second["phi_by_tercile"]
    weights = [(folder / f"worlds/{seed}/reference/model.safetensors").read_bytes() for seed in (1, 2)]
    assert weights[0] != weights[1]


def test_nothing_beats_the_optima_and_the_parts_add_up(run, quick):
    for row in (*run[2]["runs"], *quick[2]["runs"]):
        assert row["share_of_consensus"] <= 1 + 1e-6 and row["share_of_agreement"] <= 1 + 1e-6
        assert row["top1"] <= row["consensus"] + 1e-6 <= 1 - row["outside"] + 2e-6
        for name in ("consensus", "top1", "order", "agreement"):
            assert np.mean(row[f"{name}_by_tercile"]) == pytest.approx(row[name], abs=1e-5)
    for results in (run[2], quick[2]):
        for asked, other in (("consensus", "agreement"), ("agreement", "consensus")):
            best, rival = results["optima"][asked], results["optima"][other]
            kl = np.linspace(0, min(best["kl"][-1], rival["kl"][-1]), 50)
            assert np.all(np.interp(kl, best["kl"], best[asked]) > np.interp(kl, rival["kl"], rival[asked]) - 1e-3)


def test_the_weight_of_a_run_is_the_calibrated_one(quick):
    """The true index reaches the trainer unchanged, and √w is its root, again with a mean of 1."""
    results = quick[2]
    index = results["index"]
    truth = np.asarray(index["mallows_theta_true"]["prompts"]["true_p"])
    for method, power in (("mallows_theta_true", 1.0), ("theta_true_50", 0.5)):
        wanted = np.quantile(truth**power / np.mean(truth**power), [0.05, 0.5, 0.95])
        found = [quantile["mean"] for quantile in index[method]["weight_quantiles"]]
        np.testing.assert_allclose(found, wanted, rtol=0.02)
        assert index[method]["rank_correlation"]["mean"] == pytest.approx(1.0)
    gain = 1 + (truth.std() / truth.mean()) ** 2
    assert index["mallows_theta_true"]["gain"]["mean"] == pytest.approx(gain, rel=1e-6)


def test_votes_reach_the_shrink_factor(run):
    folder, _, results = run
    rows = [json.loads(line) for line in (folder / "worlds/1/votes_1.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 24 and all(sum(row["votes"]) == 5 for row in rows)
    assert results["index"]["theta_best_shrunk"]["shrink"]["mean"] > 0
    assert results["index"]["theta_best"]["shrink"] is None


def test_one_seed_decides_nothing(quick):
    folder, _, results = quick
    assert all(row["verdict"] == "open" for row in results["comparisons"])
    assert "decides nothing" in (folder / "report.html").read_text(encoding="utf-8")


def invented(quantity, difference, verdict, **more):
    gap = {"mean": difference, "low": difference - 0.001, "high": difference + 0.001}
    return {"quantity": quantity, "difference": gap, "verdict": verdict, **more}


def test_the_first_lines_say_what_was_found():
    rows = [
        invented("consensus", 0.0123, "better", method="mallows_theta_true", pairs=12),
        invented("agreement", -0.004, "worse", method="mallows_theta_true", pairs=12),
        invented("consensus", 0.0004, "open", method="mallows_theta", pairs=12),
        invented("agreement", 0.0002, "open", method="mallows_theta", pairs=12),
    ]
    config = {"seeds": [0, 1, 2], "setup": {"pairs_per_prompt": 12, "examples": False}}
    first, second, third = headline({"comparisons": rows, "config": config, "worlds": [{}, {}, {}]})
    assert "true index, nearer, +1.23 [+1.13, +1.33]" in first and "a point is a hundredth" in first
    assert "estimated index, no significant difference, +0.04" in first
    assert "true index, less often, −0.40" in second and "3 worlds" in third


def test_where_a_seed_does_not_reach_there_is_no_mean():
    runs = [
        {"seed": seed, "method": "dpo", "learning_rate": 1e-3, "beta": beta, "kl": kl / (1 + seed), "agreement": 0.6}
        for seed in (0, 1) for beta, kl in ((1.0, 0.1), (0.5, 0.4))
    ]  # fmt: skip
    grid = Grid(seeds=(0, 1), methods=("dpo",), betas=(0.5, 1.0), learning_rate=1e-3)
    levels = read_levels(grid, runs, "agreement")
    reached = np.isfinite([point["mean"] for point in levels["methods"]["dpo"]])
    kl = np.asarray(levels["kl"])
    assert np.array_equal(reached, (kl >= 0.1 - 1e-9) & (kl <= 0.2 + 1e-9)) and reached.any() and not reached.all()


@pytest.mark.slow
def test_the_full_quick_start_keeps_its_promises(tmp_path):
    results = run_study(WORLD, WORLD.presets["quickstart"](str(tmp_path)))
    assert len(results["config"]["seeds"]) >= 5 and len(results["config"]["betas"]) >= 3
    assert results["seconds"]["total"] < 240 and results["peak_memory_gb"] < 3
    assert results["index"]["mallows_theta"]["rank_correlation"]["low"] > 0.3
