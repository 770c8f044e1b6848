"""The dialogue study from end to end, on a tiny model; every number that can be had another way is."""

import json
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dialogue_world import dialogue_world
from evaluation.judge_server import JudgeServer
from mallowspo.evaluation import judge
from mallowspo.stats.bootstrap import Resamples
from mallowspo.studies.dialogue.data import _read_parts, read_dialogues, study_tokenizer
from mallowspo.studies.dialogue.design import METHODS, DialogueSettings, DialogueSetup, fast
from mallowspo.studies.dialogue.study import DIALOGUE
from mallowspo.studies.dialogue.summary import both_intervals
from mallowspo.studies.study import run_study, work_on
from tiny import tiny_tokenizer

JUDGE = (
    "def longer(prompt, a, b):\n    return 'A' if len(a) > len(b) else 'B' if len(b) > len(a) else 'tie'\n"
    "def good(prompt, a, b):\n    return 0.5 + 0.5 * (('good' in a) - ('good' in b))\n"
)


STAGES = {stage.name: stage for stage in DIALOGUE.stages}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Two seeds on the tiny world, judged by a function."""
    folder = tmp_path_factory.mktemp("dialogue")
    (folder / "length_judge.py").write_text(JUDGE)
    given = DialogueSettings(
        output_dir=str(folder / "out"), setup=DialogueSetup(**dialogue_world(folder)), judge="length_judge:longer"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield replace(fast(given), seeds=(0, 1), temperatures=(1.0,))


@pytest.fixture(scope="module")
def calls():
    """What the run said of its progress."""
    return []


@pytest.fixture(scope="module")
def results(config, calls):
    return run_study(DIALOGUE, config, progress=lambda *call: calls.append(call))


def folder_of(config):
    return Path(config.output_dir)


def jobs(config):
    """The results of the policies' jobs."""
    lines = (folder_of(config) / "jobs.jsonl").read_text().splitlines()
    return [found for line in lines if "tests" in (found := json.loads(line)["result"])]


def made(name, config, done=None):
    """Run one stage of one job, as the library does; its result and the file that says it was done."""
    stage, folder = STAGES[name], folder_of(config)
    setup, (job,) = stage.setup(config, done or {}), stage.jobs(config, done or {})
    (note,) = stage.files(setup, job, folder)
    return (work_on(stage, setup, folder, job) if not note.exists() else None), note


def levels(results, test, method, beta):
    return next(row for row in results["tests"][test]["settings"] if (row["method"], row["beta"]) == (method, beta))


def test_long_jobs_tell_how_far_they_are(config, results, calls):
    steps = config.setup.sft_steps
    assert [call for call in calls if call[0] == "SFT"] == [("SFT", n + 1, steps) for n in range(steps)]
    verdicts = [call for call in calls if call[0] == "Verdicts"]
    assert verdicts and verdicts[-1][1] == verdicts[-1][2] == len(verdicts)


def same(*found):
    return [{k: v for k, v in one.items() if k not in ("seconds", "peak_memory_gb", "provenance")} for one in found]


def test_a_second_run_does_nothing_twice_and_finds_the_same(config, results):
    before = {path: path.read_bytes() for path in folder_of(config).glob("*.jsonl")}
    first, second = same(results, run_study(DIALOGUE, config))
    assert {path: path.read_bytes() for path in before} == before and len(before) == 3
    assert first == second


def test_accuracy_and_margin_are_those_of_the_saved_policies(config, results):
    """Scored again with plain transformers, one response at a time, without padding or packing."""
    from transformers import AutoModelForCausalLM

    test = read_dialogues(config.setup).tests[1]

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

    folders = [folder_of(config) / "policies" / f"mallows_theta-beta0.5-seed{seed}" for seed in config.seeds]
    gap_sn = np.asarray([gaps(folder) for folder in folders]) - gaps(folder_of(config) / "reference")
    found = levels(results, "ood", "mallows_theta", 0.5)
    assert found["accuracy"]["all"]["seeds"]["mean"] == pytest.approx((gap_sn > 0).mean())
    assert found["margin"]["all"]["rows"]["mean"] == pytest.approx(0.5 * gap_sn.mean(), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_log_loss_is_minus_the_log_of_the_links_probability(config, results, method):
    """From the logged scores by formulas written out here: σ for DPO and θ, Kendall's link for φ."""
    reference = next(job for job in jobs(config) if job["method"] == "reference")["tests"]["test"]
    logp, entropy, length = (np.asarray(reference[n]) for n in ("logp_nk", "entropy_sum_nk", "length_nk"))
    prompts = read_dialogues(config.setup).tests[0].rows["prompt"][:]
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
    found = levels(results, "test", method, 0.1)
    assert found["log_loss"]["all"]["seeds"]["mean"] == pytest.approx(np.mean(losses), rel=1e-6)
    expected = pytest.approx(np.mean(gained), abs=1e-7)
    assert found["log_probability_gained_by_weight"]["seeds"]["mean"] == expected


def _vocabulary(config):
    return json.loads((folder_of(config) / "reference/config.json").read_text())["vocab_size"]


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
    for line in (folder_of(config) / "generations.jsonl").read_text().splitlines():
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
    rows = read_dialogues(config.setup).tests[0].rows
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

    heldout = replace(config, output_dir=str(tmp_path), judge="heldout", judge_steps=40, judge_learning_rate=3e-3)
    _, note = made("judge", heldout)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "judge")
    tokenizer = study_tokenizer(config.setup)

    def reward(prompt, text):
        with torch.no_grad():
            return float(model(torch.tensor([tokenizer(prompt + text.strip())["input_ids"]])).logits)

    rows = read_dialogues(config.setup).judge.rows
    right = [reward(row["prompt"], row["chosen"]) > reward(row["prompt"], row["rejected"]) for row in rows]
    assert np.mean(right) >= 0.9
    assert made("judge", heldout) == (None, note)  # it is there already
    assert made("judge", replace(heldout, judge_steps=2))[1] != note


def test_the_reference_learns_the_answers_and_is_made_anew_when_settings_change(config, tmp_path):
    from transformers import AutoModelForCausalLM

    longer = replace(config, output_dir=str(tmp_path), setup=replace(config.setup, sft_steps=30))
    found, note = made("reference", longer)
    tokenizer = study_tokenizer(config.setup)

    def loss(folder):
        model = AutoModelForCausalLM.from_pretrained(folder)
        ids = torch.tensor([tokenizer("\n\nHuman: what is one?\n\nAssistant: good two")["input_ids"]])
        with torch.no_grad():
            return float(model(ids).logits[0, -4:-1].log_softmax(-1).gather(1, ids[0, -3:, None]).sum())

    assert loss(tmp_path / "reference") > loss(config.setup.model_name_or_path) + 1
    # What SFT does not read leaves it as it is; and another reference in its place is not taken for it.
    other_pairs = replace(longer.setup, learning_rate=1e-5, test_pairs=5, train_pairs=8)
    assert made("reference", replace(longer, setup=other_pairs)) == (None, note)
    other, _ = made("reference", replace(longer, setup=replace(longer.setup, sft_steps=2)))
    assert other != found and not note.exists()


def test_other_data_and_models_under_the_same_paths_are_other_work(config, tmp_path):
    data = dialogue_world(tmp_path)
    there = replace(config, setup=replace(config.setup, **data), output_dir=str(tmp_path / "out"))

    def keys():
        _read_parts.cache_clear()
        read_dialogues.cache_clear()
        done = {"reference": [{"key": "same"}]}
        return [STAGES[name].setup(there, done).key for name in ("reference", "judge", "policies")]

    def change(path):
        path.write_text(path.read_text().replace("what is", "where is"))

    found = [keys()]
    change(Path(data["test_data"]))
    found.append(keys())
    assert found[1][:2] == found[0][:2] and found[1][2] != found[0][2]
    change(Path(data["train_data"]))
    found.append(keys())
    assert not set(found[2]) & set(found[1])
    os.utime(tmp_path / "model/model.safetensors", (1, 1))
    found.append(keys())
    assert found[3][0] != found[2][0] and found[3][1] != found[2][1] and found[3][2] == found[2][2]


def test_a_policy_that_is_gone_is_trained_again(config, results):
    gone = folder_of(config) / "policies/dpo-beta0.1-seed1"
    shutil.rmtree(gone)
    first, second = same(results, run_study(DIALOGUE, config))
    assert (gone / "model.safetensors").is_file()
    for found in (first, second):
        del found["cpu_seconds"], found["policies"]
    assert first == second


def test_a_server_is_asked_once_and_what_it_refused_again(config, results):
    """In the same folder: the policies and their answers are there."""
    refused, refusing = [], [True]

    def faults(question, n):
        if refusing[0] and question not in refused and len(refused) < 2:
            refused.append(question)
        return "400" if refusing[0] and question in refused else None

    with JudgeServer(faults) as server:
        asked = replace(config, judge=f"{server.url}#judge")
        found = run_study(DIALOGUE, asked)
        assert found["judge"]["refused"] == 2 == len(refused)
        questions, refusing[0] = len(server.seen), False
        requests = len(server.requests)
        assert run_study(DIALOGUE, asked)["judge"]["refused"] == 0
        assert len(server.requests) == requests + 2 and len(server.seen) == questions
        again = run_study(DIALOGUE, asked)
        assert len(server.requests) == requests + 2
    # This server prefers the longer answer, as the function does.
    assert again["win_rates"] == results["win_rates"]


def test_workers_change_no_result(config, results, tmp_path):
    other = run_study(DIALOGUE, replace(config, output_dir=str(tmp_path / "out"), workers=1))
    for part in ("data", "reference", "tests", "judge", "win_rates", "examples"):
        assert other[part] == results[part]


def test_the_two_sources_of_chance_are_kept_apart():
    draws = Resamples.of(range(50), rng=np.random.default_rng(0))
    # Seeds that differ, rows that do not: chance lies between the seeds alone.
    found = both_intervals(np.repeat([[0.0], [1.0], [2.0]], 50, axis=1), draws)
    assert found["rows"]["low"] == found["rows"]["high"] == pytest.approx(1.0)
    assert found["seeds"]["low"] == pytest.approx(1 - 4.3027 / np.sqrt(3), abs=1e-3)  # t with 2 degrees
    found = both_intervals(np.tile(np.arange(50.0), (3, 1)), draws)
    assert found["seeds"]["low"] == found["seeds"]["high"] == pytest.approx(24.5)
    assert found["rows"]["low"] < 22


def test_a_chat_model_is_trained_answers_and_is_judged_in_its_template(tmp_path, monkeypatch):
    """The whole study on a model with a chat template; its judge reads what `mallowspo evaluate` would show it."""
    given = dialogue_world(tmp_path)
    tokenizer = tiny_tokenizer(chat=True)
    tokenizer.save_pretrained(given["model_name_or_path"])
    shown = []
    ids = judge.reward_ids
    monkeypatch.setattr(judge, "reward_ids", lambda *text: shown.append(ids(*text)) or shown[-1])
    settings = DialogueSettings(setup=DialogueSetup(prompt_format="chat", **given), output_dir=str(tmp_path / "out"))
    settings = replace(fast(settings), methods=("dpo", "mallows_theta_50"), temperatures=(1.0,))
    results = run_study(DIALOGUE, settings)
    assert {row["method"] for row in results["win_rates"]} == {"dpo", "mallows_theta_50"}
    texts = {tokenizer.decode(row) for row in shown}
    assert texts and all(text.startswith("<|user|>") and "Human:" not in text for text in texts)
