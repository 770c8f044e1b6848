"""The study `world` from end to end in its small configuration, and the rules by which it chooses and speaks."""

from __future__ import annotations

import copy
import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mallowspo.errors import InputError
from mallowspo.experiments.comparison import mean_interval
from mallowspo.experiments.frontier_summary import Grid
from mallowspo.experiments.world_study import run_world_study
from mallowspo.experiments.world_study_config import WorldSetup, WorldStudyConfig, fast_world_config
from mallowspo.experiments.world_study_report import write_world_report
from mallowspo.experiments.world_study_runs import selection_prompts
from mallowspo.experiments.world_study_summary import CHOSEN_BY, chosen_runs, read_levels
from mallowspo.experiments.world_study_words import choice_sentence, conclusions, equal_kl_sentence
from mallowspo.world.language import build_world
from mallowspo.world.reference import ReferenceTraining

METHODS = ("dpo", "ipo", "mallows_theta", "mallows_theta_true")
SMALL = ReferenceTraining(hidden_size=32, layers=1, steps=30)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    calls = []
    config = replace(fast_world_config(str(folder)), methods=METHODS)
    config = replace(config, setup=replace(config.setup, reference=SMALL))
    results = run_world_study(config, progress=lambda *call: calls.append(call))
    return folder, config, results, calls


def test_it_writes_what_it_promises(run):
    folder, _, results, calls = run
    assert json.loads((folder / "results.json").read_text(encoding="utf-8")) == results
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page and "http://" not in page.replace("http://www.w3.org", "")
    assert {path.stem for path in (folder / "figures").glob("*.png")} == {
        "choice", "differences", "agreement", "share", "diversity",
    }  # fmt: skip
    assert {path.suffix for path in (folder / "figures").iterdir()} == {".svg", ".png"}
    assert ("Training the policies", 16, 16) in calls
    assert len(results["runs"]) == 16 and [row["method"] for row in results["choice"]] == list(METHODS)


def test_it_goes_on_from_what_is_done(run):
    folder, config, results, _ = run
    before = (folder / "jobs.jsonl").read_bytes()
    made = (folder / "worlds/1/reference/model.safetensors").stat().st_mtime_ns
    again = run_world_study(config)
    assert (folder / "jobs.jsonl").read_bytes() == before
    assert (folder / "worlds/1/reference/model.safetensors").stat().st_mtime_ns == made
    assert again["comparisons"] == results["comparisons"] and again["choice"] == results["choice"]


def test_the_three_splits_share_no_prompt_and_selection_changes_nothing_that_is_trained_on():
    setup = WorldSetup()
    world = build_world(7, train_prompts=setup.train_prompts, heldout_prompts=setup.heldout_prompts)
    sets = [{p.text for p in prompts} for prompts in (world.train, world.heldout, selection_prompts(setup, 7))]
    assert [len(one) for one in sets] == [396, 120, 60] and len(set.union(*sets)) == 576


def test_every_seed_has_a_world_and_a_reference_of_its_own(run):
    folder, _, results, _ = run
    first, second = results["worlds"]
    assert first["phi_by_tercile"] != second["phi_by_tercile"]
    weights = [(folder / f"worlds/{seed}/reference/model.safetensors").read_bytes() for seed in (1, 2)]
    assert weights[0] != weights[1]


def test_nothing_beats_the_optimum(run):
    _, _, results, _ = run
    for row in results["runs"]:
        assert row["share_of_optimum"] <= 1 + 1e-6
        assert row["agreement"] <= row["agreement_renormalised"] + row["outside"] + 1e-6
        assert np.mean(row["agreement_by_tercile"]) == pytest.approx(row["agreement"], abs=1e-5)


def test_settings_are_chosen_on_the_selection_prompts_and_shown_on_the_held_out_ones(run):
    _, config, results, _ = run
    for row in results["choice"]:
        for seed, chosen in zip(config.seeds, row["chosen"], strict=True):
            mine = [r for r in results["runs"] if (r["seed"], r["method"]) == (seed, row["method"])]
            best = max(mine, key=lambda r: r[CHOSEN_BY])
            assert (chosen["beta"], chosen["learning_rate"]) == (best["beta"], best["learning_rate"])
        shown = [
            next(
                r["agreement"]
                for r in results["runs"]
                if (r["seed"], r["method"], r["beta"], r["learning_rate"])
                == (chosen["seed"], row["method"], chosen["beta"], chosen["learning_rate"])
            )
            for chosen in row["chosen"]
        ]
        assert row["values"]["agreement"]["mean"] == pytest.approx(mean_interval(shown).mean, abs=1e-5)


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
    line = read_levels(grid, runs, ("agreement", None))["methods"]["dpo"]
    assert {round(point["mean"], 9) for point in line} == {0.5}


def test_where_a_seed_does_not_reach_there_is_no_mean():
    grid, runs = invented_runs()
    for r in runs:
        if r["seed"] == 1:
            r["kl"] = r["kl"] / 2  # reaches only from 0.05 to 0.2
    levels = read_levels(grid, runs, ("agreement", None))
    reached = np.isfinite([point["mean"] for point in levels["methods"]["dpo"]])
    kl = np.asarray(levels["kl"])
    assert np.array_equal(reached, (kl >= 0.1 - 1e-9) & (kl <= 0.2 + 1e-9)) and reached.any() and not reached.all()


def set_verdicts(results, method, word):
    centre = {"better": 0.01, "worse": -0.01, "open": 0.0}[word]
    interval = {"mean": centre, "low": centre - 0.005, "high": centre + 0.005}
    for row in results["comparisons"]:
        if (row["method"], row["quantity"]) == (method, "agreement"):
            row["difference"], row["verdict"] = interval, word
    for row in results["choice"]:
        if row["method"] == method:
            row["differences"]["agreement"] = interval | {"verdict": word}


@pytest.mark.parametrize(
    ("theta", "true", "says"),
    [
        ("open", "better", "the index holds it back"),
        ("better", "better", "*MallowsPO-θ* is ahead of DPO at equal KL with either index"),
        ("open", "worse", "Even with the true index *MallowsPO-θ* is behind DPO"),
        ("worse", "open", "less than these seeds resolve"),
    ],
)
def test_conclusions_follow_the_intervals_in_either_direction(run, theta, true, says):
    results = copy.deepcopy(run[2])
    set_verdicts(results, "mallows_theta", theta)
    set_verdicts(results, "mallows_theta_true", true)
    assert says in " ".join(conclusions(results))
    word = {"better": "ahead of DPO", "worse": "behind DPO", "open": "not told apart"}[theta]
    assert word in choice_sentence(results, "mallows_theta") and word in equal_kl_sentence(results, "mallows_theta")


def test_one_seed_decides_nothing(run, tmp_path):
    results = copy.deepcopy(run[2])
    results["config"]["seeds"] = [1]
    assert conclusions(results) == ["One seed resolves nothing: run more before concluding anything."]
    assert "decides nothing" in choice_sentence(results, "ipo")
    write_world_report(tmp_path, results)
    assert "resolves nothing" in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"methods": ("dpo", "kto")}, "methods: got 'kto'"),
        ({"methods": ("ipo", "mallows_phi")}, "every method is compared with dpo"),
        ({"methods": ("dpo",)}, "at least one other"),
        ({"methods": ("dpo", "ipo", "ipo")}, "none twice"),
        ({"betas": (1.0,)}, "at least 2 values"),
        ({"betas": (1.0, -1.0)}, "finite numbers > 0"),
        ({"learning_rates": ()}, "at least one value"),
        ({"seeds": (1, 1)}, "none twice"),
        ({"workers": -1}, "0 or more"),
        ({"setup": WorldSetup(selection_prompts=0)}, "selection_prompts: got 0"),
        ({"setup": WorldSetup(epochs=0)}, "epochs: got 0"),
        ({"setup": WorldSetup(train_prompts=456)}, "576 prompts"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(change, says):
    with pytest.raises(InputError, match=says):
        replace(WorldStudyConfig(), **change)


def test_the_page_shows_the_numbers_of_the_committed_run(run, monkeypatch):
    path = Path(__file__).resolve().parents[2] / "docs/runs/world_study.py"
    spec = importlib.util.spec_from_file_location("world_study_page", path)
    page = importlib.util.module_from_spec(spec)
    monkeypatch.syspath_prepend(path.parent)  # as where the script is run: it imports its neighbour `study_page`
    spec.loader.exec_module(page)
    assert page.PAGE.read_text(encoding="utf-8") == page.page_with_numbers()
    text = page.text_of(run[2])
    assert "--seeds 2 --methods dpo,ipo" in text and text.count("| MallowsPO-θ |") == 2
