"""The quick start from end to end in its small configuration, and the rules by which its page speaks."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from mallowspo.errors import InputError
from mallowspo.experiments.quickstart import QuickstartConfig, fast_config, run_quickstart
from mallowspo.experiments.quickstart_config import METHODS
from mallowspo.experiments.quickstart_report import write_quickstart_report
from mallowspo.experiments.quickstart_words import conclusions, overall_sentence, tercile_sentence


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quickstart")
    calls: list[tuple[str, int, int]] = []
    results = run_quickstart(
        fast_config(str(folder)), progress=lambda stage, done, total: calls.append((stage, done, total))
    )
    return folder, results, calls


def test_it_writes_what_it_promises(run):
    folder, results, _ = run
    assert json.loads((folder / "results.json").read_text(encoding="utf-8")) == results
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert {path.suffix for path in (folder / "figures").iterdir()} == {".svg", ".png"}
    assert AutoModelForCausalLM.from_pretrained(folder / "reference").num_parameters() > 0
    assert AutoTokenizer.from_pretrained(folder / "reference").eos_token == "<eos>"
    rows = [json.loads(text) for text in (folder / "preferences.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 240
    assert set(rows[0]) == {"prompt", "chosen", "rejected"}
    assert all(row["chosen"] != row["rejected"] for row in rows)


def test_every_method_had_the_same_budget(run):
    _, results, calls = run
    assert {(r["method"], r["beta"]) for r in results["runs"]} == {(m, b) for m in METHODS for b in (0.5, 2.0)}
    assert len({r["steps"] for r in results["runs"]}) == 1
    assert calls[-1] == ("Writing the report", 1, 1)
    assert ("Training the policies", 8, 8) in calls


def test_training_moved_the_policies_and_a_smaller_beta_moved_them_further(run):
    _, results, _ = run
    kl = {(r["method"], r["beta"]): r["kl"] for r in results["runs"]}
    for method in METHODS:
        assert 0 < kl[method, 2.0] < kl[method, 0.5]


def test_nothing_beats_the_optimum_and_the_parts_add_up(run):
    _, results, _ = run
    kl, best = results["optimum"]["kl"], results["optimum"]["agreement"]
    for r in results["runs"]:
        assert r["agreement"] <= np.interp(r["kl_on_candidates"], kl, best) + 1e-6
        assert np.mean(r["agreement_by_tercile"]) == pytest.approx(r["agreement"])
        assert r["kl_on_candidates"] <= r["kl"]
        assert r["agreement"] <= r["agreement_renormalised"] + r["outside"]


def test_the_true_index_reaches_the_trainer_unchanged(run):
    _, results, _ = run
    low, middle, high = results["index"]["weight_quantiles"]["true"]
    truth = np.asarray(results["index"]["true_neg_log_phi_p"])
    wanted = np.quantile(truth / truth.mean(), [0.05, 0.5, 0.95])  # mean weight 1
    np.testing.assert_allclose([low, middle, high], wanted, rtol=0.02)


def test_one_seed_decides_nothing(run):
    folder, results, _ = run
    assert all(row["verdict"] == "open" for row in results["comparisons"])
    assert "One seed resolves nothing" in conclusions(results)[0]
    assert "decides nothing" in (folder / "report.html").read_text(encoding="utf-8")


def test_the_page_can_be_made_again_from_the_file(run, tmp_path):
    made, results, _ = run
    write_quickstart_report(tmp_path, results)
    first, again = ((folder / "figures" / "index.svg").read_bytes() for folder in (made, tmp_path))
    assert first == again


def set_verdict(results, method, word, quantity="agreement"):
    """Give one comparison an interval that says `word`, at every learning rate."""
    centre = {"better": 0.01, "worse": -0.01, "open": 0.0}[word]
    for row in results["comparisons"]:
        if (row["method"], row["quantity"]) == (method, quantity):
            row["difference"] = {"mean": centre, "low": centre - 0.005, "high": centre + 0.005}
            row["verdict"] = word


@pytest.fixture
def invented(run):
    """Results with two seeds, whose verdicts a test may set."""
    results = copy.deepcopy(run[1])
    results["config"]["seeds"] = [0, 1]
    return results


@pytest.mark.parametrize(
    ("theta", "phi", "true", "says"),
    [
        ("better", "open", "better", "MallowsPO-θ did better than DPO"),
        ("worse", "open", "open", "MallowsPO-θ did worse than DPO"),
        ("better", "better", "better", "MallowsPO-θ and MallowsPO-φ did better"),
        ("open", "open", "better", "it is the index, not the objective"),
        ("open", "open", "worse", "Even a perfect index does not help"),
        ("open", "open", "open", "worth less than this run can resolve"),
        ("better", "worse", "open", "MallowsPO-φ did worse than DPO"),
    ],
)
def test_conclusions_follow_the_intervals_in_either_direction(invented, theta, phi, true, says):
    for method, word in (("mallows_theta", theta), ("mallows_phi", phi), ("mallows_theta_true", true)):
        set_verdict(invented, method, word)
    assert says in " ".join(conclusions(invented))


@pytest.mark.parametrize(("word", "says"), [("better", "ahead of DPO"), ("worse", "behind DPO"), ("open", "holds 0")])
def test_a_sentence_says_what_its_interval_says(invented, word, says):
    set_verdict(invented, "mallows_phi", word)
    assert says in overall_sentence(invented, "mallows_phi")
    set_verdict(invented, "mallows_phi", word, "agreement_contested")
    assert "contested" in tercile_sentence(invented, "mallows_phi")


def test_results_do_not_depend_on_who_runs_them(run, tmp_path):
    """A study in a worker process, and with fewer settings, equals one in this process, number for number."""
    _, results, _ = run
    parallel = run_quickstart(replace(fast_config(str(tmp_path)), betas=(2.0,), workers=1))
    ours = {run["method"]: run for run in results["runs"] if run["beta"] == 2.0}
    assert len(parallel["runs"]) == len(ours) == len(METHODS)
    for theirs in parallel["runs"]:
        assert theirs | {"seconds": 0} == ours[theirs["method"]] | {"seconds": 0}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"seeds": ()}, "seeds"),
        ({"betas": (1.0, 1.0)}, "none twice"),
        ({"betas": (0.0,)}, "finite numbers > 0"),
        ({"epochs": 0}, "at least 1"),
        ({"workers": -1}, "0 or more"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(change, says):
    with pytest.raises(InputError, match=says):
        QuickstartConfig(**change)


def test_an_output_dir_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError, match="is a file"):
        run_quickstart(fast_config(str(tmp_path / "taken")))


@pytest.mark.slow
def test_the_full_quick_start_keeps_its_promises(tmp_path):
    results = run_quickstart(QuickstartConfig(output_dir=str(tmp_path)))
    assert len(results["config"]["seeds"]) >= 5
    assert len(results["config"]["betas"]) >= 3
    assert results["seconds"]["total"] < 300
    assert results["peak_memory_gb"] < 3
    assert results["reference"]["excess_nats_heldout"] < 0.02
    assert results["index"]["mean_entropy"]["rank_correlation"]["low"] > 0.5
    assert len(results["examples"]) == 6
