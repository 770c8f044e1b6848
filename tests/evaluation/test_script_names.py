"""What people's scripts import of the judges, in the way in which they call it."""

import json

from judge_server import JudgeServer

from mallowspo.evaluation.endpoint import Endpoint, EndpointAddress, RequestLimits
from mallowspo.evaluation.judging import judge_with_endpoint
from mallowspo.evaluation.verdicts import AnswerPair


def test_a_judge_is_asked_in_one_call_with_a_log_of_any_name(tmp_path):
    pairs = [
        AnswerPair("Name a colour.", "blue is a long answer", "red", 4),
        AnswerPair("A fish?", "eel", "a long pike"),
    ]
    with JudgeServer() as server:
        limits = RequestLimits(max_retries=1, first_wait=0.01, timeout=20)
        found = [
            judge_with_endpoint(pairs, Endpoint(EndpointAddress(server.url, "m"), limits), tmp_path / "v.jsonl")
            for _ in range(2)
        ]
        assert len(server.requests) == 4
    assert found[0].model_first_n.tolist() == found[1].model_second_n.tolist() == [1.0, 0.0]
    assert found[0].asked == 4 and found[1].asked == 0
    lines = [json.loads(line) for line in (tmp_path / "v.jsonl").read_text().splitlines()]
    assert {line["prompt_index"] for line in lines} == {4, 0}
