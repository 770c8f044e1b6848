"""The three judges; the one behind a real HTTP server fails in every way that servers do."""

import errno
import fcntl
import json
import os
import signal
import time
from collections import Counter

import pytest
import torch
from judge_server import JudgeServer

from forks import in_child
from mallowspo.errors import InputError
from mallowspo.evaluation.endpoint import Endpoint, EndpointAddress, RequestLimits
from mallowspo.evaluation.json_log import JsonLog
from mallowspo.evaluation.judge import AnswerPair, CallableJudge, EndpointJudge, Prices, RewardJudge
from mallowspo.evaluation.judge_prompt import DEFAULT_TEMPLATE, JudgeTemplate
from mallowspo.evaluation.local_model import load_classifier
from mallowspo.evaluation.prompts import EvaluationPrompt
from mallowspo.evaluation.win_rates import both_orders, win_rate
from tiny import tiny_tokenizer

FAST = {"first_wait": 0.01, "longest_wait": 0.1, "timeout": 0.3}


def pair(prompt, answer, baseline, row=0):
    return AnswerPair(EvaluationPrompt(row, prompt), answer, baseline)


def pairs(n):
    """The model's answer is the longer one in even rows, so its win rate is known."""
    return [pair(f"prompt {i}", "x" * (20 + i if i % 2 == 0 else 5), "y" * (10 + i), i) for i in range(n)]


def truth(n):
    return [1.0 if i % 2 == 0 else 0.0 for i in range(n)]


def behind(server, *, name="judge", template=DEFAULT_TEMPLATE, attempts=3, prices=None, parameters=None, **limits):
    endpoint = Endpoint(EndpointAddress(server.url, name), RequestLimits(**(FAST | limits)))
    return EndpointJudge(endpoint, template, parameters or {"temperature": 0}, attempts, prices)


@pytest.fixture
def log(tmp_path):
    return tmp_path / "verdicts.jsonl"


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_both_orders_are_asked_and_the_longer_answer_wins(tmp_path, log):
    steps = []
    with JudgeServer() as server:
        judge = behind(server, prices=Prices(2.0, 10.0))
        found = judge.judge(pairs(6), tmp_path, lambda done, total, usage: steps.append((done, total)))
    assert found.model_first_n.tolist() == found.model_second_n.tolist() == truth(6)
    assert len(server.requests) == found.asked == 12 and set(server.seen.values()) == {1}
    usage = found.usage
    assert (usage.replies, usage.prompt_tokens, usage.completion_tokens) == (12, 1200, 84)
    assert usage.cost == pytest.approx((1200 * 2 + 84 * 10) / 1e6)
    assert Counter(line["order"] for line in lines(log)) == {"model_first": 6, "baseline_first": 6}
    assert server.requests[0]["temperature"] == 0 and server.requests[0]["model"] == "judge"
    assert steps[0] == (0, 12) and max(steps) == (12, 12) and len(steps) == 13


def test_no_verdict_is_lost_or_counted_twice_when_everything_fails_once(tmp_path, log):
    kinds = ["timeout", "429", "500", "malformed", "undecided", "drop", "empty", "html", "both", None]
    numbers = {}

    def faults(question, n):
        number = numbers.setdefault(question, len(numbers))
        return kinds[(number + n) % len(kinds)] if n < 3 else None

    n = 20
    with JudgeServer(faults) as server:
        judge = behind(server, concurrency=6, attempts=4)
        found = judge.judge(pairs(n), tmp_path)
    assert found.model_first_n.tolist() == found.model_second_n.tolist() == truth(n)
    assert (found.undecided, found.refused) == (0, 0)
    decided = [line["key"] for line in lines(log) if line["verdict"] in ("A", "B", "tie")]
    assert len(decided) == len(set(decided)) == 2 * n
    failures = judge.endpoint.failures
    assert set(failures) == {"timeout", "rate_limit", "server_error", "malformed", "connection"}
    # A malformed reply, an empty one and a page of HTML are one kind.
    assert judge.endpoint.requests == len(server.requests) == sum(failures.values()) + len(lines(log))
    assert found.usage.replies == len(lines(log)) > 2 * n  # the undecided replies were paid for too


def test_a_verdict_that_stays_undecided_is_a_tie_and_is_reported(tmp_path, log):
    with JudgeServer(lambda question, n: "undecided" if "prompt 0" in question else None) as server:
        found = behind(server).judge(pairs(3), tmp_path)
        assert found.undecided == 2 and found.model_first_n.tolist() == [0.5, 0.0, 1.0]
        assert sum(line["verdict"] == "undecided" for line in lines(log)) == 6
        reminded = [r for r in server.requests if len(r["messages"]) == 3]
        assert len(reminded) == 4 and reminded[0]["messages"][1]["content"] == "Hard to say."
        # It has had its attempts: the next run asks nothing, and one that allows more asks only for these.
        before = len(server.requests)
        assert behind(server).judge(pairs(3), tmp_path).asked == 0
        assert len(server.requests) == before
        assert behind(server, attempts=4).judge(pairs(3), tmp_path).undecided == 2
        assert len(server.requests) == before + 2


def test_a_judge_that_says_nothing_is_reminded_without_an_empty_turn(tmp_path):
    class Silent(JudgeServer):
        def reply(self, question):
            return "[[A]]" if "Reply with exactly one" in question else " "

    with Silent() as server:
        found = behind(server).judge([pair("p", "x", "y\ud83d")], tmp_path)
    assert found.undecided == 0 and found.model_first_n.tolist() == [1.0] and found.model_second_n.tolist() == [0.0]
    assert all(message["content"].strip() for request in server.requests for message in request["messages"])


def test_a_dead_endpoint_names_itself_and_what_is_saved_and_the_next_run_goes_on(tmp_path, log):
    n = 10

    def faults(question, n_seen):
        return "500" if any(f"prompt {i}\n" in question for i in (7, 8, 9)) else None

    with JudgeServer(faults) as server:
        with pytest.raises(InputError) as error:
            behind(server, concurrency=1, max_retries=2).judge(pairs(n), tmp_path)
        assert server.url in str(error.value) and "3 attempts" in str(error.value)
        assert f"14 of 20 verdicts are saved in {log}" in str(error.value)
        server.faults = lambda question, n_seen: None
        found = behind(server).judge(pairs(n), tmp_path)
    assert found.asked == 6 and found.model_first_n.tolist() == truth(n)
    assert len(lines(log)) == 20 and found.usage.replies == 20


def test_a_killed_run_goes_on_where_it_stopped(tmp_path, log):
    with JudgeServer(lambda question, n: "timeout", hang=0.05) as server:
        asking = behind(server, concurrency=3, timeout=120.0)
        child = in_child(lambda: asking.judge(pairs(30), tmp_path))
        deadline = time.monotonic() + 60
        while (not log.exists() or log.read_text().count("\n") < 12) and time.monotonic() < deadline:
            time.sleep(0.005)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        saved = log.read_text().count("\n")
        assert 12 <= saved < 60
        with log.open("a") as file:
            file.write('{"key": "cut off in the mid')  # as a kill in the middle of a write leaves it
        server.faults = lambda question, n: None
        asked_before = len(server.requests)
        found = behind(server).judge(pairs(30), tmp_path)
    assert found.asked == 60 - saved == len(server.requests) - asked_before
    assert len({line["key"] for line in lines(log)}) == len(lines(log)) == 60
    assert win_rate(both_orders(found.model_first_n, found.model_second_n)).wins == 15


def test_equal_pairs_share_a_verdict_and_equal_answers_need_none(tmp_path):
    turned = [AnswerPair(p.prompt, p.baseline, p.answer) for p in pairs(2)]
    with JudgeServer() as server:
        found = behind(server).judge([*pairs(2), *pairs(2), *turned, pair("p", "same", "same")], tmp_path)
    assert len(server.requests) == 4 and found.identical == 1
    assert found.model_first_n.tolist() == found.model_second_n.tolist() == [1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.5]


def test_what_a_verdict_depends_on_is_asked_anew(tmp_path):
    with JudgeServer() as server:
        assert [behind(server).judge(pairs(1), tmp_path).asked for _ in range(2)] == [2, 0]
        for other in (
            {"template": JudgeTemplate("{prompt} {answer_a} {answer_b}?", "mine-1")},
            {"parameters": {"temperature": 1}},
            {"name": "other"},
        ):
            assert behind(server, **other).judge(pairs(1), tmp_path).asked == 2
        assert behind(server).judge([pair("prompt 0", "another", "y" * 10)], tmp_path).asked == 2


@pytest.mark.parametrize("row", [0, 2])
def test_a_refused_request_is_a_tie_unless_all_are(tmp_path, row):
    with JudgeServer(lambda question, n: "400" if f"prompt {row}\n" in question else None) as server:
        found = behind(server).judge(pairs(4), tmp_path)
        assert found.refused == 2 and found.undecided == 0
        assert found.model_first_n.tolist() == truth(4)[:row] + [0.5] + truth(4)[row + 1 :]
        server.faults = lambda question, n: None
        assert behind(server).judge(pairs(4), tmp_path).model_first_n.tolist() == truth(4)
        server.faults = lambda question, n: "400"
        with pytest.raises(InputError, match=r"400: .*judge_parameters"):
            behind(server).judge(pairs(4), tmp_path / "other")


@pytest.mark.parametrize("fault", ["401", "404"])
def test_a_wrong_key_or_model_is_not_retried(tmp_path, fault):
    with JudgeServer(lambda question, n: fault) as server:
        with pytest.raises(InputError, match=rf"{fault}.*says {fault}"):
            behind(server).judge(pairs(3), tmp_path)
    assert len(server.requests) == 1


def test_the_limits_hold(tmp_path):
    with JudgeServer(lambda question, n: "timeout", hang=0.02) as server:
        behind(server, concurrency=2, requests_per_minute=1200).judge(pairs(6), tmp_path)
    assert server.most_running <= 2
    # 12 requests, 50 ms apart; the clock that paces them is not the one that receives them.
    assert server.times[-1] - server.times[0] > 11 * 0.05 - 0.03


def test_a_server_without_token_counts_says_so(tmp_path):
    with JudgeServer(usage=False) as server:
        usage = behind(server, prices=Prices(1, 1)).judge(pairs(1), tmp_path).usage
    assert (usage.without_count, usage.prompt_tokens, usage.cost) == (2, 0, 0.0)


def test_somebody_else_writing_is_refused(tmp_path, log):
    with JudgeServer() as server, JsonLog(log):
        with pytest.raises(InputError, match="another process"):
            behind(server).judge(pairs(1), tmp_path)


def test_without_locks_a_log_warns_and_is_written(log, caplog, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    with JsonLog(log) as opened:
        opened.append({"key": "a"})
    assert lines(log) == [{"key": "a"}]
    assert str(log) in caplog.text and os.strerror(errno.ENOLCK) in caplog.text


def test_a_damaged_log_is_named(tmp_path, log):
    log.write_text('{"key": "a"}\nnonsense\n')
    with JudgeServer() as server, pytest.raises(InputError, match="line 2 is not JSON"):
        behind(server).judge(pairs(1), tmp_path)


def test_a_verdict_that_stands_twice_in_the_log_counts_once_and_the_first_stands(tmp_path, log):
    with JudgeServer() as server:
        behind(server).judge(pairs(4), tmp_path)
        opposite = {"A": "B", "B": "A"}
        again = [json.dumps(line | {"verdict": opposite[line["verdict"]]}) + "\n" for line in lines(log)]
        with log.open("a") as file:
            file.writelines(again)
        found = behind(server).judge(pairs(4), tmp_path)
    assert found.asked == 0 and found.model_first_n.tolist() == found.model_second_n.tolist() == truth(4)


# Judges that need no server

PAIRS = [pair("p0 ", "long answer", "short", 0), pair("p1 ", "a", "bb", 1), pair("p2 ", "same", "same", 2)]


@pytest.fixture
def load(tmp_path, monkeypatch):
    (tmp_path / "my_judges.py").write_text(
        "def longer(prompt, a, b):\n    return 'A' if len(a) > len(b) else 'B' if len(b) > len(a) else 'tie'\n"
        "def first(prompt, a, b):\n    return 0.9\n"
        "def soft(prompt, a, b):\n    return len(a) / (len(a) + len(b))\n"
        "def wrong(prompt, a, b):\n    return 'first'\n"
        "def none(prompt, a, b):\n    return None\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return lambda name: CallableJudge.load(f"my_judges:{name}")


def test_a_function_judges_both_orders_and_resumes(load, tmp_path, log):
    for asked in (4, 0):
        found = load("longer").judge(PAIRS, tmp_path)
        assert found.model_first_n.tolist() == found.model_second_n.tolist() == [1.0, 0.0, 0.5]
        assert (found.asked, found.identical, found.usage) == (asked, 1, None)
    assert len(lines(log)) == 4


def test_a_function_may_give_preferences(load, tmp_path):
    soft = load("soft").judge(PAIRS, tmp_path)
    assert soft.model_first_n == pytest.approx([11 / 16, 1 / 3, 0.5])
    assert soft.model_second_n == pytest.approx([11 / 16, 1 / 3, 0.5])
    first = load("first").judge(PAIRS, tmp_path)
    assert first.model_first_n == pytest.approx([0.9, 0.9, 0.5])
    assert first.model_second_n == pytest.approx([0.1, 0.1, 0.5])


@pytest.mark.parametrize("name", ["wrong", "none"])
def test_a_function_that_says_something_else_is_named(load, tmp_path, name):
    with pytest.raises(InputError, match=f"my_judges:{name} returned"):
        load(name).judge(PAIRS, tmp_path)


def test_a_function_that_is_not_there_is_named(load):
    with pytest.raises(InputError, match="no function 'shorter'; it has first, longer"):
        load("shorter")
    with pytest.raises(InputError, match="'no_such_module'"):
        CallableJudge.load("no_such_module:f")


@pytest.fixture
def reward_folder(tmp_path):
    from transformers import LlamaConfig, LlamaForSequenceClassification

    tokenizer = tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_labels=1, pad_token_id=0, max_position_embeddings=64, initializer_range=0.2,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path / "rm")
    tokenizer.save_pretrained(tmp_path / "rm")
    return tmp_path / "rm", model, tokenizer


def test_the_higher_reward_wins(reward_folder, tmp_path):
    folder, model, tokenizer = reward_folder

    def reward(text):
        with torch.no_grad():
            return float(model(**tokenizer(text, return_tensors="pt", return_token_type_ids=False)).logits)

    judge = RewardJudge(str(folder), use_cpu=True)
    found = judge.judge(PAIRS, tmp_path)
    values = [(reward(p.prompt.text + p.answer), reward(p.prompt.text + p.baseline)) for p in PAIRS]
    assert found.model_first_n.tolist() == [0.5 if a == b else float(a > b) for a, b in values]
    assert found.details["mean_reward_model"] == pytest.approx(sum(a for a, _ in values) / 3, abs=1e-6)
    assert not found.both_orders and found.asked == 5 and found.identical == 1
    again = judge.judge(PAIRS, tmp_path)
    assert again.asked == 0 and again.details == found.details
    written = lines(tmp_path / "rewards.jsonl")
    assert len(written) == 5 and set(written[0]) == {"key", "reward"}


def test_what_is_no_reward_model_is_refused(reward_folder, tmp_path):
    folder, model, _ = reward_folder
    judge = RewardJudge(str(folder), use_cpu=True)
    with pytest.raises(InputError, match="takes 64"):
        judge.judge([pair("p0 ", "word " * 80, "b")], tmp_path)
    model.config.num_labels = 2
    model.score = torch.nn.Linear(32, 2, bias=False)
    model.save_pretrained(folder)
    with pytest.raises(InputError, match="2 outputs"):
        judge.judge(PAIRS, tmp_path)
    for kind, match in (("LlamaForSequenceClassification", "2 outputs"), ("LlamaForCausalLM", "drawn at random")):
        model.config.architectures = [kind]
        model.config.save_pretrained(folder)
        with pytest.raises(InputError, match=f"^judge: .*{match}"):
            judge.check()
    with pytest.raises(InputError, match="judge: .*none cannot be loaded"):
        RewardJudge(str(tmp_path / "none")).judge(PAIRS, tmp_path)


def test_a_model_whose_output_was_not_trained_is_refused(reward_folder, tmp_path):
    """Transformers would draw the missing output at random and go on."""
    folder, model, _ = reward_folder
    weights = {name: value for name, value in model.state_dict().items() if not name.startswith("score")}
    model.save_pretrained(folder, state_dict=weights)
    with pytest.raises(InputError, match=r"^judge: .*score\.weight"):
        RewardJudge(str(folder), use_cpu=True).judge(PAIRS, tmp_path)
    with pytest.raises(InputError, match=r"^reward_model: .*score\.weight"):
        load_classifier(str(folder), option="reward_model")
