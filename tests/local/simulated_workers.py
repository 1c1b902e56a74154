"""An API server whose Pods are warm workers, as many as are wanted: each call returns None at once.

The token of a worker is the end of its Pod's name, after ``pod-``.
"""

from __future__ import annotations

import contextlib
import json
import pickle
import threading
from collections.abc import Callable
from typing import Any

from kubefunc.runner.execution.request import CALL, ENDED, RESULT
from kubefunc.runner.protocol import wire
from kubefunc.runner.warm.frames import DATA, GOODBYE, HELLO, NONCE, WELCOME
from kubefunc.runner.warm.lease import new_nonce, proof
from kubefunc.testing.api_server import Gone, Peer, Request

NONE = pickle.dumps(None)


class SimulatedWorkers:
    """Answers exec requests.

    Attributes:
        deaf: Pods that read nothing more once they serve, while this is not set.
    """

    def __init__(self) -> None:
        self.deaf: dict[str, threading.Event] = {}

    def __call__(self, request: Request, peer: Peer) -> None:
        """One stream, to its end."""
        pod = request.path.split("/")[-2]
        peer.upgrade(request)
        with contextlib.suppress(Gone):
            stream = _Stream(pod.removeprefix("pod-"), lambda data: peer.data(1, data))
            while not stream.is_over:
                opcode, payload = peer.receive()
                if opcode == 8:
                    break
                stream.feed(payload[1:])
                if pod in self.deaf and stream.serves:
                    self.deaf[pod].wait()
        peer.cut()


class _Stream:
    def __init__(self, token: str, answer: Callable[[bytes], None]) -> None:
        self._token = token
        self._answer = answer
        self._nonce = new_nonce()
        self._frames = wire.Frames()
        self._request = bytearray()
        self.is_over = self.serves = False
        answer(wire.frame(NONCE, f"{self._nonce} free".encode()))

    def feed(self, data: bytes) -> None:
        for letter, content in self._frames.feed(data):
            if letter == HELLO:
                self._answer(wire.frame(WELCOME, json.dumps(self._welcome(json.loads(content))).encode()))
                self.serves = True
            elif letter == DATA:
                self._request += content
            elif letter == CALL:
                self._answer(self._result())
            elif letter == GOODBYE:
                self._answer(wire.frame(GOODBYE))
                self.is_over = True

    def _welcome(self, hello: dict[str, Any]) -> dict[str, Any]:
        shown = proof(self._token, "worker", (self._nonce, hello["nonce"]))
        return {"proof": shown, "kept": [], "runs": [], "lost": []}

    def _result(self) -> bytes:
        (size,) = wire.LENGTH.unpack_from(self._request)
        header = json.loads(self._request[wire.LENGTH.size : wire.LENGTH.size + size])
        self._request.clear()
        outcome = {"outcome": "value", "call": header["spec"]["call"], "attempt": 1}
        envelope = wire.seal(outcome, NONE, bytes.fromhex(header["key"]))
        return wire.frame(RESULT, envelope) + wire.frame(ENDED, b"0")
