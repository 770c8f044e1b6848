"""The dialogue study from end to end, on a tiny model; every number that can be had another way is."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from dialogue_world import dialogue_world

from mallowspo.errors import InputError
from mallowspo.experiments.dialogue import DialogueConfig, DialogueSetup, fast_config, run_dialogue_study
from mallowspo.experiments.dialogue_config import METHODS
from mallowspo.experiments.dialogue_models import make_judge, make_reference
from mallowspo.experiments.dialogue_runs import open_bench

JUDGE = (
    "def longer(prompt, a, b):\n    return 'A' if len(a) > len(b) else 'B' if len(b) > len(a) else 'tie'\n"
    "def good(prompt, a, b):\n    return 0.5 + 0.5 * (('good' in a) - ('good' in b))\n"
)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Two seeds on the tiny world, judged by a function."""
    folder = tmp_path_factory.mktemp("dialogue")
    (folder / "length_judge.py").write_text(JUDGE)
    setup = DialogueSetup(output_dir=str(folder / "out"), **dialogue_world(folder))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield replace(
            fast_config(DialogueConfig(setup=setup, judge="length_judge:longer")), seeds=(0, 1), temperatures=(1.0,)
        )


@pytest.fixture(scope="module")
def results(config):
    return run_dialogue_study(config)


def jobs(config):
    lines = (config.setup.folder / "jobs.jsonl").read_text().splitlines()
    return [json.loads(line)["result"] for line in lines]


def settings(results, test, method, beta):
    return next(row for row in results["tests"][test]["settings"] if (row["method"], row["beta"]) == (method, beta))


def test_it_leaves_numbers_figures_and_a_page(config, results):
    folder = config.setup.folder
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "What to conclude" in page and "MallowsPO-θ" in page and "NaN" not in (folder / "results.json").read_text()
    assert {path.stem for path in (folder / "figures").glob("*.png")} == {
        "accuracy", "calibration", "reliability", "frontier", "wins_reference", "wins_dpo",
    }  # fmt: skip
    assert results["provenance"]["versions"]["mallowspo"]


def test_a_second_run_does_nothing_twice_and_finds_the_same(config, results):
    before = {path: path.read_bytes() for path in config.setup.folder.glob("*.jsonl")}
    again = run_dialogue_study(config)
    assert {path: path.read_bytes() for path in before} == before
    same = [{k: v for k, v in found.items() if k not in ("seconds", "provenance")} for found in (results, again)]
    assert same[0] == same[1]


def test_accuracy_and_margin_are_those_of_the_saved_policies(config, results):
    """Scored again with plain transformers, one response at a time, without padding or packing."""
    from transformers import AutoModelForCausalLM

    test = open_bench(config.setup).data.tests[1]

    def gaps(folder):
        model = AutoModelForCausalLM.from_pretrained(folder)
        values = []
        for row in test.rows:
            both = []
            for side in ("chosen_ids", "rejected_ids"):
                ids = torch.tensor([row["prompt_ids"] + row[side]])
                with torch.no_grad():
                    logp = model(ids).logits.double().log_softmax(-1)
                start = len(row["prompt_ids"])
                both.append(float(logp[0, start - 1 : -1].gather(1, ids[0, start:, None]).sum()))
            values.append(both[0] - both[1])
        return np.asarray(values)

    folders = [config.setup.folder / "policies" / f"mallows_theta-beta0.5-seed{seed}" for seed in config.seeds]
    gap_sn = np.asarray([gaps(folder) for folder in folders]) - gaps(config.setup.reference_dir)
    found = settings(results, "ood", "mallows_theta", 0.5)
    assert found["accuracy"]["all"]["seeds"]["mean"] == pytest.approx((gap_sn > 0).mean())
    assert found["margin"]["all"]["rows"]["mean"] == pytest.approx(0.5 * gap_sn.mean(), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_log_loss_is_minus_the_log_of_the_links_probability(config, results, method):
    """From the logged scores by formulas written out here: σ for DPO and θ, Kendall's link for φ."""
    reference = next(job for job in jobs(config) if job["method"] == "reference")["tests"]["test"]
    logp, entropy, length = (np.asarray(reference[n]) for n in ("logp_nk", "entropy_sum_nk", "length_nk"))
    prompts = open_bench(config.setup).data.tests[0].rows["prompt"][:]
    index = (entropy / length).mean(axis=1) / math.log(_vocabulary(config))
    index = np.asarray([np.mean([index[m] for m, p in enumerate(prompts) if p == prompt]) for prompt in prompts])
    losses, gained = [], []
    for job in jobs(config):
        if (job["method"], job["beta"]) != (method, 0.1):
            continue
        policy = np.asarray(job["tests"]["test"]["logp_nk"])
        margin = 0.1 * ((policy - logp)[:, 0] - (policy - logp)[:, 1])
        weight = np.ones(len(margin)) if method == "dpo" else -job["calibration"]["scale"] * np.log(index)
        p = _kendall(margin, weight / 2) if method == "mallows_phi" else 1 / (1 + np.exp(-weight * margin))
        losses.append(-np.log(p).mean())
        gained.append((np.log(p) + np.log1p(np.exp(-margin))).mean())
    found = settings(results, "test", method, 0.1)
    assert found["log_loss"]["all"]["seeds"]["mean"] == pytest.approx(np.mean(losses), rel=1e-6)
    expected = pytest.approx(np.mean(gained), abs=1e-7)
    assert found["log_probability_gained_by_weight"]["seeds"]["mean"] == expected


def _vocabulary(config):
    return json.loads((config.setup.reference_dir / "config.json").read_text())["vocab_size"]


def _kendall(gap, rate, epsilon=0.5):
    """The paper's g with h(k) = k/(1 − φ^k), and the cubic through ½ that meets its value and slope at ±ε."""

    def exact(s):
        h = [k / (1 - np.exp(-rate * k)) for k in (np.abs(s) + 1, np.abs(s))]
        return np.where(s > 0, h[0] - h[1], 1 - (h[0] - h[1]))

    step = 1e-6
    value = exact(np.full_like(gap, epsilon)) - 0.5
    slope = (exact(np.full_like(gap, epsilon + step)) - exact(np.full_like(gap, epsilon - step))) / (2 * step)
    cubic = (slope * epsilon - value) / (2 * epsilon**3)
    linear = value / epsilon - cubic * epsilon**2
    inside = 0.5 + linear * gap + cubic * gap**3
    return np.where(np.abs(gap) < epsilon, inside, exact(np.where(gap == 0, 1.0, gap)))


def test_thirds_make_up_the_whole(results):
    for test in results["tests"].values():
        for row in test["settings"]:
            parts = [row["accuracy"][third] for third in ("agreed", "middle", "contested")]
            whole = sum(part["count"] * part["rows"]["mean"] for part in parts) / sum(part["count"] for part in parts)
            assert whole == pytest.approx(row["accuracy"]["all"]["rows"]["mean"])


def test_win_rates_are_those_of_the_answers_that_were_kept(config, results):
    """The judge prefers the longer answer: what it must have said is told from the kept answers alone."""
    answers = {}
    for line in (config.setup.folder / "generations.jsonl").read_text().splitlines():
        record = json.loads(line)
        name = record["source"].rsplit("/", 1)[-1]
        answers.setdefault(name, []).append((record["prompt_index"], len(record["answer"])))
    lengths = {name: np.asarray([length for _, length in sorted(found)]) for name, found in answers.items()}

    def preference(method, baseline):
        found = []
        for seed in config.seeds:
            other = "reference" if baseline == "reference" else f"dpo-beta0.1-seed{seed}"
            found.append(0.5 + 0.5 * np.sign(lengths[f"{method}-beta0.1-seed{seed}"] - lengths[other]))
        return np.mean(found)

    assert len(results["win_rates"]) == 5
    for row in results["win_rates"]:
        assert row["win_rate"] == pytest.approx(preference(row["method"], row["baseline"]))


def test_what_the_judge_is_worth_is_told_from_human_pairs(config, results):
    rows = open_bench(config.setup).data.tests[0].rows
    longer = [0.5 + 0.5 * np.sign(len(row["chosen"].strip()) - len(row["rejected"].strip())) for row in rows]
    judge = results["judge"]
    assert judge["accuracy"]["mean"] == judge["longer_is_chosen"]["mean"] == pytest.approx(np.mean(longer))
    assert judge["prefers_longer"]["mean"] == 1.0 and judge["orders"]["consistent"] == 1.0


def test_seeds_and_methods_are_other_policies(config, results):
    trained = {json.dumps(job["tests"]) for job in jobs(config) if job["method"] != "reference"}
    assert len(trained) == len(config.seeds) * len(config.methods) * len(config.betas)
    steps = {row["steps"] for row in results["policies"]}
    assert steps == {math.ceil(config.setup.train_pairs / config.setup.batch_size)}


def test_the_heldout_judge_learns_what_people_prefer(config, tmp_path):
    """On its own rows; how far it carries is what the study measures."""
    from transformers import AutoModelForSequenceClassification

    setup = replace(config.setup, output_dir=str(tmp_path))
    bench, steps = open_bench(setup), []
    heldout = replace(config, setup=setup, judge="heldout", judge_steps=40, judge_learning_rate=3e-3)
    folder = make_judge(heldout, bench.data.judge, lambda done, total: steps.append(done))
    model = AutoModelForSequenceClassification.from_pretrained(folder)

    def reward(prompt, text):
        with torch.no_grad():
            return float(model(torch.tensor([bench.tokenizer(prompt + text.strip())["input_ids"]])).logits)

    rows = bench.data.judge.rows
    right = [reward(row["prompt"], row["chosen"]) > reward(row["prompt"], row["rejected"]) for row in rows]
    assert np.mean(right) >= 0.9 and steps[-1] == 40
    steps.clear()
    make_judge(heldout, bench.data.judge, lambda done, total: steps.append(done))
    assert steps == [0, 40]  # it is there already


def test_the_reference_learns_the_answers_and_is_made_anew_when_settings_change(config, tmp_path):
    from transformers import AutoModelForCausalLM

    setup = replace(config.setup, output_dir=str(tmp_path), sft_steps=30)
    bench = open_bench(setup)
    key = make_reference(setup, bench.data.sft, bench.tokenizer, lambda done, total: None)

    def loss(folder):
        model = AutoModelForCausalLM.from_pretrained(folder)
        ids = torch.tensor([bench.tokenizer("\n\nHuman: what is one?\n\nAssistant: good two")["input_ids"]])
        with torch.no_grad():
            return float(model(ids).logits[0, -4:-1].log_softmax(-1).gather(1, ids[0, -3:, None]).sum())

    assert loss(setup.reference_dir) > loss(setup.model_name_or_path) + 1
    stamp = (setup.reference_dir / "model.safetensors").stat().st_mtime_ns
    assert make_reference(setup, bench.data.sft, bench.tokenizer, lambda done, total: None) == key
    assert (setup.reference_dir / "model.safetensors").stat().st_mtime_ns == stamp
    other = make_reference(replace(setup, sft_steps=2), bench.data.sft, bench.tokenizer, lambda *_: None)
    assert other != key and (setup.reference_dir / "model.safetensors").stat().st_mtime_ns != stamp


def test_a_policy_that_is_gone_is_named(config, results):
    shutil.rmtree(config.setup.folder / "policies/dpo-beta0.1-seed1")
    with pytest.raises(InputError, match="dpo-beta0.1-seed1 is missing"):
        run_dialogue_study(config)
