"""The study of the indexes: the paper's check against enumeration, the judge on indexes that are exact."""

from itertools import permutations
from math import factorial, log
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from forks import run_script
from mallowspo.dispersion.maps import choice_entropy
from mallowspo.errors import InputError
from mallowspo.experiments.estimator_config import IndexStudyConfig, fast_config
from mallowspo.experiments.estimator_indexes import (
    INDEXES,
    Index,
    ask_people,
    mapped,
    people_estimate,
    rank_agreement,
)
from mallowspo.experiments.estimator_paper import entropy_estimate, paper_check
from mallowspo.experiments.estimator_summary import VOTED, downstream_summary, survival
from mallowspo.experiments.estimator_words import people_sentence
from mallowspo.experiments.estimator_worlds import WorldJob
from mallowspo.world.language import build_world

TRUE = np.array([0.05, 0.3, 0.8, 1.5, 3.0])


@pytest.mark.parametrize("distance", ["kendall", "spearman"])
@pytest.mark.parametrize("items", [3, 4, 5])
def test_the_paper_s_estimate_is_that_of_all_rankings(distance, items):
    for phi in (0.1, 0.6, 0.95):
        weights = []
        for ranking in permutations(range(items)):
            pairs = [(i, j) for i in range(items) for j in range(i)]
            kendall = sum(ranking[i] < ranking[j] for i, j in pairs)
            spearman = sum((rank - i) ** 2 for i, rank in enumerate(ranking))
            weights.append(phi ** (kendall if distance == "kendall" else spearman))
        p = np.array(weights) / sum(weights)
        wanted = -log(-(p * np.log(p)).sum() / log(factorial(items)))
        assert entropy_estimate(items, phi, distance) == pytest.approx(wanted, rel=1e-9)


def test_the_check_finds_the_estimate_rising():
    for row in paper_check((3, 5)):
        assert row["rising"] and 0 < row["correlation"] < 1
        assert spearmanr(row["neg_log_phi"], row["estimate"]).statistic > 0.999


def test_an_exact_entropy_is_mapped_to_the_truth():
    index = Index("entropy", choice_entropy(TRUE, alternatives=5) / log(100))
    given = {"fit": slice(0, 5), "people_p": TRUE, "vocab_size": 100, "alternatives": 5}
    assert mapped(index, "mallows", **given) == pytest.approx(TRUE, rel=1e-6)
    assert mapped(index, "isotonic", **given) == pytest.approx(TRUE, rel=1e-9)
    assert rank_agreement(mapped(index, "quantile", **given), TRUE) == pytest.approx(1)
    assert mapped(index, "neglog", **given) == pytest.approx(-np.log(index.u_p))
    assert mapped(Index("entropy", index.u_p + 1), "neglog", **given) is None
    assert mapped(Index("neg_log_phi", np.exp(-TRUE)), "neglog", **given) == pytest.approx(TRUE)
    assert mapped(Index("neg_log_phi", np.exp(-TRUE)), "mallows", **given) is None


def test_an_index_without_an_order_agrees_with_nothing():
    assert rank_agreement(np.ones(5), TRUE) == 0.0


def test_votes_rise_with_agreement_and_only_the_asked_are_known():
    world = build_world(0, train_prompts=120, heldout_prompts=30)
    prompts = [*world.heldout, *world.train]
    # The two best answers of each prompt: neighbours in the centre, whatever the family.
    pairs = [[p, *np.argsort(prompt.center)[:2].tolist()] for p, prompt in enumerate(prompts)]
    votes = ask_people(prompts, pairs, 30, voted=80, members=200, rng=np.random.default_rng(0))
    people_p = people_estimate(votes, len(prompts), members=200)
    asked = np.isfinite(people_p)
    truth = np.array([prompt.neg_log_phi for prompt in prompts])
    assert asked.sum() == 80 and not asked[:30].any()
    # φ̂ = (1 − p)/p at 200 votes: within sampling error where φ is not so small that hardly anybody dissents.
    clear = asked & (truth < 1)
    assert np.abs(people_p - truth)[clear].mean() < 0.12
    assert rank_agreement(people_p[asked], truth[asked]) > 0.95


def stress_row(name, means, trained=True):
    interval = {index: {"mean": mean, "low": mean - 0.05, "high": mean} for index, mean in means.items()}
    spread = {index: {"neglog": {"mean": 1.0 if trained else 9.0, "low": 1.0, "high": 1.0}} for index in means}
    return {"condition": name, "trained": trained, "rank": interval, "spread": spread}


def test_an_index_survives_by_its_worst_trained_condition():
    names = (*INDEXES, VOTED)
    rows = [
        stress_row("easy", dict.fromkeys(names, 0.97)),
        stress_row("hard", dict.fromkeys(names, 0.8) | {"panel": 0.92}),
        stress_row("undertrained", dict.fromkeys(names, 0.0), trained=False),
    ]
    found = survival(rows)
    assert (found["panel"]["reached"], found["panel"]["of"], found["panel"]["worst_condition"]) == (2, 2, "hard")
    assert found["panel"]["worst_low"] == pytest.approx(0.87)
    assert (found["first_token"]["reached"], found["first_token"]["worst"]) == (1, 0.8)
    assert found["panel"]["spread_reached"] == {"neglog": 2}


def test_people_whose_votes_leave_a_figure_open_are_told_of_without_it():
    nothing = {"value": None, "low": None, "high": None, "count": 0}
    item = {"pairs": {"value": 0.5, "low": 0.25, "high": 0.75, "count": 9}, "auroc": nothing}
    said = people_sentence({"people": {"model": "m", "data": {"some": {"indexes": {"panel": item}}}}})
    assert "0.50 [0.25, 0.75]" in said and "– [–, –]" in said


def test_methods_are_compared_at_equal_kl():
    # θ with the true index reaches everywhere .01 more than DPO, whatever its KL; the others are DPO.
    runs = [
        {"method": method, "beta": beta, "kl": kl * scale, "agreement": 0.5 + 0.1 * np.log(kl * scale) + gain}
        for method, scale, gain in (
            ("dpo", 1, 0), ("theta_mean_entropy", 1.3, 0), ("theta_panel", 0.8, 0), ("theta_true", 1.5, 0.01),
        )
        for beta, kl in ((1.0, 0.1), (2.0, 0.2), (4.0, 0.4))
    ]  # fmt: skip
    jobs = [WorldJob(condition="mixed_length", seed=seed) for seed in (1, 2, 3)]
    found = {(row["method"], row["baseline"]): row for row in downstream_summary(jobs, [{"runs": runs}] * 3)}
    assert found["theta_true", "dpo"]["difference"]["mean"] == pytest.approx(0.01)
    assert found["theta_panel", "dpo"]["difference"]["mean"] == pytest.approx(0, abs=1e-12)
    assert found["theta_panel", "theta_true"]["difference"]["mean"] == pytest.approx(-0.01)


def test_jobs_cover_every_condition_and_seed_once():
    jobs = IndexStudyConfig(seeds=(1, 2), conditions=("careless", "style_all", "careless+style_all")).jobs
    assert [job.condition for job in jobs[-2:]] == ["careless+style_all"] * 2
    assert len({(job.condition, job.seed) for job in jobs}) == len(jobs) == 6


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"seeds": ()}, "seeds"),
        ({"conditions": ("nowhere",)}, "nowhere"),
        ({"downstream_conditions": ("style_all+style_agreed",)}, "endings"),
        ({"paper_sizes": (1,)}, "paper_sizes"),
        ({"voted_prompts": 1}, "voted_prompts"),
        ({"members": 0}, "members"),
        ({"model": "M"}, "model and data"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(given, said):
    with pytest.raises(InputError, match=said):
        IndexStudyConfig(**given)


def test_the_fast_settings_are_the_same_study():
    assert [job.condition for job in fast_config("x").jobs] == ["mixed_length", "style_agreed"]


def test_the_pages_show_the_committed_results(tmp_path):
    root = Path(__file__).resolve().parent.parent.parent
    done = run_script(root / "docs/runs/estimator_index_study.py", "--check", log=tmp_path / "log")
    assert done.returncode == 0, done.stderr
