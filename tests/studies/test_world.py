"""The study `world` and its preset, the quick start, in small forms; the rules by which they choose."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from mallowspo.stats.intervals import mean_interval
from mallowspo.studies.policies import Grid
from mallowspo.studies.study import run_study
from mallowspo.studies.world.bench import WorldSetup
from mallowspo.studies.world.study import QUICKSTART_METHODS, WORLD
from mallowspo.studies.world.summary import CHOSEN_BY, chosen_runs, read_levels
from mallowspo.world.reference import ReferenceTraining

METHODS = ("dpo", "ipo", "mallows_theta", "mallows_theta_true")
SMALL = ReferenceTraining(hidden_size=32, layers=1, steps=30)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two worlds, with selection prompts."""
    folder = tmp_path_factory.mktemp("world")
    calls = []
    settings = replace(WORLD.presets["fast"](str(folder)), methods=METHODS)
    settings = replace(settings, setup=replace(settings.setup, reference=SMALL))
    return folder, settings, run_study(WORLD, settings, progress=lambda *call: calls.append(call)), calls


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """One world, one seed, with everything that the page of a single world shows."""
    folder = tmp_path_factory.mktemp("quickstart")
    settings = WORLD.presets["quickstart_fast"](str(folder))
    return folder, settings, run_study(WORLD, settings)


def test_it_writes_what_it_promises(run):
    folder, _, results, calls = run
    assert json.loads((folder / "results.json").read_text(encoding="utf-8")) == results
    assert {path.stem for path in (folder / "figures").glob("*.png")} == {
        "choice", "differences", "agreement", "share", "diversity",
    }  # fmt: skip
    assert ("Training the policies", 16, 16) in calls and calls[-1] == ("Writing the report", 1, 1)
    assert len(results["runs"]) == 16 and [row["method"] for row in results["choice"]] == list(METHODS)


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
    folder, settings, results, _ = run
    before = (folder / "jobs.jsonl").read_bytes()
    made = (folder / "worlds/1/reference/model.safetensors").stat().st_mtime_ns
    again = run_study(WORLD, settings)
    assert (folder / "jobs.jsonl").read_bytes() == before
    assert (folder / "worlds/1/reference/model.safetensors").stat().st_mtime_ns == made
    assert again["comparisons"] == results["comparisons"] and again["choice"] == results["choice"]


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


def test_the_three_splits_share_no_prompt_and_selection_changes_nothing_that_is_trained_on():
    setup = WorldSetup()
    world = setup.build(7)
    sets = [{p.text for p in prompts} for prompts in (world.train, world.heldout, setup.selection(7))]
    assert [len(one) for one in sets] == [396, 120, 60] and len(set.union(*sets)) == 576


def test_every_seed_has_a_world_and_a_reference_of_its_own(run):
    folder, _, results, _ = run
    first, second = results["worlds"]
    assert first["phi_by_tercile"] != second["phi_by_tercile"]
    weights = [(folder / f"worlds/{seed}/reference/model.safetensors").read_bytes() for seed in (1, 2)]
    assert weights[0] != weights[1]


def test_nothing_beats_the_optimum_and_the_parts_add_up(run, quick):
    for row in (*run[2]["runs"], *quick[2]["runs"]):
        assert row["share_of_optimum"] <= 1 + 1e-6
        assert row["agreement"] <= row["agreement_renormalised"] + row["outside"] + 1e-6
        assert np.mean(row["agreement_by_tercile"]) == pytest.approx(row["agreement"], abs=1e-5)


def test_the_true_index_reaches_the_trainer_unchanged(quick):
    results = quick[2]
    truth = np.asarray(results["index"]["prompts"]["true_p"])
    wanted = np.quantile(truth / truth.mean(), [0.05, 0.5, 0.95])  # mean weight 1
    np.testing.assert_allclose(results["index"]["true"]["weight_quantiles"], wanted, rtol=0.02)
    assert results["index"]["true"]["rank_correlation"]["mean"] == pytest.approx(1.0)


def test_settings_are_chosen_on_the_selection_prompts_and_shown_on_the_held_out_ones(run):
    _, settings, results, _ = run
    for row in results["choice"]:
        mine = [r for r in results["runs"] if r["method"] == row["method"]]
        best = [max((r for r in mine if r["seed"] == s), key=lambda r: r[CHOSEN_BY]) for s in settings.seeds]
        assert [(c["beta"], c["learning_rate"]) for c in row["chosen"]] == [
            (b["beta"], b["learning_rate"]) for b in best
        ]
        shown = mean_interval([b["agreement"] for b in best]).mean
        assert row["values"]["agreement"]["mean"] == pytest.approx(shown, abs=1e-5)


def test_one_seed_decides_nothing(quick):
    folder, _, results = quick
    assert all(row["verdict"] == "open" for row in results["comparisons"])
    assert "decides nothing" in (folder / "report.html").read_text(encoding="utf-8")


def invented_runs():
    """Two rates of one method: the held-out prompts prefer the fast one, the selection prompts the slow one."""
    runs = []
    for seed in (0, 1):
        for rate, held, selected in ((1e-4, 0.5, 0.7), (1e-3, 0.6, 0.4)):
            for beta, kl in ((1.0, 0.1), (0.5, 0.4)):
                runs.append(
                    {"seed": seed, "method": "dpo", "learning_rate": rate, "beta": beta, "kl": kl, "agreement": held,
                     CHOSEN_BY: selected + 0.01 * kl}
                )  # fmt: skip
    return Grid(seeds=(0, 1), methods=("dpo",), betas=(0.5, 1.0), learning_rates=(1e-4, 1e-3)), runs


def test_the_held_out_prompts_choose_nothing():
    grid, runs = invented_runs()
    assert [r["agreement"] for r in chosen_runs(grid, runs, "dpo")] == [0.5, 0.5]
    line = read_levels(grid, runs, "agreement")["methods"]["dpo"]
    assert {round(point["mean"], 9) for point in line} == {0.5}


def test_where_a_seed_does_not_reach_there_is_no_mean():
    grid, runs = invented_runs()
    for r in runs:
        if r["seed"] == 1:
            r["kl"] = r["kl"] / 2  # reaches only from 0.05 to 0.2
    levels = read_levels(grid, runs, "agreement")
    reached = np.isfinite([point["mean"] for point in levels["methods"]["dpo"]])
    kl = np.asarray(levels["kl"])
    assert np.array_equal(reached, (kl >= 0.1 - 1e-9) & (kl <= 0.2 + 1e-9)) and reached.any() and not reached.all()


@pytest.mark.slow
def test_the_full_quick_start_keeps_its_promises(tmp_path):
    results = run_study(WORLD, WORLD.presets["quickstart"](str(tmp_path)))
    assert len(results["config"]["seeds"]) >= 5 and len(results["config"]["betas"]) >= 3
    assert results["seconds"]["total"] < 300 and results["peak_memory_gb"] < 3
    assert results["reference"]["reference_excess_nats"]["mean"] < 0.02
    assert results["index"]["estimated"]["rank_correlation"]["low"] > 0.5
