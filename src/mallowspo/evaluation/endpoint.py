"""One OpenAI-compatible endpoint: requests that are retried, limited and counted.

The `openai` package speaks the protocol. Its own retries are switched off: an attempt that it makes on its own would
be neither counted nor held back by the limit on requests per minute, a reply that is no reply (cut JSON, a page of a
gateway) would not be asked for again, and its waits end at eight seconds and cannot be stopped.
"""

from __future__ import annotations

import os
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from urllib.parse import urlsplit

from mallowspo.errors import InputError
from mallowspo.evaluation.server_reply import Malformed, Reply, ServerError, is_blocked, read_reply, whole_text
from mallowspo.redaction import HIDDEN, is_secret_name, looks_like_a_key, remember_secret, without_keys

__all__ = [
    "Endpoint",
    "EndpointAddress",
    "EndpointUnavailable",
    "RequestLimits",
    "RequestRefused",
    "api_key_from",
    "check_no_secrets",
]

Task = TypeVar("Task")

PROBES = 10


class EndpointUnavailable(RuntimeError):
    """No usable reply after all attempts; the message names the address and the last failure."""


class RequestRefused(RuntimeError):
    """The server will not answer this request, however often it is sent: it is too long, or a filter blocks it."""


class _Stopped(RuntimeError):
    """Another request has ended the run."""


@dataclass(frozen=True)
class EndpointAddress:
    """Where a model answers, written as `http://host:port/v1#model-name`."""

    url: str
    model: str

    @classmethod
    def parse(cls, text: str, option: str) -> EndpointAddress:
        """Read an address; a key or a password in it is refused."""
        url, _, model = text.partition("#")
        example = "http://localhost:8000/v1#model-name"
        if "@" in url:
            raise InputError(
                f"{option}: the address has a name, a password or a key before the @, which would be written into "
                f"every result; write it without, such as {example}, and name the variable that holds the key with "
                f"--{_key_option(option)}"
            )
        if "?" in text:
            raise InputError(
                f"{option}: got {text.partition('?')[0]}?{HIDDEN}, but an address takes no parameters after a '?'; a "
                f"key stands in a variable that --{_key_option(option)} names, other fields of a request go into "
                f"--{'judge' if option == 'judge' else 'generation'}_parameters"
            )
        try:
            parts = urlsplit(url)
            fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
            parts.netloc.encode("idna" if not parts.netloc.isascii() else "ascii")
        except (ValueError, UnicodeError):
            fine = False
        if not model.strip() or not fine or re.search(r"[\s\x00-\x1f\x7f]", url):
            raise InputError(f"{option}: got {text!r}, expected an address such as {example}")
        if looks_like_a_key(url) or without_keys(model) != model:
            raise InputError(
                f"{option}: the address holds what looks like a key, which would be written into every result; name "
                f"the variable that holds the key with --{_key_option(option)}"
            )
        return cls(url.rstrip("/"), model)

    def __str__(self) -> str:
        return f"{self.url}#{self.model}"


@dataclass(frozen=True)
class RequestLimits:
    """How hard an endpoint is pressed."""

    concurrency: int = 8  # requests under way at a time
    requests_per_minute: float | None = None  # attempts that may start in a minute; None for no limit
    timeout: float = 120.0  # seconds until an attempt is given up
    max_retries: int = 6  # attempts after the first one
    first_wait: float = 1.0  # seconds before the first retry; each further one waits twice as long
    longest_wait: float = 60.0  # seconds, the most that is waited, whatever the server asks for

    def __post_init__(self) -> None:
        for name, lowest in (("concurrency", 1), ("max_retries", 0)):
            if getattr(self, name) < lowest:
                raise InputError(f"{name}: got {getattr(self, name)}, expected at least {lowest}")
        for name in ("requests_per_minute", "timeout"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise InputError(f"{name}: got {value}, expected a finite number above 0")


class _Pace:
    """Slots in time, one a request."""

    def __init__(self, per_minute: float | None) -> None:
        self._gap = 60.0 / per_minute if per_minute else 0.0
        self._next = 0.0
        self._lock = threading.Lock()

    def seconds_to_wait(self) -> float:
        with self._lock:
            now = time.monotonic()
            start = max(now, self._next)
            self._next = start + self._gap
            return start - now


class Endpoint:
    """A model behind an address; without a key a placeholder is sent, as local servers want."""

    def __init__(
        self, address: EndpointAddress, limits: RequestLimits, *, api_key: str | None = None, option: str = "judge"
    ) -> None:
        try:
            import openai
        except ImportError as error:
            raise InputError(
                f"{option}: {address} needs the openai package; pip install 'mallowspo[judge]'"
            ) from error
        self.address = address
        self.limits = limits
        self.option = option
        self.failures: Counter[str] = Counter()  # kind of failure → attempts that ended so
        self.requests = 0  # attempts sent
        self.stop = threading.Event()
        self._pace = _Pace(limits.requests_per_minute)
        self._lock = threading.Lock()
        self._openai = openai
        self._client = openai.OpenAI(
            base_url=address.url, api_key=api_key or "none", max_retries=0, timeout=limits.timeout
        )

    def close(self) -> None:
        """Give the connections back."""
        self._client.close()

    def check(self) -> None:
        """Ask for the list of models; any answer shows that somebody is there."""
        client = self._client.with_options(timeout=min(self.limits.timeout, 10.0))

        def ask() -> None:
            try:
                client.models.with_raw_response.list()
            except self._openai.APIStatusError as error:
                if error.status_code in (401, 403):
                    raise

        self._with_retries(ask, min(self.limits.max_retries, 3))

    def chat(self, messages: list[dict[str, str]], parameters: dict[str, Any]) -> Reply:
        """Send a conversation."""
        create: Any = self._client.chat.completions.with_raw_response.create

        def send() -> Reply:
            whole = [{name: whole_text(text) for name, text in message.items()} for message in messages]
            raw = create(model=self.address.model, messages=whole, extra_body=parameters)
            return read_reply(raw.content)

        return self._reply(send)

    def complete(self, prompt: str, parameters: dict[str, Any]) -> Reply:
        """Let the model continue a text, without a chat template; otherwise as `chat`."""
        create: Any = self._client.completions.with_raw_response.create

        def send() -> Reply:
            raw = create(model=self.address.model, prompt=whole_text(prompt), extra_body=parameters)
            return read_reply(raw.content)

        return self._reply(send)

    def _reply(self, send: Callable[[], Reply]) -> Reply:
        found, attempts = self._with_retries(send, self.limits.max_retries)
        if found.finish_reason == "content_filter":
            raise RequestRefused(f"{self.address} held its reply back (finish_reason content_filter)")
        return replace(found, attempts=attempts)

    def _with_retries(self, send: Callable[[], Any], retries: int) -> tuple[Any, int]:
        last, only_this_one = "", True
        for attempt in range(1, retries + 2):
            self.wait_or_stop(self._pace.seconds_to_wait())
            with self._lock:
                self.requests += 1
            try:
                return send(), attempt
            except (self._openai.OpenAIError, Malformed, ServerError) as error:
                kind, asked_wait = self._kind_of(error)
                last = _said(error)
                only_this_one &= isinstance(error, Malformed) and error.is_json
                with self._lock:
                    self.failures[kind] += 1
            if attempt <= retries:
                # Jitter keeps the threads from coming back all at once.
                doubled = self.limits.first_wait * 2 ** (attempt - 1) * random.uniform(0.75, 1.25)
                self.wait_or_stop(min(max(doubled, asked_wait), self.limits.longest_wait))
        message = f"{self.address} gave no usable reply in {retries + 1} attempts; the last: {last}"
        # A server that answers each time, only not with a text, is not away.
        raise RequestRefused(message) if only_this_one else EndpointUnavailable(message)

    def work_through(self, tasks: Sequence[Task], work: Callable[[Task], bool], *, probe: bool) -> None:
        """Do tasks side by side; after the first failure start no more, and let those under way end.

        `work` stores its result itself, so that nothing that was paid for is lost, and says whether the task was
        answered, and not refused. With `probe` tasks are done one after another until one is answered, so that
        whoever refuses everything is found out early.
        """
        start = self._until_answered(tasks, work) if probe else 0

        def guarded(task: Task) -> None:
            self.wait_or_stop(0.0)
            try:
                work(task)
            except BaseException:
                self.stop.set()  # here, before this thread can take up another task
                raise

        self.stop.clear()
        with ThreadPoolExecutor(max_workers=self.limits.concurrency) as pool:
            futures = [pool.submit(guarded, task) for task in tasks[start:]]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                self.stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                self.stop.clear()
        failures = [future.exception() for future in futures if not future.cancelled() and future.exception()]
        # The one that ended the run is no echo of it.
        for failure in sorted(failures, key=lambda error: isinstance(error, _Stopped)):
            raise failure  # type: ignore[misc]

    def _until_answered(self, tasks: Sequence[Task], work: Callable[[Task], bool]) -> int:
        """How many tasks it took; `RequestRefused` where the first ten, or all, were refused."""
        for number, task in enumerate(tasks[:PROBES], start=1):
            if work(task):
                return number
        if tasks:
            number = min(len(tasks), PROBES)
            raise RequestRefused(
                "the only request was refused" if number == 1 else f"the first {number} requests were all refused"
            )
        return 0

    def wait_or_stop(self, seconds: float) -> None:
        """Wait, unless another request has ended the run."""
        if self.stop.wait(seconds) if seconds > 0 else self.stop.is_set():
            raise _Stopped

    def _kind_of(self, error: Exception) -> tuple[str, float]:
        """Sort a failure: what is worth another attempt, and after how many seconds; raise for what is not."""
        openai = self._openai
        if isinstance(error, Malformed):
            return "malformed", 0.0
        if isinstance(error, ServerError):
            self._raise_if_final(error.code, error, error.blocked)
            return "rate_limit" if error.code == 429 else "server_error", 0.0
        if isinstance(error, openai.APITimeoutError):
            return "timeout", 0.0
        if isinstance(error, openai.APIConnectionError):
            return "connection", 0.0
        if not isinstance(error, openai.APIStatusError):
            return "malformed", 0.0
        code = error.status_code
        self._raise_if_final(code, error, is_blocked(error.body))
        return "rate_limit" if code == 429 else "server_error", _retry_after(error.response.headers)

    def _raise_if_final(self, code: int, error: Exception, blocked: bool) -> None:
        """Raise for what another attempt cannot change."""
        if blocked or code in (400, 413, 422, 451):
            raise RequestRefused(f"{self.address} refused the request with {code}: {_said(error)}") from error
        if code < 500 and code not in (408, 409, 425, 429):
            hint = (
                f"; name the environment variable that holds the key with --{_key_option(self.option)}"
                if code in (401, 403)
                else ""
            )
            raise InputError(f"{self.option}: {self.address} answered with {code}: {_said(error)}{hint}") from error


def _key_option(option: str) -> str:
    return "judge_api_key_env" if option.startswith("judge") else "api_key_env"


def _said(error: Exception) -> str:
    """What went wrong, in one line that can be printed: a gateway's page of HTML is a page long."""
    text = str(getattr(error, "message", "") or error)
    if error.__cause__ is not None and text.startswith("Connection error"):
        text = f"{text} ({error.__cause__})"
    plain = "".join(c if c.isprintable() else " " for c in re.sub(r"<[^<>]*>", " ", text))
    plain = " ".join(plain.split()).removesuffix(".")
    return plain if len(plain) <= 300 else plain[:300] + " …"


def _retry_after(headers: Any) -> float:
    try:
        return max(0.0, float(headers.get("retry-after", "")))
    except ValueError:
        return 0.0  # absent, or a date, which servers of models do not send


def api_key_from(variable: str | None, option: str) -> str | None:
    """Read an API key from the environment variable that the user named; None where none was named."""
    if variable is None:
        return None
    value = os.environ.get(variable) if "\x00" not in variable and "=" not in variable else None
    if not value or not value.strip():
        # Whoever gives the key itself must not find it in a message.
        named = variable if re.fullmatch(r"[A-Z][A-Z]*(_[A-Z0-9]{1,12})*", variable) else None
        if named is None or looks_like_a_key(variable):
            raise InputError(
                f"{option}: what was given is no environment variable that is set; give the variable's name, such as "
                "OPENAI_API_KEY, not the key"
            )
        raise InputError(f"{option}: the environment variable {variable} is not set")
    key = value.strip()
    remember_secret(key)  # from here on it is taken out of all that this process writes, whoever sends it back
    if not key.isascii() or not key.isprintable() or " " in key:
        raise InputError(f"{option}: the key in {variable} holds a space or a character that no header can carry")
    return key


def check_no_secrets(parameters: dict[str, Any], option: str) -> None:
    """Raise `InputError` where fields of a request hold a key: they go into every result."""

    def look(value: Any, path: str, name: str) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                look(item, f"{path}.{key}" if path else str(key), name if is_secret_name(name) else str(key))
        elif isinstance(value, list):
            for item in value:
                look(item, path, name)
        elif (is_secret_name(name) and value not in (None, "", True, False)) or looks_like_a_key(str(value)):
            raise InputError(
                f"{option}: the field {path!r} holds a key, which would be written into every result; put it into "
                f"an environment variable and name that with --{_key_option(option)}"
            )

    look(parameters, "", "")
