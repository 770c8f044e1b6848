"""What servers of models send back, in all the forms in which they do."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from mallowspo.files import parse_json

__all__ = ["Malformed", "Reply", "ServerError", "is_blocked", "read_reply", "whole_text"]


class Malformed(ValueError):
    """A reply with status 200 that is no reply; where it is not even JSON, something stands in front of the server."""

    def __init__(self, body: str, *, is_json: bool) -> None:
        super().__init__(f"a malformed reply ({body[:80]!r})")
        self.is_json = is_json


class ServerError(RuntimeError):
    """An error that a server sent with status 200; `code` is the status that it should have had."""

    def __init__(self, message: str, code: int, blocked: bool) -> None:
        super().__init__(whole_text(message))
        self.code = code
        self.blocked = blocked


@dataclass(frozen=True)
class Reply:
    """What a model said."""

    text: str
    finish_reason: str  # `stop`, `length`, or what the server says
    prompt_tokens: int | None  # as the server counts; None where it does not say
    completion_tokens: int | None
    attempts: int = 1  # requests that it took
    model: str | None = None  # which model the server says it was


_FILTERS = re.compile(
    r"content[_ -]?(?:filter|policy|management)|responsible_?ai|moderation|data_?inspection|flagged"
    r"|prohibited_?content|safety (?:system|filter|setting)|blocked (?:by|due)",
    re.IGNORECASE,
)


def is_blocked(body: Any) -> bool:
    """Whether an error says that a content filter stopped the request; the same request will meet it again."""
    if isinstance(body, dict):
        named = [body.get(name) for name in ("code", "type", "message", "status")]
        return any(isinstance(text, str) and _FILTERS.search(text) for text in named) or any(
            is_blocked(body.get(name)) for name in ("error", "innererror")
        )
    return False


def whole_text(text: str) -> str:
    """Put the replacement character for half a surrogate pair, which is no character and cannot be sent or saved."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def read_reply(body: bytes) -> Reply:
    """Read the body of a reply to a chat or a completion, JSON or the events of a stream that nobody asked for."""
    decoded = body.decode("utf-8", "replace").lstrip("\ufeff \t\r\n")
    is_stream = decoded.startswith(("data:", "event:", ":"))
    try:
        reply = _joined_events(decoded) if is_stream else parse_json(decoded, halves=True)
    except ValueError as error:
        raise Malformed(decoded, is_json=False) from error
    if not isinstance(reply, dict):
        raise Malformed(decoded, is_json=True)
    choices = reply.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    _raise_error(reply, choice)
    finish_reason = choice.get("finish_reason")
    finish_reason = finish_reason if isinstance(finish_reason, str) else ""
    text = _text_of_choice(choice)
    if text is None and not finish_reason:
        raise Malformed(decoded, is_json=True)
    usage = reply.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    asked, answered = (_count(usage.get(name)) for name in ("prompt_tokens", "completion_tokens"))
    model = reply.get("model")
    model = whole_text(model) if isinstance(model, str) and model else None
    # A model that spent all its tokens on thinking, or calls a tool, says nothing.
    return Reply(whole_text(text or ""), finish_reason, asked, answered, model=model)


def _raise_error(reply: dict[str, Any], choice: dict[str, Any]) -> None:
    error = reply.get("error") or choice.get("error")
    if not error and choice:
        return
    if not error and reply.get("object") != "error" and not ("message" in reply and "choices" not in reply):
        if isinstance(feedback := reply.get("prompt_feedback") or reply.get("promptFeedback"), dict):
            raise ServerError(f"the prompt was blocked ({feedback})", 400, blocked=True)
        return
    found = (
        error if isinstance(error, dict) else {"message": error if isinstance(error, str) else reply.get("message")}
    )
    code = _count(found.get("code")) or _count(found.get("status")) or _count(reply.get("code")) or 500
    message = found.get("message")
    raise ServerError(
        message if isinstance(message, str) and message else f"an error under status 200 ({str(found)[:200]})",
        code if 400 <= code < 600 else 500,
        is_blocked({"error": found}),
    )


def _text_of_choice(choice: dict[str, Any]) -> str | None:
    """What is said; None where nothing is."""
    found = [choice[name] for name in ("message", "delta") if isinstance(choice.get(name), dict)]
    message: dict[str, Any] = found[0] if found else {}
    text = _text_of_content(message.get("content"))
    if text is None:
        text = _text_of_content(choice.get("text"))
    if not text and isinstance(message.get("refusal"), str) and message["refusal"]:
        return str(message["refusal"])
    return text


def _text_of_content(content: Any) -> str | None:
    if isinstance(content, str):
        return content
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list):
        return None
    texts = []
    for part in content:
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, dict) and part.get("type", "text") in ("text", "output_text", "refusal"):
            said = part.get("refusal") if part.get("type") == "refusal" else part.get("text")
            said = said.get("value") if isinstance(said, dict) else said
            texts += [said] if isinstance(said, str) else []
    return "".join(texts) if texts or not content else None


def _joined_events(text: str) -> dict[str, Any]:
    """The reply that the chunks of a stream add up to."""
    whole: dict[str, Any] = {}
    said: list[str] = []
    finish_reason = None
    for line in text.split("\n"):
        data = line.removeprefix("data:").strip()
        if not line.startswith("data:") or data in ("", "[DONE]"):
            continue
        chunk = parse_json(data, halves=True)
        if not isinstance(chunk, dict):
            raise ValueError("a chunk is no object")
        whole |= {name: value for name, value in chunk.items() if value}
        choices = chunk.get("choices")
        if isinstance(choices, list) and choices and isinstance(choices[0], dict):
            said.append(_text_of_choice(choices[0]) or "")
            finish_reason = choices[0].get("finish_reason") or finish_reason
    if said:
        whole["choices"] = [{"message": {"content": "".join(said)}, "finish_reason": finish_reason}]
    return whole


def _count(value: Any) -> int | None:
    """A number of tokens, also where it is written as text."""
    if isinstance(value, str) and re.fullmatch(r"\d{1,12}", value.strip()):
        return int(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e12 and value == int(value):
        return int(value)
    return None
