"""The clients of a warm worker: one at a time has the worker, and one more may be saying who it is."""

from __future__ import annotations

import json
import os
import select
import time

from kubefunc.runner.protocol import wire
from kubefunc.runner.warm.attach import SOCKET
from kubefunc.runner.warm.frames import BUSY, HELLO, LEAVING, NO_MORE, NONCE, PING, STATES, WELCOME
from kubefunc.runner.warm.lease import is_proof, proof, request_key
from kubefunc.runner.warm.stream import Stream, listen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Protocol

    from kubefunc.runner.warm.lease import Lease

    class Inside(Protocol):
        """What a door needs of its worker."""

        @property
        def has_work(self) -> bool: ...  # whether a call runs or waits
        @property
        def is_in_use(self) -> bool: ...  # whether it has a call, or an outcome that is not acknowledged
        def change_client(self) -> None: ...  # another program has the worker from now on
        def welcome(self, runs: Sequence[str]) -> dict[str, Any]: ...  # what is here of what its client waits for
        def resume(self, runs: Sequence[str], output: int, stream: Stream) -> None: ...  # send what it has not got
        def take(self, letter: bytes, content: bytes, stream: Stream) -> bool: ...  # False: nothing a client says
        def stream_broke(self) -> None: ...


PING_EVERY = 10.0
LAST_WORDS = 2.0  # seconds that a leaving worker tries to say so


class Door:
    """Lets clients in, and holds the stream of the one that has the worker.

    Attributes:
        stream: of the client that has the worker; None while there is none.
    """

    def __init__(self, where: str, token: str, lease: Lease, inside: Inside) -> None:
        """
        Args:
            where: the worker's directory.
            token: what its clients must know.
            lease: which client has the worker.
            inside: the worker.
        """
        self._where = where
        self._token = token
        self._lease = lease
        self._inside = inside
        self._listener = listen(os.path.join(where, SOCKET))
        self._candidate: Stream | None = None  # has knocked, and not said yet who it is
        self._pinged = time.monotonic()
        self.stream: Stream | None = None

    @property
    def wakeups(self) -> list[int]:
        """Where to wait for clients, and for what they say."""
        streams = [each.input for each in (self.stream, self._candidate) if each is not None]
        return [self._listener.fileno(), *streams]

    @property
    def outgoing(self) -> list[int]:
        """Where to wait until more can be written."""
        return [self.stream.output] if self.stream is not None and self.stream.is_behind else []

    @property
    def next_ping(self) -> float | None:
        """When the client is told that the worker is here (monotonic clock); None without a client."""
        return None if self.stream is None else self._pinged + PING_EVERY

    def tick(self, now: float) -> None:
        """Do what is due, and write what waits to be written."""
        if self.stream is not None and now - self._pinged >= PING_EVERY:
            self._pinged = now
            self.stream.send(wire.frame(PING))
        if self.stream is not None and not self.stream.flush():
            self._drop(self.stream)

    def dismiss(self, *last: bytes) -> None:
        """Let the client's stream go, once these frames are written as far as that goes without waiting."""
        if self.stream is not None:
            self.stream.send(*last)
            self.stream.flush()
            self._drop(self.stream)

    def announce_end(self) -> None:
        """Tell the client, before it hears that its call was lost, not to send it here again.

        The last words may not arrive: what a container has written when it ends is not always read.
        """
        if self.stream is not None:
            self.stream.send(wire.frame(NO_MORE))

    def close(self, why: str) -> None:
        """Take no client any more; the one that is there is told why."""
        self._listener.close()  # its file stays: who knocks is refused, and does not take this for one that starts
        until = time.monotonic() + LAST_WORDS
        if self.stream is not None:
            self.stream.send(wire.frame(LEAVING, why.encode()))
            while self.stream.flush() and self.stream.is_behind and time.monotonic() < until:
                select.select([], [self.stream.output], [], 0.1)
            self.stream.close()
        if self._candidate is not None:
            self._candidate.close()

    def forget(self) -> None:
        """In a child: close what it must not keep."""
        self._listener.close()
        for stream in (self.stream, self._candidate):
            if stream is not None:
                stream.close()

    # -- what comes in

    def hear(self, ready: list[int]) -> None:
        """Do what clients ask for, on those of ``wakeups`` that are ready."""
        if self._listener.fileno() in ready:
            self._open()
        for stream in (self._candidate, self.stream):
            is_there = stream is not None and stream in (self._candidate, self.stream)  # the one may replace the other
            if stream is not None and is_there and stream.input in ready:
                self._hear_stream(stream)

    def _open(self) -> None:
        connection, _ = self._listener.accept()
        connection.settimeout(1.0)  # the program sends its descriptors at once
        try:
            newcomer = Stream(connection)
        except OSError:
            connection.close()
            return
        if self._candidate is not None:
            self._candidate.close()
        self._candidate = newcomer
        newcomer.send(wire.frame(NONCE, f"{newcomer.nonce} {self._state}".encode()))
        newcomer.flush()  # a pipe that nobody has written to has room for it

    @property
    def _state(self) -> str:
        return STATES[0 if self._inside.has_work else 2 if self.stream is None else 1]

    def _hear_stream(self, stream: Stream) -> None:
        frames = stream.read()
        if frames is None:
            self._drop(stream)
            return
        for letter, content in frames:
            handle = self._inside.take if stream.known else self._greet
            if not handle(letter, content, stream):
                self._drop(stream)  # a known one may come again, and sends again what has changed on its way
                return
            self._lease.seen = time.monotonic()
            if self.stream is not stream:
                return

    def _drop(self, stream: Stream) -> None:
        stream.close()
        if stream is self.stream:
            self.stream = None
            self._inside.stream_broke()
        if stream is self._candidate:
            self._candidate = None

    # -- who it is

    def _greet(self, letter: bytes, content: bytes, stream: Stream) -> bool:
        """Whether the newcomer is this worker's client. It takes the place of its own stream that has broken."""
        try:
            hello: dict[str, Any] = json.loads(content) if letter == HELLO else {}
            client, nonces = str(hello["client"]), (stream.nonce, str(hello["nonce"]))
            if not is_proof(str(hello["proof"]), self._token, client, nonces):
                return False
            runs, output = [str(run) for run in hello["runs"]], int(hello["output"])
        except (ValueError, KeyError, TypeError):
            return False
        if self._is_taken(client):
            stream.send(wire.frame(BUSY))
            stream.flush()
            return False
        self._admit(stream, client, nonces)
        told = {"proof": proof(self._token, "worker", nonces), **self._inside.welcome(runs)}
        stream.send(wire.frame(WELCOME, json.dumps(told).encode()))
        self._inside.resume(runs, output, stream)
        return True

    def _is_taken(self, client: str) -> bool:
        in_use = self.stream is not None or self._inside.is_in_use
        return self._lease.is_taken(client, time.monotonic(), in_use=in_use, runs=self._inside.has_work)

    def _admit(self, stream: Stream, client: str, nonces: tuple[str, str]) -> None:
        if self.stream is not None:
            self._drop(self.stream)
        stream.known = True
        stream.key = request_key(self._token, nonces)
        self.stream, self._candidate = stream, None
        if client != self._lease.client:
            self._inside.change_client()
        self._lease.give(client, time.monotonic())
