"""`mallowspo evaluate` as its users call it."""

import csv
import gzip
import json
import random
import re
import sys
from pathlib import Path

import pytest

from cli.commands import call, refused
from tiny import tiny_llama, tiny_tokenizer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "evaluation"))

from judge_server import JudgeServer  # noqa: E402

TEXTS = ["The quick brown fox", "Once upon a time", "good bad", "What is the best way to cook rice?", "yes no maybe"]
LONGER = "def longer(prompt, a, b):\n    return 'A' if len(a) > len(b) else 'B' if len(b) > len(a) else 'tie'\n"


def run(*arguments):
    return call(*arguments)[0]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    tokenizer = tiny_tokenizer()
    for seed, name in enumerate(("a", "b")):
        tiny_llama(vocab_size=len(tokenizer), seed=seed).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch, models):
    """A folder with prompts, a judge and a model that nobody may try to load."""
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": text, "phi": 0.1 * (i + 1), "chosen": "c" * 30} for i, text in enumerate(TEXTS)]
    Path("p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    Path("judges_here.py").write_text(LONGER)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "judges_here", raising=False)
    Path("broken").mkdir()
    Path("broken/config.json").write_text((models / "a/config.json").read_text())
    return tmp_path


def results(folder="out"):
    return json.loads(Path(folder, "results.json").read_text())


LOCAL = ["--use_cpu", "--max_new_tokens", "8", "--temperature", "1"]


def test_local_models_and_an_endpoint_as_the_judge(here, models):
    with JudgeServer(lambda question, n: "429" if n == 0 else None) as server:
        arguments = [
            "evaluate", "--model", models / "a", "--baseline", models / "b", "--prompts", "p.jsonl",
            "--judge", f"{server.url}#judge", "--output_dir", "out", "--judge_prices", "2,10", *LOCAL,
            "--dispersion_column", "phi", "--kl_samples", "2", "--resamples", "50",
        ]  # fmt: skip
        code, said, _ = call(*arguments)
        assert code == 0 and "win rate" in said and "report.html" in said and "KL" in said
        found = results()
        asked = len(server.requests)
        assert run(*arguments) == 0
        assert len(server.requests) == asked  # everything was in the logs
    again = results()
    for name in ("win_rate", "length_controlled", "terciles", "preferences", "kl", "orders"):
        assert again[name] == found[name]
    assert found["model"]["generated_now"] == 5 and again["model"]["generated_now"] == 0
    rate = found["win_rate"]
    assert rate["prompts"] == 5 and rate["wins"] + rate["ties"] + rate["losses"] == 5
    answers = [json.loads(Path(f"out/{side}_outputs.json").read_text()) for side in ("model", "baseline")]
    expected = [
        1.0 if len(a["output"]) > len(b["output"]) else 0.0 if len(a["output"]) < len(b["output"]) else 0.5
        for a, b in zip(*answers, strict=True)
    ]
    assert found["preferences"] == expected and rate["win_rate"] == pytest.approx(20 * sum(expected))
    assert [row["instruction"] for row in answers[0]] == TEXTS
    assert set(answers[0][0]) == {"instruction", "output", "generator"}
    assert [group["prompts"] for group in found["terciles"]] == [2, 2, 1]
    assert found["orders"]["consistent"] == 1.0 and found["kl"]["kl"] > 0
    assert found["kl"]["kl_standard_error"] > 0 and found["kl"]["kl_per_token_standard_error"] > 0
    ratio = found["kl"]["kl"] / found["kl"]["tokens_per_response"]
    assert found["kl"]["kl_per_token"] == pytest.approx(ratio)
    usage = found["judge"]["usage"]
    assert usage["prompt_tokens"] == 100 * usage["replies"] and usage["cost"] > 0
    assert found["requests_now"]["judge"]["failed"]["rate_limit"] == asked // 2
    page = Path("out/report.html").read_text(encoding="utf-8")
    assert "told to be concise and verbose" in page and "Most contested third" in page


def test_a_column_against_an_endpoint_and_a_file(here):
    with JudgeServer() as server:
        code = run(
            "evaluate", "--model", f"{server.url}#m", "--baseline", "column:chosen", "--prompts", "p.jsonl",
            "--judge", "judges_here:longer", "--output_dir", "out", "--resamples", "20",
        )  # fmt: skip
    assert code == 0
    assert results()["preferences"] == [0.0, 0.0, 0.0, 1.0, 0.0]  # "echo " and the prompt, against 30 letters
    assert results()["baseline"]["kind"] == "column" and results()["model"]["prompt_format"] == "chat"
    code = run(
        "evaluate", "--model", "out/model_outputs.json", "--baseline", "out/baseline_outputs.json",
        "--prompts", "p.jsonl", "--judge", "judges_here:longer", "--output_dir", "again", "--resamples", "20",
    )  # fmt: skip
    assert code == 0 and results("again")["win_rate"] == results()["win_rate"]


def test_a_reward_model_judges(here, models):
    import torch
    from transformers import LlamaConfig, LlamaForSequenceClassification

    config = LlamaConfig.from_pretrained(models / "a", num_labels=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        LlamaForSequenceClassification(config).save_pretrained("rm")
    tiny_tokenizer().save_pretrained("rm")
    code = run(
        "evaluate", "--model", models / "a", "--baseline", "column:chosen", "--prompts", "p.jsonl",
        "--judge", "reward:rm", "--output_dir", "out", *LOCAL,
    )  # fmt: skip
    found = results()
    assert code == 0 and found["orders"] is None and found["judge"]["asked_now"] == 10
    rewards = [json.loads(line)["reward"] for line in Path("out/rewards.jsonl").read_text().splitlines()]
    means = [found["judge"][f"mean_reward_{side}"] for side in ("model", "baseline")]
    assert sum(means) * 5 == pytest.approx(sum(rewards), rel=1e-6)


FINE = {
    "--model": "broken", "--baseline": "broken", "--prompts": "p.jsonl", "--judge": "judges_here:longer",
    "--output_dir": "out",
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"--prompts": "none.jsonl"}, "there is no file or folder none.jsonl"),
        ({"--prompt_column": "question"}, "no column 'question'; it has prompt, phi, chosen"),
        ({"--model": "./nowhere"}, "model: there is no folder ./nowhere"),
        ({"--baseline": "none.json"}, "baseline: there is no file none.json"),
        ({"--baseline": "column:rejected"}, "no column 'rejected'"),
        ({"--model": "http://localhost:1/v1"}, "expected an address such as"),
        ({"--judge": "gpt"}, "judge: got 'gpt', expected an address such as"),
        ({"--judge": "judges_here:shorter"}, "no function 'shorter'; it has longer"),
        ({"--judge": "not_there:f"}, "'not_there'"),
        ({"--judge": "reward:./nowhere"}, "judge: there is no folder ./nowhere"),
        ({"--judge": "http://127.0.0.1:9/v1#m", "--judge_prices": "cheap"}, "judge_prices: got 'cheap'"),
        ({"--judge": "http://127.0.0.1:9/v1#m", "--judge_prices": "1,-2"}, "judge_prices: got '1,-2'"),
        ({"--judge": "http://127.0.0.1:9/v1#m", "--judge_parameters": "{"}, "judge_parameters: got '{', which is not"),
        (
            {"--judge": "http://127.0.0.1:9/v1#m", "--judge_template": "p.jsonl"},
            "judge_template: p.jsonl lacks {prompt}",
        ),
        ({"--judge": "http://127.0.0.1:9/v1#m", "--judge_api_key_env": "NO_KEY_HERE"}, "NO_KEY_HERE is not set"),
        ({"--judge_prices": "1,2"}, "judge_prices: it is for a judge behind an address"),
        ({"--generation_parameters": "{}"}, "generation_parameters: it is for a model behind an address"),
        ({"--temperature": "-1"}, "temperature: got -1.0"),
        ({"--concurrency": "0"}, "concurrency: got 0, expected at least 1"),
        ({"--dtype": "float8"}, "dtype: got 'float8'"),
        ({"--dispersion": "none.parquet"}, "dispersion: there is no file or folder none.parquet"),
        ({"--dispersion_column": "chosen"}, "'chosen' of p.jsonl is not all numbers"),
        ({"--alpaca_tables": "."}, "instructions.csv cannot be read"),
        ({"--max_prompts": "0"}, "max_prompts: got 0"),
        ({"--output_dir": "p.jsonl"}, "p.jsonl is a file"),
        ({"--kl_samples": "1", "--baseline": "column:chosen"}, "kl_samples: KL needs both models"),
        ({"--export": "csv"}, "export"),
        ({"--export": "judgearena", "--rank": "2", "--baseline": None}, "export"),
    ],
)
def test_a_mistake_is_answered_before_a_model_is_loaded(here, changes, said):
    options = {name: value for name, value in (FINE | changes).items() if value is not None}
    assert said in refused("evaluate", *[word for pair in options.items() for word in pair])


COLUMNS = (
    "evaluate", "--model", "column:chosen", "--baseline", "column:prompt", "--prompts", "p.jsonl", "--resamples", "20",
)  # fmt: skip


def test_a_comparison_is_exported_with_what_the_judge_wrote(here):
    formats = ["alpaca_eval", "arena_hard", "judgearena"]
    with JudgeServer() as server:
        given = [word for name in formats for word in ("--export", name)]
        assert run(*COLUMNS, "--judge", f"{server.url}#judge", "--output_dir", "out", *given) == 0
    rows = json.loads(Path("out/export/alpaca_eval/annotations.json").read_text())
    assert [row["preference"] - 1 for row in rows] == results()["preferences"]
    assert all("[[" in text for row in rows for text in row["raw_completion"].values())
    judgments = [json.loads(line) for line in Path("out/export/arena_hard/model_judgment/judge/chosen.jsonl").open()]
    assert len(judgments) == 5 and all(
        "[[" in game["judgment"]["answer"] for row in judgments for game in row["games"]
    )
    assert json.loads(Path("out/export/judgearena/results.json").read_text())["num_battles"] == 10
    assert sorted(path.name for path in Path("out/export").iterdir()) == formats
    assert "export" in refused(*COLUMNS, "--judge", "judges_here:longer", "--output_dir", "o", *given, *given[:2])


def test_models_that_answer_in_turns_behind_one_address_are_told(here):
    with JudgeServer(models=("one-model", "another-model")) as server:
        code, said, _ = call(*COLUMNS, "--judge", f"{server.url}#judge", "--output_dir", "out", "--concurrency", "1")
    assert code == 0 and set(results()["judge"]["answered_by"]) == {"one-model", "another-model"}
    page = Path("out/report.html").read_text(encoding="utf-8")
    assert all(name in text for name in ("one-model", "another-model") for text in (said.splitlines()[0], page))
    assert said.splitlines()[0] == results()["mixed_judges"]
    with JudgeServer(models=("one-model",)) as server:
        assert run(*COLUMNS, "--judge", f"{server.url}#judge", "--output_dir", "same") == 0
    assert results("same")["mixed_judges"] is None


def test_results_of_another_judge_in_the_folder_are_told_and_its_verdicts_do_not_count(here):
    judge = ("--judge", "judges_here:longer", "--output_dir", "out")
    assert run(*COLUMNS, *judge) == 0 and results()["mixed_judges"] is None
    assert run(*COLUMNS, *judge) == 0 and results()["mixed_judges"] is None  # the same judge once more
    Path("other_judges.py").write_text("def first(prompt, a, b):\n    return 'A'\n")
    code, said, _ = call(*COLUMNS, "--judge", "other_judges:first", "--output_dir", "out")
    found = results()
    assert code == 0 and "judges_here:longer" in found["mixed_judges"] and said.startswith(found["mixed_judges"])
    assert found["judge"]["asked_now"] == 10 and len(found["judge"]["others_in_log"]) == 1
    assert "judges_here:longer" in Path("out/report.html").read_text(encoding="utf-8")


def test_lists_that_different_judges_ranked_are_not_pooled_without_a_word(here):
    rows = [{"prompt": text, "responses": [f"a{i}", f"bb{i} no", f"c{i} yes maybe"]} for i, text in enumerate(TEXTS)]
    Path("l.jsonl").write_text("\n".join(map(json.dumps, rows)))
    Path("other_judges.py").write_text("def first(prompt, a, b):\n    return 'A' if a < b else 'B'\n")
    given = ("evaluate", "--model", "column:responses", "--prompts", "l.jsonl", "--rank", "3", "--rank_votes", "2")
    for judge in ("judges_here:longer", "other_judges:first"):
        assert run(*given, "--judge", judge, "--output_dir", judge.partition(":")[0]) == 0
    files = [word for name in ("judges_here", "other_judges") for word in ("--rankings", f"{name}/lists.jsonl")]
    quick = ("--fit_draws", "0")
    code, said, _ = call("dispersion", *files, "--output_dir", "both", *quick)
    page = Path("both/report.html").read_text(encoding="utf-8")
    assert code == 0 and all("judges_here:longer" in text and "other_judges:first" in text for text in (said, page))
    code, said, _ = call("dispersion", *files[:2], "--output_dir", "one", *quick)
    assert code == 0 and "other_judges:first" not in said and "judges_here:longer" in said  # whose votes they are


@pytest.mark.parametrize(
    "source",
    [
        "import sys\ndef longer(prompt, a, b):\n    sys.exit(3)\n",
        "def longer(prompt, a, b):\n    return 1 / 0\n",
        "import sys\nsys.exit()\n",
    ],
    ids=["it exits", "it fails", "its module exits"],
)
def test_a_judge_that_ends_the_program_is_named(here, source):
    Path("judges_here.py").write_text(source)
    changes = {"--model": "column:chosen", "--baseline": "column:prompt"}
    error = refused("evaluate", *[word for pair in (FINE | changes).items() for word in pair])
    assert "judge" in error and "judges_here" in error and ("Exit" in error or "ZeroDivision" in error)


def test_a_judge_that_is_not_there_is_found_out_first(here):
    judge = {"--judge": "http://127.0.0.1:9/v1#m", "--max_retries": "1"}
    error = refused("evaluate", *[word for pair in (FINE | judge).items() for word in pair])
    assert "http://127.0.0.1:9/v1#m gave no usable reply in 2 attempts" in error and "nothing was generated" in error


@pytest.mark.shared
@pytest.mark.parametrize("shuffled", [False, True])
def test_alpacaeval_figures_come_out_of_the_command(shared, here, shuffled):
    folder = shared / "data/alpaca_eval"
    name = "claude-2.1"
    with (folder / "leaderboard.csv").open() as file:
        published = next(row for row in csv.DictReader(file) if row["model"] == name)
    with gzip.open(folder / "preferences.csv.gz", "rt") as file:
        rows = sorted((int(r["index"]), r) for r in csv.DictReader(file) if r["model"] == name)
    if shuffled:  # the tables know their own order, the user's file may have another
        random.Random(0).shuffle(rows)
    # Prompts and answers of the published lengths, and a judge that says what the published one said.
    Path("p.jsonl").write_text("\n".join(json.dumps({"prompt": f"{i}"}) for i, _ in rows))
    for side, letter, column in (("model", "m", "len_2"), ("baseline", "b", "len_1")):
        outputs = [{"instruction": f"{i}", "output": letter * int(r[column])} for i, r in rows]
        Path(f"{side}.json").write_text(json.dumps(outputs))
    said = {str(i): 0.5 if float(r["preference"]) == 0 else float(r["preference"]) - 1 for i, r in rows}
    Path("judges_here.py").write_text(
        f"SAID = {said!r}\n"
        "def published(prompt, a, b):\n    return SAID[prompt] if a[0] == 'm' else 1 - SAID[prompt]\n"
    )
    code = run(
        "evaluate", "--model", "model.json", "--baseline", "baseline.json", "--prompts", "p.jsonl",
        "--judge", "judges_here:published", "--output_dir", "out", "--alpaca_tables", folder, "--resamples", "100",
    )  # fmt: skip
    found = results()
    assert code == 0
    assert found["win_rate"]["win_rate"] == pytest.approx(float(published["win_rate"]), abs=1e-6)
    assert found["win_rate"]["standard_error"] == pytest.approx(float(published["standard_error"]), abs=1e-6)
    lc = found["length_controlled"]
    assert lc["win_rate"] == pytest.approx(float(published["length_controlled_winrate"]), abs=0.1)
    assert lc["note"] == ""


def test_the_page_names_options_that_exist_and_figures_that_came_out():
    root = Path(__file__).resolve().parents[2]
    page = (root / "docs/evaluate.md").read_text(encoding="utf-8")
    options = set(re.findall(r"--[a-z_]+", call("evaluate", "--help")[1]))
    others = re.compile(r"mallowspo (train|dispersion) [^\n]*|`dispersion --rankings`")
    assert set(re.findall(r"--[a-z_]+", others.sub("", page))) <= options
    found = json.loads((root / "docs/evaluate/results.json").read_text(encoding="utf-8"))
    printed = (root / "docs/evaluate/output.txt").read_text(encoding="utf-8")
    assert all(line in page for line in printed.splitlines() if line.startswith(("win rate", "length-", "KL")))
    assert f"win rate {found['win_rate']['win_rate']:.1f}%" in printed and f"KL {found['kl']['kl']:.3f}" in printed


# Ranked lists.


def lists(folder="out"):
    return [json.loads(line) for line in Path(folder, "lists.jsonl").read_text().splitlines()]


def test_a_judge_ranks_answers_as_lists_that_train_and_dispersion_read(here, models):
    """Interrupted, it goes on: no answer and no verdict is paid twice."""
    down = {"after": 12}
    with JudgeServer(lambda question, n: "401" if down["after"] < (len(server.requests)) else None) as server:
        arguments = [
            "evaluate", "--model", models / "a", "--prompts", "p.jsonl", "--judge", f"{server.url}#judge",
            "--output_dir", "out", "--rank", "4", "--rank_votes", "2", "--concurrency", "2", *LOCAL,
        ]  # fmt: skip
        assert run(*arguments) == 2 and not Path("out/lists.jsonl").exists()
        paid = {line["key"] for line in map(json.loads, Path("out/verdicts.jsonl").read_text().splitlines())}
        assert paid
        down["after"], before = 10**9, len(server.requests)
        code, said, _ = call(*arguments)
        assert code == 0 and "--rankings out/lists.jsonl" in said
        lines = [json.loads(line) for line in Path("out/verdicts.jsonl").read_text().splitlines()]
        verdicts = [line["key"] for line in lines if line["verdict"] != "refused"]
        assert len(verdicts) == len(set(verdicts)) and paid <= {line["key"] for line in lines}
        asked = len(server.requests)
        assert run(*arguments) == 0 and len(server.requests) == asked > before
        assert all(request["temperature"] == 1 for request in server.requests)  # at 0 it would say the same
    found = results()
    # Of all rounds, each reply once: the server counts 100 tokens of each prompt.
    usage = found["judge"]["usage"]
    assert usage["replies"] == len(verdicts) and usage["prompt_tokens"] == 100 * len(verdicts)
    rows = lists()
    assert found["lists"] == len(rows) and found["votes"] == 2
    for row in rows:
        lengths = [len(text) for text in row["responses"]]
        for ranking in row["rankings"]:  # the server prefers the longer answer, equal lengths by lot
            assert sorted(ranking) == list(range(1, len(lengths) + 1))
            assert all(a >= b for a, b in zip(*[np_sorted(lengths, ranking)[i:] for i in (0, 1)], strict=False))
    assert found["comparisons"] <= found["comparisons_at_most"]
    assert run("dispersion", "--rankings", "out/lists.jsonl", "--output_dir", "disp", "--fit_draws", "0") == 0
    assert "not of people" in json.loads(Path("disp/summary.json").read_text())["rankings"]["notes"][0]
    code = run(
        "train", "--model_name_or_path", models / "a", "--dataset_name", "out/lists.jsonl", "--output_dir", "trained",
        "--objective", "mallows_list_theta", "--dispersion", "rankings", "--max_steps", "1", "--use_cpu", "--bf16",
        "false", "--report_to", "none",
    )  # fmt: skip
    assert code == 0


def np_sorted(lengths, ranking):
    """The lengths from the best answer to the last."""
    return [length for _, length in sorted(zip(ranking, lengths, strict=True))]


def test_lists_of_a_column_are_ranked_by_a_reward_model_and_a_function(here, models):
    import torch
    from transformers import LlamaConfig, LlamaForSequenceClassification

    config = LlamaConfig.from_pretrained(models / "a", num_labels=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        LlamaForSequenceClassification(config).save_pretrained("rm")
    tiny_tokenizer().save_pretrained("rm")
    rows = [{"prompt": text, "responses": [f"a{i}", f"bb{i} no", f"c{i} yes maybe"]} for i, text in enumerate(TEXTS)]
    Path("l.jsonl").write_text("\n".join(map(json.dumps, rows)))
    given = ("evaluate", "--model", "column:responses", "--prompts", "l.jsonl", "--rank", "3")
    assert run(*given, "--judge", "judges_here:longer", "--output_dir", "out", "--rank_order", "all") == 0
    assert [row["ranks"] for row in lists()] == [[3, 2, 1]] * 5 and results()["comparisons"] == 5 * 2 * 3
    assert results()["same_pairs"] == 1.0 and results()["longer"] is None
    code, said, _ = call(
        *given[:-1], "2", "--judge", "judges_here:longer", "--output_dir", "out3", "--rank_votes", "1"
    )
    assert code == 0 and results("out3")["longer"] == {"lists": 5, "answers": 5} and "--rank 2" in said
    code, said, _ = call(
        *given[:-1], "5", "--judge", "judges_here:longer", "--output_dir", "out5", "--rank_votes", "1"
    )
    assert code == 0 and results("out5")["shorter"] == 5 and "--rank 5: 5 lists" in said
    assert results()["shorter"] == 0
    assert [row["responses"] for row in lists("out3")] == [row["responses"][:2] for row in rows]
    assert run(*given, "--judge", "reward:rm", "--output_dir", "out2", "--use_cpu") == 0
    rewards = {line["reward"] for line in map(json.loads, Path("out2/rewards.jsonl").read_text().splitlines())}
    assert len(rewards) == 15 and "rankings" not in lists("out2")[0]


def test_answers_that_say_nothing_are_not_ranked_and_a_comparisons_folder_is_another_one(here):
    rows = [
        {"prompt": "q", "responses": ["a", "", "  ", "bbb"], "b": "c"},
        {"prompt": "r", "responses": ["a", "a"], "b": "c"},
    ]
    Path("l.jsonl").write_text("\n".join(map(json.dumps, rows)))
    given = ("evaluate", "--model", "column:responses", "--prompts", "l.jsonl", "--judge", "judges_here:longer")
    assert run(*given, "--rank", "4", "--output_dir", "out") == 0
    assert [row["responses"] for row in lists()] == [["a", "bbb"]] and results()["left_out"] == [1]
    compare = ("evaluate", "--model", "column:b", "--baseline", "column:b", "--prompts", "l.jsonl")
    assert "output_dir" in refused(*compare, "--judge", "judges_here:longer", "--output_dir", "out")
    Path("m.jsonl").write_text("\n".join(map(json.dumps, [{"prompt": "q", "responses": ["a", None]}])))
    said = refused(*given[:4], "m.jsonl", *given[5:], "--rank", "2", "--output_dir", "out2")
    assert "model" in said and "'responses'" in said


@pytest.mark.parametrize(
    ("named", "changes"),
    [
        ("baseline", {"--baseline": None}),
        ("rank", {"--rank": "1"}),
        ("rank_order", {"--rank": "3", "--rank_order": "quick", "--baseline": None}),
        ("rank_votes", {"--rank_votes": "2"}),
        ("rank_votes", {"--rank": "3", "--rank_votes": "0", "--baseline": None}),
        ("baseline", {"--rank": "3"}),
        ("kl_samples", {"--rank": "3", "--kl_samples": "2", "--baseline": None}),
        ("temperature", {"--rank": "3", "--temperature": "0", "--baseline": None}),
        ("seed", {"--rank": "3", "--seed": "-1", "--baseline": None}),
        (
            "judge_parameters",
            {
                "--rank": "3",
                "--baseline": None,
                "--judge": "http://127.0.0.1:9/v1#m",
                "--judge_parameters": '{"temperature": 0}',
            },
        ),
        ("model", {"--rank": "3", "--model": "column:chosen", "--baseline": None}),
    ],
    ids=str,
)
def test_what_a_ranking_cannot_use_is_refused_by_name(here, named, changes):
    options = {name: value for name, value in (FINE | changes).items() if value is not None}
    said = refused("evaluate", *(part for pair in options.items() for part in pair))
    assert named in said
