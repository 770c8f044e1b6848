"""Every form in which servers of models reply."""

import json

import pytest
from judge_server import JudgeServer

from mallowspo.errors import InputError
from mallowspo.evaluation.endpoint import Endpoint, EndpointAddress, RequestLimits
from mallowspo.evaluation.generation import generate_at_endpoint
from mallowspo.evaluation.local_model import Sampling
from mallowspo.evaluation.prompts import EvaluationPrompt
from mallowspo.evaluation.server_reply import Malformed, ServerError, read_reply


def body(content, **choice):
    return {"choices": [{"message": {"role": "assistant", "content": content}, **choice}]}


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (body([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]), "ab"),
        (
            body([{"type": "thinking", "thinking": [{"type": "text", "text": "no"}]}, {"type": "text", "text": "b"}]),
            "b",
        ),
        (body({"type": "text", "text": "a"}), "a"),
        (body("half \ud83d"), "half \ufffd"),
        (body(None, finish_reason="tool_calls"), ""),
        ({"choices": [{"message": {"content": None, "refusal": "I can't."}, "finish_reason": "stop"}]}, "I can't."),
        ({"choices": [{"text": "plain", "finish_reason": "stop"}]}, "plain"),
    ],
)
def test_content_in_every_form_is_read(reply, text):
    assert read_reply(json.dumps(reply).encode()).text == text


def test_a_stream_that_nobody_asked_for_and_counts_as_text_are_read():
    events = [{"choices": [{"delta": {"content": part}}]} for part in ("[[", "A\u2028]]")]
    events.append({"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": {"prompt_tokens": "5"}})
    stream = "".join(f"data: {json.dumps(event, ensure_ascii=False)}\n\n" for event in events) + "data: [DONE]\n"
    found = read_reply(stream.encode())
    assert (found.text, found.finish_reason, found.prompt_tokens, found.completion_tokens) == (
        "[[A\u2028]]",
        "stop",
        5,
        None,
    )


@pytest.mark.parametrize(
    ("reply", "code", "blocked"),
    [
        ({"error": {"message": "too long", "code": 400}}, 400, False),
        ({"error": {"message": "no", "code": "content_filter"}}, 500, True),
        ({"object": "error", "message": "busy", "code": 503}, 503, False),
        ({"choices": [{"error": {"code": 429, "message": "slow down"}}]}, 429, False),
        ({"error": "out of memory"}, 500, False),
    ],
)
def test_an_error_under_status_200_is_an_error(reply, code, blocked):
    with pytest.raises(ServerError) as error:
        read_reply(json.dumps(reply).encode())
    assert (error.value.code, error.value.blocked) == (code, blocked)


@pytest.mark.parametrize(
    "reply", [b"<html>", b"[" * 100_000, b"[]", b"null", b'{"choices": [null]}', b"\xff\xfe", b""]
)
def test_what_is_no_reply_is_malformed(reply):
    with pytest.raises(Malformed):
        read_reply(reply)


PROMPTS = [EvaluationPrompt(i, text) for i, text in enumerate(["Sharpen a knife?", "Name a colour.", "Name a fish."])]


def test_a_blocked_prompt_is_named_and_left_out_where_that_is_wanted(tmp_path):
    with JudgeServer(lambda question, n: "400" if "knife" in question else None) as server:
        endpoint = Endpoint(EndpointAddress(server.url, "m"), RequestLimits(max_retries=0), option="model")
        for _ in range(2):
            with pytest.raises(InputError, match=r"refuses 1 of 3 prompts.*row 0.*says 400.*--skip_refused") as error:
                generate_at_endpoint(PROMPTS, endpoint, Sampling(), tmp_path / "g.jsonl")
            assert "same command" not in str(error.value)
        found = generate_at_endpoint(PROMPTS, endpoint, Sampling(), tmp_path / "g.jsonl", skip_refused=True)
        assert list(found.refused) == [0] and found.take([1, 2]).texts == ("echo Name a colour.", "echo Name a fish.")
        assert sum(request["messages"][0]["content"] == "Name a fish." for request in server.requests) == 1
        server.faults = lambda question, n: "400"
        with pytest.raises(InputError, match=r"first 3 requests were all refused.*generation_parameters"):
            generate_at_endpoint(PROMPTS, endpoint, Sampling(), tmp_path / "h.jsonl", skip_refused=True)
