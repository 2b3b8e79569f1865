"""A stand-in for chat and moderation models: a server on a loopback port that says what a test has told it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

Answer = tuple[int, bytes]
CHAT, MODERATION = "/v1/chat/completions", "/v1/moderations"


class Asked(NamedTuple):
    """What somebody has asked: where, with which bearer, and the JSON."""

    path: str
    bearer: str | None
    body: dict[str, Any]


class Advisers:
    """Where they listen, what they were asked, and what they answer by path: a status with a body, or None for ever."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/v1"
        self.asked: list[Asked] = []
        self.answers: dict[str, Answer | None] = {CHAT: (500, b""), MODERATION: (500, b"")}
        self.ended = threading.Event()

    def says(self, text: Any) -> None:
        """The chat model answers with that text."""
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        self.answers[CHAT] = 200, json.dumps({"id": "chat-1", "choices": [choice]}).encode()

    def flags(self, *flagged: bool) -> None:
        """The moderation model judges so."""
        results = [{"flagged": one, "categories": {"violence": one}} for one in flagged]
        self.answers[MODERATION] = 200, json.dumps({"id": "modr-1", "results": results}).encode()


@contextmanager
def advising() -> Iterator[Advisers]:
    """Runs the stand-in; until it is told more, it fails."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            found.asked.append(Asked(self.path, self.headers["Authorization"], body))
            answer = found.answers[self.path]
            if answer is None:
                found.ended.wait()
                return
            self.send_response(answer[0])
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer[1])))
            self.end_headers()
            with suppress(ConnectionError):
                self.wfile.write(answer[1])

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Advisers(server.server_port)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="advisers")
    thread.start()
    try:
        yield found
    finally:
        found.ended.set()
        server.shutdown()
        thread.join()
        server.server_close()
