"""A judge behind a real HTTP server that fails in every way that servers do."""

import errno
import fcntl
import json
import os
import signal
import time
from collections import Counter

import pytest
from judge_server import JudgeServer

from forks import in_child
from mallowspo.errors import InputError
from mallowspo.evaluation.endpoint import Endpoint, EndpointAddress, RequestLimits
from mallowspo.evaluation.judge_prompt import JudgeTemplate
from mallowspo.evaluation.judging import judge_with_endpoint
from mallowspo.evaluation.verdicts import AnswerPair, Prices
from mallowspo.evaluation.win_rates import both_orders, win_rate

FAST = {"first_wait": 0.01, "longest_wait": 0.1, "timeout": 0.3}


def pairs(n):
    """The model's answer is the longer one in even rows, so its win rate is known."""
    return [AnswerPair(f"prompt {i}", "x" * (20 + i if i % 2 == 0 else 5), "y" * (10 + i)) for i in range(n)]


def truth(n):
    return [1.0 if i % 2 == 0 else 0.0 for i in range(n)]


def endpoint(server, **limits):
    return Endpoint(EndpointAddress(server.url, "judge"), RequestLimits(**(FAST | limits)))


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_both_orders_are_asked_and_the_longer_answer_wins(tmp_path):
    log = tmp_path / "verdicts.jsonl"
    with JudgeServer() as server:
        found = judge_with_endpoint(pairs(6), endpoint(server), log, prices=Prices(2.0, 10.0))
    assert found.model_first_n.tolist() == found.model_second_n.tolist() == truth(6)
    assert len(server.requests) == found.asked == 12 and set(server.seen.values()) == {1}
    usage = found.usage
    assert (usage.replies, usage.prompt_tokens, usage.completion_tokens) == (12, 1200, 84)
    assert usage.cost == pytest.approx((1200 * 2 + 84 * 10) / 1e6)
    assert Counter(line["order"] for line in lines(log)) == {"model_first": 6, "baseline_first": 6}
    assert server.requests[0]["temperature"] == 0 and server.requests[0]["model"] == "judge"


def test_no_verdict_is_lost_or_counted_twice_when_everything_fails_once(tmp_path):
    kinds = ["timeout", "429", "500", "malformed", "undecided", "drop", "empty", "html", "both", None]
    numbers = {}

    def faults(question, n):
        number = numbers.setdefault(question, len(numbers))
        return kinds[(number + n) % len(kinds)] if n < 3 else None

    log = tmp_path / "verdicts.jsonl"
    n = 20
    with JudgeServer(faults) as server:
        judge = endpoint(server, concurrency=6)
        found = judge_with_endpoint(pairs(n), judge, log, attempts=4)
    assert found.model_first_n.tolist() == found.model_second_n.tolist() == truth(n)
    assert (found.undecided, found.refused) == (0, 0)
    decided = [line["key"] for line in lines(log) if line["verdict"] in ("A", "B", "tie")]
    assert len(decided) == len(set(decided)) == 2 * n
    assert set(judge.failures) == {"timeout", "rate_limit", "server_error", "malformed", "connection"}
    # A malformed reply, an empty one and a page of HTML are one kind.
    assert judge.requests == len(server.requests) == sum(judge.failures.values()) + len(lines(log))
    assert found.usage.replies == len(lines(log)) > 2 * n  # the undecided replies were paid for too


def test_a_verdict_that_stays_undecided_is_a_tie_and_is_reported(tmp_path):
    log = tmp_path / "verdicts.jsonl"

    def faults(question, n):
        return "undecided" if "prompt 0" in question else None

    with JudgeServer(faults) as server:
        found = judge_with_endpoint(pairs(3), endpoint(server), log, attempts=3)
        assert found.undecided == 2 and found.model_first_n.tolist() == [0.5, 0.0, 1.0]
        assert sum(line["verdict"] == "undecided" for line in lines(log)) == 6
        reminded = [r for r in server.requests if len(r["messages"]) == 3]
        assert len(reminded) == 4 and reminded[0]["messages"][1]["content"] == "Hard to say."
        # It has had its attempts: the next run asks nothing, and one that allows more asks only for these.
        before = len(server.requests)
        assert judge_with_endpoint(pairs(3), endpoint(server), log, attempts=3).asked == 0
        assert len(server.requests) == before
        assert judge_with_endpoint(pairs(3), endpoint(server), log, attempts=4).undecided == 2
        assert len(server.requests) == before + 2


def test_a_dead_endpoint_names_itself_and_what_is_saved_and_the_next_run_goes_on(tmp_path):
    log = tmp_path / "verdicts.jsonl"
    n = 10

    def faults(question, n_seen):
        return "500" if any(f"prompt {i}\n" in question for i in (7, 8, 9)) else None

    with JudgeServer(faults) as server:
        with pytest.raises(InputError) as error:
            judge_with_endpoint(pairs(n), endpoint(server, concurrency=1, max_retries=2), log)
        assert server.url in str(error.value) and "3 attempts" in str(error.value)
        assert f"14 of 20 verdicts are saved in {log}" in str(error.value)
        server.faults = lambda question, n_seen: None
        found = judge_with_endpoint(pairs(n), endpoint(server), log)
    assert found.asked == 6 and found.model_first_n.tolist() == truth(n)
    assert len(lines(log)) == 20 and found.usage.replies == 20


def test_a_killed_run_goes_on_where_it_stopped(tmp_path):
    log = tmp_path / "verdicts.jsonl"
    with JudgeServer(lambda question, n: "timeout", hang=0.05) as server:
        asking = Endpoint(EndpointAddress(server.url, "judge"), RequestLimits(concurrency=3))
        child = in_child(lambda: judge_with_endpoint(pairs(30), asking, log))
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
        found = judge_with_endpoint(pairs(30), endpoint(server), log)
    assert found.asked == 60 - saved == len(server.requests) - asked_before
    assert len({line["key"] for line in lines(log)}) == len(lines(log)) == 60
    assert win_rate(both_orders(found.model_first_n, found.model_second_n)).wins == 15


def test_equal_pairs_share_a_verdict_and_equal_answers_need_none(tmp_path):
    twice = [*pairs(2), *pairs(2), AnswerPair("p", "same", "same")]
    with JudgeServer() as server:
        found = judge_with_endpoint(twice, endpoint(server), tmp_path / "v.jsonl")
    assert len(server.requests) == 4 and found.identical == 1
    assert found.model_first_n.tolist() == [1.0, 0.0, 1.0, 0.0, 0.5]


def test_what_a_verdict_depends_on_is_asked_anew(tmp_path):
    log = tmp_path / "v.jsonl"
    with JudgeServer() as server:
        judge = endpoint(server)
        judge_with_endpoint(pairs(1), judge, log)
        assert judge_with_endpoint(pairs(1), judge, log).asked == 0
        other = JudgeTemplate("{prompt} {answer_a} {answer_b}?", "mine-1")
        assert judge_with_endpoint(pairs(1), judge, log, template=other).asked == 2
        assert judge_with_endpoint(pairs(1), judge, log, parameters={"temperature": 1}).asked == 2
        second = Endpoint(EndpointAddress(server.url, "other"), RequestLimits(**FAST))
        assert judge_with_endpoint(pairs(1), second, log).asked == 2
        changed = [AnswerPair("prompt 0", "another", "y" * 10)]
        assert judge_with_endpoint(changed, judge, log).asked == 2


def test_a_refused_request_is_a_tie_unless_all_are(tmp_path):
    log = tmp_path / "v.jsonl"
    with JudgeServer(lambda question, n: "400" if "prompt 2\n" in question else None) as server:
        found = judge_with_endpoint(pairs(4), endpoint(server), log)
        assert found.refused == 2 and found.undecided == 0 and found.model_first_n.tolist() == [1, 0, 0.5, 0]
        server.faults = lambda question, n: None
        assert judge_with_endpoint(pairs(4), endpoint(server), log).model_first_n.tolist() == truth(4)
        server.faults = lambda question, n: "400"
        with pytest.raises(InputError, match=r"400: .*judge_parameters"):
            judge_with_endpoint(pairs(4), endpoint(server), tmp_path / "other.jsonl")


@pytest.mark.parametrize("fault", ["401", "404"])
def test_a_wrong_key_or_model_is_not_retried(tmp_path, fault):
    with JudgeServer(lambda question, n: fault) as server:
        with pytest.raises(InputError, match=rf"{fault}.*says {fault}"):
            judge_with_endpoint(pairs(3), endpoint(server), tmp_path / "v.jsonl")
    assert len(server.requests) == 1


def test_the_limits_hold(tmp_path):
    with JudgeServer(lambda question, n: "timeout", hang=0.02) as server:
        judge_with_endpoint(pairs(6), endpoint(server, concurrency=2, requests_per_minute=1200), tmp_path / "v.jsonl")
    assert server.most_running <= 2
    # 12 requests, 50 ms apart; the clock that paces them is not the one that receives them.
    assert server.times[-1] - server.times[0] > 11 * 0.05 - 0.03


def test_a_server_without_token_counts_says_so(tmp_path):
    with JudgeServer(usage=False) as server:
        usage = judge_with_endpoint(pairs(1), endpoint(server), tmp_path / "v.jsonl", prices=Prices(1, 1)).usage
    assert (usage.without_count, usage.prompt_tokens, usage.cost) == (2, 0, 0.0)


def test_progress_ends_at_the_whole(tmp_path):
    steps = []
    with JudgeServer() as server:
        judge_with_endpoint(
            pairs(3),
            endpoint(server),
            tmp_path / "v.jsonl",
            progress=lambda done, total, usage: steps.append((done, total)),
        )
    assert steps[0] == (0, 6) and max(steps) == (6, 6) and len(steps) == 7


def test_somebody_else_writing_is_refused(tmp_path):
    from mallowspo.evaluation.json_log import JsonLog

    with JudgeServer() as server, JsonLog(tmp_path / "v.jsonl"):
        with pytest.raises(InputError, match="another process"):
            judge_with_endpoint(pairs(1), endpoint(server), tmp_path / "v.jsonl")


def test_without_locks_a_log_warns_and_is_written(tmp_path, caplog, monkeypatch):
    from mallowspo.evaluation.json_log import JsonLog

    def flock(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    with JsonLog(tmp_path / "v.jsonl") as log:
        log.append({"key": "a"})
    assert lines(tmp_path / "v.jsonl") == [{"key": "a"}]
    assert str(tmp_path / "v.jsonl") in caplog.text and os.strerror(errno.ENOLCK) in caplog.text


def test_a_damaged_log_is_named(tmp_path):
    (tmp_path / "v.jsonl").write_text('{"key": "a"}\nnonsense\n')
    with JudgeServer() as server, pytest.raises(InputError, match="line 2 is not JSON"):
        judge_with_endpoint(pairs(1), endpoint(server), tmp_path / "v.jsonl")


def test_a_verdict_that_stands_twice_in_the_log_counts_once_and_the_first_stands(tmp_path):
    log = tmp_path / "v.jsonl"
    with JudgeServer() as server:
        judge_with_endpoint(pairs(4), endpoint(server), log)
        first = lines(log)
        opposite = {"A": "B", "B": "A"}
        with log.open("a") as file:
            file.writelines(json.dumps(line | {"verdict": opposite[line["verdict"]]}) + "\n" for line in first)
        found = judge_with_endpoint(pairs(4), endpoint(server), log)
    assert found.asked == 0 and found.model_first_n.tolist() == found.model_second_n.tolist() == truth(4)
