"""The study of the indexes: the paper's check against enumeration, the judge on indexes that are exact, people."""

import json
from dataclasses import replace
from itertools import permutations
from math import factorial, log
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from mallowspo.compat import add_score_head
from mallowspo.dispersion import ESTIMATORS
from mallowspo.dispersion.panel import choice_entropy
from mallowspo.dispersion.votes_file import VoteRows
from mallowspo.errors import InputError
from mallowspo.studies.estimator import people as people_study
from mallowspo.studies.estimator.bench import WorldJob, prompt_tokens, score_pairs
from mallowspo.studies.estimator.indexes import (
    INDEXES,
    Index,
    ask_people,
    mapped,
    people_estimate,
    rank_agreement,
)
from mallowspo.studies.estimator.page import page
from mallowspo.studies.estimator.people import CONTROLS, PEOPLE, PeopleSettings, contradiction_table, people_sections
from mallowspo.studies.estimator.study import ESTIMATOR, EstimatorSettings
from mallowspo.studies.estimator.summary import VOTED, downstream_summary, entropy_estimate, paper_check, survival
from mallowspo.studies.study import run_study
from mallowspo.world.language import build_world
from tiny import save_tiny, tiny_llama, tiny_tokenizer

WORDS = "good bad yes no maybe one two three four five".split()


def write_votes(path):
    """People contradict each other on long answers: the control `length` must find exactly that."""
    rows = [
        {
            "prompt": f"Question {i // 2}",
            "chosen": " " + " ".join(WORDS[: i + 1]),
            "rejected": " " + WORDS[-1] * (i + 1),
            "votes": [2, 1] if i >= 5 else [3, 0],
        }
        for i in range(10)
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """A model and votes, both tiny."""
    folder = tmp_path_factory.mktemp("people")
    return {"model": str(save_tiny(folder / "model")), "data": {"toy": write_votes(folder / "v.jsonl")}}


@pytest.fixture(scope="module")
def run(people, tmp_path_factory):
    """The fast form of the study, with people."""
    folder, calls = tmp_path_factory.mktemp("estimator"), []
    settings = replace(ESTIMATOR.presets["fast"](str(folder)), **people)
    return folder, settings, run_study(ESTIMATOR, settings, progress=lambda *call: calls.append(call)), calls


def test_the_fast_form_shows_every_part(run):
    folder, _, results, calls = run
    assert [row["condition"] for row in results["stress"]] == ["mixed_length", "style_agreed"]
    assert {*INDEXES, VOTED} == set(results["survival"]) == set(results["stress"][0]["rank"])
    assert len(results["downstream"]) == 5 and len(results["paper"]) == 4
    assert {path.stem for path in (folder / "figures").glob("*.png")} == {
        "paper_kendall", "paper_spearman", "ranks", "people_toy",
    }  # fmt: skip
    # A model or a file that cannot be used is found out before anything is trained.
    assert calls[0][0] == "Reading people's pairs"


def test_it_goes_on_from_what_is_done_and_workers_change_nothing(run, tmp_path):
    folder, settings, results, _ = run
    before = (folder / "jobs.jsonl").read_bytes()
    again = run_study(ESTIMATOR, settings)
    assert (folder / "jobs.jsonl").read_bytes() == before
    # What was trained is trained no more where only the judge is told something else.
    told = run_study(ESTIMATOR, replace(settings, alternatives=7))
    stages = len((folder / "jobs.jsonl").read_text().splitlines()) - len(before.splitlines())
    assert stages == 2 and told["downstream"] == again["downstream"] == results["downstream"]
    assert again["stress"] == results["stress"] != told["stress"]
    fewer = {"conditions": ("style_agreed",), "downstream_conditions": (), "model": None, "data": {}, "workers": 1}
    apart = run_study(ESTIMATOR, replace(settings, output_dir=str(tmp_path), **fewer))
    assert apart["stress"] == results["stress"][1:] and apart["people"] is None and apart["downstream"] == []


def test_one_seed_decides_nothing(run):
    shown = page(run[2])
    assert {row[1] for row in shown.verdicts.rows} == {"open"}
    worth = next(section for section in shown.sections if section.heading.startswith("What an index is worth"))
    lines = next(block.items for block in worth.body if hasattr(block, "items"))
    assert len(lines) == 5 and not any("ahead" in line or "behind" in line for line in lines)


@pytest.mark.parametrize(("reached", "word"), [(2, "yes"), (1, "no")])
def test_an_index_survives_where_every_condition_is_reached(run, reached, word):
    results = json.loads(json.dumps(run[2]))
    for row in results["stress"]:
        row["seeds"] = [1, 2]
    results["survival"]["panel"] |= {"reached": reached, "of": 2}
    assert next(row for row in page(results).verdicts.rows if row[0] == "panel, one pass")[1] == word


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


def facts(auroc):
    """What one data set says of one index."""
    nothing = {"value": None, "low": None, "high": None, "count": 0}
    item = {"pairs": {"value": 0.5, "low": 0.25, "high": 0.75, "count": 9}, "auroc": auroc, "prompts_votes": nothing}
    counts = dict.fromkeys(
        ("pairs", "prompts", "votes", "contradicted", "unanimous", "responses", "cut_responses", "cut_prompts"), 9
    )
    return {"some": {**counts, "indexes": {"panel": item}}}


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ((0.5, 0.4, 0.6), "no significant difference, 0.50 [0.40, 0.60]"),
        ((0.7, 0.6, 0.8), "larger, 0.70 [0.60, 0.80]"),
        ((0.3, 0.2, 0.4), "smaller, 0.30 [0.20, 0.40]"),
        ((None, None, None), "no significant difference, –"),
    ],
)
def test_what_an_index_says_of_contradicted_pairs_follows_from_its_interval(ends, said):
    data = facts(dict(zip(("value", "low", "high"), ends, strict=True)))
    assert contradiction_table(data).rows == [["panel", said]]
    rows = people_sections(data)[0].body[-1].rows
    assert rows[0][1:3] == ["0.50 [0.25, 0.75]", "–"]


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
    jobs = EstimatorSettings(seeds=(1, 2), conditions=("careless", "style_all", "careless+style_all")).jobs
    assert [job.condition for job in jobs[-2:]] == ["careless+style_all"] * 2
    assert len({(job.condition, job.seed) for job in jobs}) == len(jobs) == 6


def entropies(model, prompt, response):
    with torch.no_grad():
        logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1].double()
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1).numpy(), float(log_p[range(len(response)), response].sum())


def test_scores_are_those_of_plain_logits():
    tokenizer = tiny_tokenizer()
    plain, scored = (tiny_llama(vocab_size=len(tokenizer)) for _ in range(2))
    add_score_head(scored)
    prompts = ["The quick brown fox jumps over the dog", "Once upon a time"]
    responses = [(" good bad", " good maybe yes"), (" one", " one"), (" no", " yes no maybe one two three")]
    rows = VoteRows(np.ones((3, 3)), ["a", "a", "b"], np.arange(3), [prompts[0]] * 2 + prompts[1:], responses, "")
    found = score_pairs(scored, tokenizer, rows, max_prompt_tokens=6, max_length=12, batch_size=2)

    def ids(text, room):
        return [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id][:room]

    for row, (prompt, pair) in enumerate(zip(rows.prompts, responses, strict=True)):
        before = [tokenizer.bos_token_id, *tokenizer(prompt + "\n", add_special_tokens=False)["input_ids"][-5:]]
        read = [ids(text, 12 - len(before)) for text in pair]
        sums = [entropies(plain, before, response) for response in read]
        assert found.statistics.entropy_sum_nk[row] == pytest.approx([e.sum() for e, _ in sums], rel=1e-5)
        assert found.statistics.logp_nk[row] == pytest.approx([logp for _, logp in sums], rel=1e-5)
        assert found.statistics.first_entropy_nk[row] == pytest.approx([e[0] for e, _ in sums], rel=1e-5)
        differs = [i for i, (a, b) in enumerate(zip(*read, strict=False)) if a != b]
        if differs:
            expected = [e[differs[0]] for e, _ in sums]
            assert found.statistics.divergent_entropy_nk[row] == pytest.approx(expected, rel=1e-5)
        else:
            assert np.isnan(found.statistics.divergent_entropy_nk[row]).all()
    assert (found.responses, found.prompts, found.cut_prompts) == (5, 2, 2) and found.cut_responses >= 1


def test_every_index_and_control_is_held_against_people(people, run, tmp_path):
    results = run_study(PEOPLE, PeopleSettings(**people, output_dir=str(tmp_path / "out"), resamples=50))
    toy = results["data"]["toy"]
    assert set(toy["indexes"]) == {*ESTIMATORS, *CONTROLS}
    assert toy["indexes"]["length"]["auroc"]["value"] == 1.0
    assert toy["indexes"]["length"]["pairs"]["value"] == pytest.approx(0.87, abs=0.01)  # ties of φ cost the rest
    assert (toy["contradicted"], toy["unanimous"], toy["prompts"]) == (5, 5, 5)
    assert (tmp_path / "out/figures/people_toy.png").stat().st_size > 10_000
    within = run[2]["people"]["data"]["toy"]["indexes"]
    for name, found in toy["indexes"].items():
        assert found["pairs"]["value"] == within[name]["pairs"]["value"]


@pytest.fixture(scope="module")
def chat_people(people, tmp_path_factory):
    """The same votes and a chat model; the model also answers four of the five prompts."""
    folder = tmp_path_factory.mktemp("chat")
    return PeopleSettings(
        model=str(save_tiny(folder / "model", chat=True)), data=people["data"], output_dir=str(folder / "out"),
        resamples=50, prompts_per_job=2, sampled_prompts=4, samples=6, max_new_tokens=5, instructions={"toy": "Say: "},
    )  # fmt: skip


def test_a_stopped_comparison_scores_no_response_twice(chat_people, monkeypatch):
    """Five prompts in jobs of two, four of them answered in two jobs; of six finished jobs three are lost."""
    results = run_study(PEOPLE, chat_people)
    log = Path(chat_people.output_dir) / "jobs.jsonl"
    lines = log.read_text(encoding="utf-8").splitlines(keepends=True)
    assert len(lines) == 3 + 2 + 1
    log.write_text("".join([lines[0], lines[2], lines[4]]), encoding="utf-8")
    done = {name: [] for name in ("score_pairs", "sampled_answers")}
    for name, seen in done.items():
        work = getattr(people_study, name)
        monkeypatch.setattr(people_study, name, lambda *a, _w=work, _s=seen, **more: _s.append(1) or _w(*a, **more))
    again = run_study(PEOPLE, chat_people)
    assert again["data"] == results["data"] and len(done["score_pairs"]) == 1 and len(done["sampled_answers"]) == 2
    toy = results["data"]["toy"]
    assert set(toy["sampled"]["indexes"]) == {*INDEXES, *CONTROLS} and toy["sampled"]["pairs"] == 8
    # What length explains whole is tied once it is held fixed.
    assert toy["indexes"]["length"]["auroc_given_length"]["value"] == 0.5
    # Two pairs a prompt on five prompts fit no shrink factor: no word on G.
    assert toy["worth"]["mean_entropy"]["people"] is None and toy["worth"]["answer_entropy"] is None


def test_a_chat_model_reads_the_prompt_as_the_users_turn():
    """Against transformers' own rendering; of a longer prompt the end is kept, inside the template."""
    tokenizer = tiny_tokenizer(chat=True)

    def rendered(text):
        messages = [{"role": "user", "content": text}]
        return tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)

    assert prompt_tokens(tokenizer, "hello, how are you", most=50, chat=True) == (
        rendered("hello, how are you"),
        False,
    )
    cut = tokenizer.decode(tokenizer("hello, how are you", add_special_tokens=False)["input_ids"][-3:])
    assert prompt_tokens(tokenizer, "hello, how are you", most=4, chat=True) == (rendered(cut), True)


def test_sampled_answers_carry_the_models_own_probabilities(chat_people):
    opened = people_study.open_model(chat_people, None, None)
    prompt, plain = [4, 40, 41, 5], tiny_llama(vocab_size=len(opened.tokenizer))
    answers = people_study.sampled_answers(opened, prompt, seed=[0, 1])
    assert sum(count for _, count, _, _ in answers) == 6 and len({tuple(ids) for ids, *_ in answers}) == len(answers)
    for ids, _, logp, entropy in answers:
        wanted, wanted_logp = entropies(plain, prompt, ids)
        assert entropy == pytest.approx(wanted.tolist(), rel=1e-5) and logp == pytest.approx(wanted_logp, rel=1e-5)
        assert opened.tokenizer.eos_token_id not in ids[:-1]


@pytest.mark.parametrize(
    ("data", "said"),
    [({}, "data: name at least one"), ({"w": "votes"}, "data: w has votes"), ({"a/b": "votes"}, "data: got the name")],
)
def test_votes_that_cannot_be_used_are_refused(data, said, people, tmp_path):
    (tmp_path / "w.jsonl").write_text(json.dumps({"votes": [1, 2]}))
    given = dict.fromkeys(data, str(tmp_path / "w.jsonl"))
    with pytest.raises(InputError, match=said):
        run_study(PEOPLE, PeopleSettings(model=people["model"], data=given, output_dir=str(tmp_path / "out")))
