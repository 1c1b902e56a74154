"""Functions that listen, and one that asks them. They travel with this module: standard library only."""

from __future__ import annotations

import http.server
import os
import time
import urllib.request
from collections import Counter

from kubefunc import remote

PORT = 8080
STARTED = time.time()  # a Pod that replaces another of a map has the same host name


class _Answers(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/die":
            os._exit(3)
        self._answer(f"{os.uname().nodename}/{STARTED}".encode())
        if self.path == "/stop":
            self.server._BaseServer__shutdown_request = True  # type: ignore[attr-defined]  # shutdown() would wait for itself

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers["Content-Length"])))

    def log_message(self, *_: object) -> None:
        """Nothing is printed."""

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@remote(ports={"http": PORT})
def serve(_: int = 0) -> str:
    """Each request is answered with the name of the Pod and when it started, or with its own body."""
    http.server.ThreadingHTTPServer(("", PORT), _Answers).serve_forever(0.05)
    return "stopped"


@remote
def ask_until_silent(endpoint: str, answer: str, within: float) -> int:
    """Ask until one who answers has not done so for many requests in a row: how many requests were made.

    Each of its answers is printed. Of three that listen, one stays out of fifty in a row once in 600 million times.
    """
    deadline = time.monotonic() + within
    asked = others = 0
    while others < 50 and time.monotonic() < deadline:
        others += 1
        asked += 1
        if _ask(endpoint) == answer:
            print(answer, flush=True)
            others = 0
        time.sleep(0.005)
    return asked


@remote
def ask_until(endpoint: str, pods: int, within: float) -> Counter[str]:
    """Ask until so many Pods have answered; the first to listen is waited for, no other request may fail."""
    deadline = time.monotonic() + within
    answers: Counter[str] = Counter()
    while len(answers) < pods and time.monotonic() < deadline:
        try:
            answers[_ask(endpoint)] += 1
        except OSError:
            if answers:
                raise
            time.sleep(0.1)
    return answers


def _ask(endpoint: str) -> str:
    with urllib.request.urlopen(f"http://{endpoint}/", timeout=10) as answer:
        return str(answer.read().decode())
