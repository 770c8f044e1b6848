"""A real HTTP server on loopback that speaks the OpenAI protocol, well or badly."""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class JudgeServer:
    """Prefers the longer answer. `faults(question, n)` names what happens to the n-th request of a question.

    Faults: `timeout`, `429`, `500`, `400`, `401`, `drop` (closes the connection), `malformed` (cut JSON), `empty`
    (JSON without choices), `html`, `undecided`, `both`; None answers.
    """

    def __init__(self, faults=lambda question, n: None, *, hang=0.6, usage=True, models=()):
        self.faults, self.hang, self.usage = faults, hang, usage
        self.models = models  # which models it says to be, one reply after the other
        self.seen: Counter[str] = Counter()
        self.requests: list[dict] = []
        self.headers: list[dict] = []
        self.times: list[float] = []
        self.running = self.most_running = 0
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                outer._answer(self)

            def do_GET(self):
                outer._send(self, 200, json.dumps({"object": "list", "data": []}))

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, *_):
                pass  # a client that gave up is what some tests are about

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def _send(self, handler, status, body, content_type="application/json", headers=()):
        data = body.encode()
        handler.send_response(status)
        for name, value in (("Content-Type", content_type), ("Content-Length", str(len(data))), *headers):
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data)

    def _answer(self, handler):
        request = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        question = request["messages"][0]["content"] if "messages" in request else request["prompt"]
        with self._lock:
            self.times.append(time.monotonic())
            self.requests.append(request)
            self.headers.append(dict(handler.headers))
            n = self.seen[question]
            self.seen[question] += 1
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        try:
            self._behave(handler, request, question, self.faults(question, n))
        finally:
            with self._lock:
                self.running -= 1

    def _behave(self, handler, request, question, fault):
        if fault == "timeout":
            time.sleep(self.hang)
            fault = None  # too late: the client must not count it
        if fault == "drop":
            handler.close_connection = True
            return
        if fault in ("400", "401", "404", "429", "500"):
            headers = [("Retry-After", "0.05")] if fault == "429" else []
            self._send(handler, int(fault), json.dumps({"error": {"message": f"says {fault}"}}), headers=headers)
        elif fault == "malformed":
            self._send(handler, 200, '{"choices": [{"message": {"content": "[[A]]"')
        elif fault == "empty":
            self._send(handler, 200, '{"choices": []}')
        elif fault == "html":
            self._send(handler, 200, "<html>please wait</html>", "text/html")
        else:
            text = {"undecided": "Hard to say.", "both": "[[A]] [[B]]"}.get(fault) or self.reply(question)
            self._send(handler, 200, json.dumps(self._body(request, text)))

    def reply(self, question):
        found = re.search(r"<answer A>\n(.*?)\n</answer A>.*<answer B>\n(.*?)\n</answer B>", question, re.DOTALL)
        if not found:
            return f"echo {question}"
        a, b = map(len, found.groups())
        return "Longer. [[A]]" if a > b else "Longer. [[B]]" if b > a else "[[tie]]"

    def _body(self, request, text):
        message = {"message": {"role": "assistant", "content": text}} if "messages" in request else {"text": text}
        body = {"choices": [{"index": 0, "finish_reason": "stop", **message}]}
        if self.models:
            body["model"] = self.models[len(self.requests) % len(self.models)]
        return body | ({"usage": {"prompt_tokens": 100, "completion_tokens": 7}} if self.usage else {})
