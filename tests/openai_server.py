"""A real HTTP server on loopback that answers like an OpenAI-compatible endpoint, by a script of good and bad replies.

    with ScriptedServer(["yes", Reply(status=429, headers={"Retry-After": "1"}), Reply("yes")]) as server:
        client = openai.OpenAI(base_url=server.base_url, api_key="none")

The script is a sequence of replies, taken in the order in which requests arrive (the last one stands for all further
requests), or a function from the request's JSON body to a reply, for answers that depend on what was asked. A text
stands for ``Reply(text)``: an ordinary completion with that content.

What the tests read afterwards:

- ``server.requests``: the JSON bodies of all chat requests, in the order of arrival; ``server.headers`` beside them, by
  names in lower case;
- ``server.texts``: the last message's content of each;
- ``server.most_at_once``: how many requests were under way at the same time at most;
- ``server.listings``: how often ``GET /v1/models`` was asked (that counts as no request).

`json_reply` makes a completion whose content is a JSON object. Nothing here reads a clock to decide: delays end early
when the server closes, so a test that asks for a delay beyond the client's timeout does not wait for it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, ClassVar


@dataclass(frozen=True)
class Reply:
    """One answer to ``POST /v1/chat/completions``."""

    content: str | None = ""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0  # seconds before the first byte
    body: str | None = None  # sent as it stands in the place of a completion or an error
    break_after: int | None = None  # the connection ends after so many bytes of the body; 0: before the status line
    refusal: str | None = None
    finish_reason: str = "stop"
    usage: tuple[int, int] | None = (10, 2)  # prompt and completion tokens; None: the endpoint does not count


Script = Sequence[Reply | str] | Callable[[Mapping[str, Any]], Reply | str]


def json_reply(**values: Any) -> Reply:
    """A completion whose content is these values as one JSON object."""
    return Reply(json.dumps(values))


class ScriptedServer:
    """The server; use it as a context manager."""

    def __init__(self, script: Script = ("yes",), *, models: Sequence[str] | None = ("scripted",)) -> None:
        """``models``: the names that ``GET /v1/models`` lists; None: the endpoint has no such list (404)."""
        self.requests: list[Mapping[str, Any]] = []
        self.headers: list[Mapping[str, str]] = []
        self.listings = 0
        self.most_at_once = 0
        self.deny: str | None = None  # a message with which every path answers 401 from now on
        self._script, self._models = script, models
        self._served = 0
        self._at_once = 0
        self._lock = threading.Lock()
        self._closing = threading.Event()
        handler = type("Handler", (_Handler,), {"owner": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def base_url(self) -> str:
        """What a client takes as its base URL."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    @property
    def texts(self) -> list[str]:
        """The last message of each request."""
        return [str(request["messages"][-1]["content"]) for request in self.requests]

    def __enter__(self) -> ScriptedServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def rewrite(self, script: Script) -> None:
        """Go on by another script; what was asked so far stays."""
        with self._lock:
            self._script, self._served = script, 0

    def answer(self, request: Mapping[str, Any], headers: Mapping[str, str]) -> Reply:
        """Note the request and give what the script says."""
        with self._lock:
            self.requests.append(request)
            self.headers.append(headers)
            script, number = self._script, self._served
            self._served += 1
        reply = script(request) if callable(script) else script[min(number, len(script) - 1)]
        return Reply(reply) if isinstance(reply, str) else reply

    def enter(self) -> None:
        """A request is under way."""
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)

    def leave(self) -> None:
        """It is answered."""
        with self._lock:
            self._at_once -= 1

    def wait(self, seconds: float) -> None:
        """Wait, but no longer than until the server closes."""
        self._closing.wait(seconds)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the script."""


class _Handler(BaseHTTPRequestHandler):
    owner: ClassVar[ScriptedServer]
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""

    def do_GET(self) -> None:
        if self.owner.deny is not None:
            self._send(Reply(self.owner.deny, status=401), {})
            return
        if not self.path.endswith("/models") or self.owner._models is None:
            self._send(Reply(status=404, body=json.dumps({"error": {"message": "no such path"}})), {})
            return
        self.owner.listings += 1
        listed = [{"id": name, "object": "model", "created": 0, "owned_by": "test"} for name in self.owner._models]
        self._send(Reply(body=json.dumps({"object": "list", "data": listed})), {})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if not self.path.endswith("/chat/completions"):
            self._send(Reply(status=404, body=json.dumps({"error": {"message": f"no such path: {self.path}"}})), {})
            return
        self.owner.enter()
        try:
            request = json.loads(body)
            reply = self.owner.answer(request, {name.lower(): value for name, value in self.headers.items()})
            if self.owner.deny is not None:
                reply = Reply(self.owner.deny, status=401)
            if reply.delay:
                self.owner.wait(reply.delay)
        finally:
            self.owner.leave()
        self._send(reply, request)

    def _send(self, reply: Reply, request: Mapping[str, Any]) -> None:
        if reply.break_after == 0:
            self.close_connection = True
            return
        text = reply.body
        if text is None:
            text = json.dumps(_completion(reply, request) if reply.status == 200 else _error(reply))
        data = text.encode()
        try:
            self.send_response(reply.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data[: reply.break_after])
        except (BrokenPipeError, ConnectionResetError):  # the client's timeout came first
            self.close_connection = True
        if reply.break_after is not None:
            self.close_connection = True


def _completion(reply: Reply, request: Mapping[str, Any]) -> dict[str, Any]:
    message = {"role": "assistant", "content": reply.content, "refusal": reply.refusal}
    made: dict[str, Any] = {
        "id": "chatcmpl-test",
        "object": "chat.completion",
        "created": 0,
        "model": request.get("model", ""),
        "choices": [{"index": 0, "finish_reason": reply.finish_reason, "message": message, "logprobs": None}],
    }
    if reply.usage is not None:
        prompt, completion = reply.usage
        made["usage"] = {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }
    return made


def _error(reply: Reply) -> dict[str, Any]:
    return {"error": {"message": reply.content or f"status {reply.status}", "type": "test", "code": None}}
