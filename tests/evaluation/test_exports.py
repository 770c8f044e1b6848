"""Exports against what AlpacaEval and JudgeArena read of them, and Arena-Hard's format as its readers take it."""

import json
import math
from pathlib import Path

import pytest

from evaluation import exported
from evaluation.peers import digests
from mallowspo.evaluation.exports import export_comparison
from mallowspo.evaluation.win_rates import both_orders

# Made by peers.py, which says how.
GOLDEN = json.loads((Path(__file__).resolve().parent.parent / "golden" / "peers.json").read_text())


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports")
    exported.write(folder)
    return folder


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_files_are_those_that_the_peers_have_read(written):
    assert digests(written) == GOLDEN["digests"]
    assert sorted(path.name for path in written.iterdir()) == ["alpaca_eval", "arena_hard", "judgearena"]


def test_alpaca_eval_finds_our_win_rate():
    preference = both_orders(exported.FIRST, exported.SECOND)
    found = GOLDEN["alpaca_eval"]
    assert found["win_rate"] == pytest.approx(100 * preference.mean())
    assert (found["n_wins"], found["n_wins_base"], found["n_draws"]) == (1, 1, 4)


def test_judgearena_finds_every_verdict_in_either_order():
    # Of 12 verdicts one is missing; the model is A.
    found = GOLDEN["judgearena"]
    assert (found["num_wins"], found["num_losses"], found["num_ties"], found["num_missing"]) == (5, 3, 3, 1)
    assert [answer or "" for answer in GOLDEN["judgearena_answers"]["model"]] == [a for a, _ in exported.ANSWERS]
    # Read from the text again, a preference is what it was up to the scores' steps: 0.3 in log-odds.
    for place, again in enumerate(GOLDEN["judgearena_again"]):
        if place == 11:
            continue  # no verdict was read, and none was written
        first = place < 6
        of_model = (exported.FIRST if first else exported.SECOND)[place % 6]
        expected = 1 - of_model if first else of_model  # 0 is a win of A, which is the model in the first order
        if expected == 0.5:
            assert again == 0.5
        else:
            bounded = min(max(expected, 1 / (1 + math.exp(3))), 1 / (1 + math.exp(-3)))
            assert math.log(again / (1 - again)) == pytest.approx(math.log(bounded / (1 - bounded)), abs=0.15 + 1e-9)


def test_arena_hard_has_its_questions_answers_and_judgments(written):
    """By its `show_result.py`: the first game shows the baseline as A, the second the model; no score is dropped."""
    folder = written / "arena_hard"
    questions = lines(folder / "question.jsonl")
    assert [row["prompt"] for row in questions] == [f"prompt {n}" for n in range(6)]
    uids = [row["uid"] for row in questions]
    assert len(set(uids)) == 6 and {row["category"] for row in questions} == {"hard_prompt"}
    for name, side in (("my-model", 0), ("sft", 1)):
        answers = lines(folder / "model_answer" / f"{name}.jsonl")
        assert [row["messages"][-1]["content"]["answer"] for row in answers] == [
            both[side] for both in exported.ANSWERS
        ]
        assert [row["uid"] for row in answers] == uids and {row["model"] for row in answers} == {name}
    style = lines(folder / "model_answer" / "my-model.jsonl")[0]["metadata"]
    assert style == {
        "token_len": 12,  # "#" Yes 1 "." "*" "*" one "*" "*" 2 "." two
        "header_count": {"h1": 1, "h2": 0, "h3": 0, "h4": 0, "h5": 0, "h6": 0},
        "list_count": {"ordered": 2, "unordered": 0},
        "bold_count": {"**": 1, "__": 0},
    }
    judgments = lines(folder / "model_judgment" / "udge" / "my-model.jsonl")
    assert [row["uid"] for row in judgments] == uids
    scores = [[game["score"] for game in row["games"]] for row in judgments]
    assert scores == [["B>A", "A>B"], ["A>B", "B>A"], ["B>A", "A=B"], ["B>A", "B>A"], ["A=B", "A=B"], [None, "A>B"]]
    assert judgments[0]["games"][1]["judgment"]["answer"].startswith("Score B is 9")


def test_a_format_written_again_leaves_nothing_of_the_last_time(tmp_path):
    export_comparison(exported.comparison(judge="other:judge"), ["arena_hard"], tmp_path)
    export_comparison(exported.comparison(model="same", baseline="x/same"), ["arena_hard"], tmp_path)
    folder = tmp_path / "arena_hard"
    assert [path.name for path in (folder / "model_judgment").iterdir()] == ["udge"]
    assert sorted(path.name for path in (folder / "model_answer").iterdir()) == [
        "same-baseline.jsonl",
        "same-model.jsonl",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["arena_hard"]


def test_prompts_keep_the_names_and_categories_of_the_data(tmp_path):
    named = exported.comparison(uids=list("abcdef"), categories=["creative_writing"] * 6)
    export_comparison(named, ["arena_hard"], tmp_path)
    rows = lines(tmp_path / "arena_hard" / "question.jsonl")
    assert [row["uid"] for row in rows] == list("abcdef") and rows[0]["category"] == "creative_writing"
