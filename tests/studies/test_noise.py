"""The study of flipped labels in its small form, and what a flip is."""

from dataclasses import replace

import pytest

from mallowspo.studies.noise.study import NOISE, flip
from mallowspo.studies.policies import Job
from mallowspo.studies.study import run_study
from mallowspo.studies.world.bench import open_world, pairs_of_seed, run_job
from mallowspo.world.population import PreferencePair
from mallowspo.world.reference import ReferenceTraining

PAIRS = [PreferencePair(0, n, n + 1) for n in range(2000)]


def test_a_flip_exchanges_the_two_and_more_flips_contain_the_fewer():
    few, many = flip(PAIRS, 0.1, seed=3), flip(PAIRS, 0.4, seed=3)
    swapped = [{n for n, (a, b) in enumerate(zip(PAIRS, some, strict=True)) if a != b} for some in (few, many)]
    assert swapped[0] < swapped[1]
    assert len(swapped[0]) / 2000 == pytest.approx(0.1, abs=0.02)
    assert len(swapped[1]) / 2000 == pytest.approx(0.4, abs=0.03)
    assert all((many[n].chosen, many[n].rejected) == (n + 1, n) for n in swapped[1])
    assert flip(PAIRS, 0.0, seed=3) == PAIRS


def test_the_study_runs_and_without_flips_it_is_the_study_world(tmp_path):
    settings = NOISE.presets["fast"](str(tmp_path))
    small = replace(settings.setup, reference=ReferenceTraining(hidden_size=32, layers=1, steps=30))
    settings = replace(settings, setup=small, methods=("dpo", "cdpo", "mallows_phi"))
    results = run_study(NOISE, settings)
    assert {(row["method"], row["flipped"]) for row in results["comparisons"]} == {
        (method, share) for method in ("cdpo", "mallows_phi") for share in (0.0, 0.4)
    }
    job = Job(seed=1, method="dpo", beta=0.5, learning_rate=8e-4)
    bench = open_world(small, 1, tmp_path)
    plain = run_job(bench, job, pairs_of_seed(bench, 1))
    ours = {
        run["flipped"]: run["agreement"]
        for run in results["runs"]
        if (run["seed"], run["method"], run["beta"]) == (1, "dpo", 0.5)
    }
    assert ours[0.0] == plain["agreement"] != ours[0.4]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "40% flipped" in page and "cDPO" in page
