"""TLS to the API server inside of TLS to a proxy: nothing is lost on streams that do not block."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from urllib3.util.ssltransport import SSLTransport

from kubefunc.backends.kubernetes.api.streams import Websocket

WITHIN = 20.0
NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
SENT = os.urandom(600_000)


class FarEnd:
    """The proxy and the server behind it, in one."""

    def __init__(self, connection: socket.socket, certificate: Path) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(certificate)
        self.received = bytearray()
        self.reads = threading.Event()
        self.thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
        self.thread.start()

    def _serve(self, connection: socket.socket) -> None:
        self.outer = self.context.wrap_socket(connection, server_side=True)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.inner = self.context.wrap_bio(self.incoming, self.outgoing, server_side=True)
        self._do(self.inner.do_handshake)
        for word in (b"one", b"two", b"three"):
            self.inner.write(word)
        self.outer.sendall(self.outgoing.read())  # three records in one of the outer TLS
        self.reads.wait(WITHIN)
        with contextlib.suppress(OSError):  # the other side has gone
            while len(self.received) < len(SENT) and (piece := self._do(lambda: self.inner.read(65536))):
                self.received += piece

    def _do(self, step: Any) -> Any:
        while True:
            try:
                result, waits = step(), False
            except ssl.SSLWantReadError:
                result, waits = None, True
            if written := self.outgoing.read():
                self.outer.sendall(written)
            if not waits:
                return result
            data = self.outer.recv(16384)
            if data:
                self.incoming.write(data)
            else:
                self.incoming.write_eof()


@pytest.fixture
def stream(certificate: Path) -> Iterator[tuple[Websocket, FarEnd]]:
    """A connection that is upgraded already, and who is at its other end."""
    here, there = socket.socketpair()
    for each in (here, there):
        each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20_000)
    far = FarEnd(there, certificate)
    trusting = ssl.create_default_context(cafile=str(certificate))
    outer = trusting.wrap_socket(here, server_hostname="127.0.0.1")
    made = Websocket(cast(Any, None), "/", [], WITHIN)
    made.adopt(SSLTransport(outer, trusting, server_hostname="127.0.0.1"))
    made.set_timeout(0.0)
    yield made, far
    outer.close()
    far.reads.set()
    far.thread.join(WITHIN)
    far.outer.close()


def test_all_that_came_together_is_heard(stream: tuple[Websocket, FarEnd]) -> None:
    """Though the socket has nothing more to tell after the first of it."""
    websocket, _ = stream
    heard, scratch = b"", memoryview(bytearray(65536))
    until = time.monotonic() + WITHIN
    while heard != b"onetwothree" and time.monotonic() < until:
        if not websocket.has_buffered():
            assert select.select([websocket.fileno()], [], [], WITHIN)[0], heard
        with contextlib.suppress(*NOT_NOW):
            heard += scratch[: websocket.read_into(scratch)]
    assert heard == b"onetwothree"
    with contextlib.suppress(*NOT_NOW):
        websocket.read_into(scratch)
    assert not websocket.has_buffered()


def test_all_that_is_written_arrives(stream: tuple[Websocket, FarEnd]) -> None:
    """Though the socket does not take it at once."""
    websocket, far = stream
    threading.Timer(0.2, far.reads.set).start()
    unsent = bytearray(SENT)
    while unsent:
        with contextlib.suppress(*NOT_NOW):
            del unsent[: websocket.send_some(unsent)]
    far.thread.join(WITHIN)
    assert far.received == SENT
