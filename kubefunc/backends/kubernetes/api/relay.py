"""Bytes between one local connection and one port of a Pod, both ways."""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Callable
from typing import Final

from kubefunc.backends.kubernetes.api.portforward import PortStream

_QUEUED: Final = 256 * 1024  # bytes that wait for one side; above that, the other is not read
_KEPT: Final = 1024 * 1024  # bytes that are kept to be sent again
_CONNECTED_AFTER: Final = 2.0  # seconds without a refusal, after which the Pod's end counts as connected
_LINGER: Final = 1.0  # seconds of silence from the Pod after which a local end that has said all is closed
_LAST_WORDS: Final = 5.0  # seconds that the local end may take to read what is left
_RECEIVE: Final = 32 * 1024


class Relay:
    """One local connection, and the streams to a Pod that are tried for it: a Pod may not listen yet.

    Attributes:
        can_try_again: whether nothing of what the local end said can have arrived anywhere.
        is_over: whether the local end has gone.
    """

    def __init__(self, local: socket.socket, clock: Callable[[], float] = time.monotonic) -> None:
        self._local = local
        self._clock = clock
        self._kept = bytearray()
        self._to_local = bytearray()
        self._local_ended: float | None = None
        self.can_try_again = True
        self.is_over = False
        local.setblocking(False)

    def run(self, stream: PortStream) -> None:
        """Carry bytes until either side ends. Raises OSError where the stream breaks; see also its ``refusal``."""
        opened = self._clock()
        if self._kept:
            stream.send(bytes(self._kept))
        with selectors.DefaultSelector() as selector:
            selector.register(self._local, selectors.EVENT_READ)
            selector.register(stream.fileno(), selectors.EVENT_READ)
            while not (stream.ended or self.is_over):
                if self.can_try_again and self._clock() - opened > _CONNECTED_AFTER and not stream.refusal:
                    self._is_connected()
                self._wait(selector, stream, opened)
                self._step(stream)
        self._receive(stream)
        self._hand_over_the_rest()

    def _wait(self, selector: selectors.BaseSelector, stream: PortStream, opened: float) -> None:
        reads_local = self._local_ended is None and self._has_room(stream)
        reads_stream = len(self._to_local) < _QUEUED
        local = _events(reads=reads_local, writes=bool(self._to_local))
        remote = _events(reads=reads_stream, writes=bool(stream.unsent))
        _watch(selector, self._local, local)
        _watch(selector, stream.fileno(), remote)
        selector.select(0.0 if reads_stream and stream.has_buffered else self._patience(opened))

    def _patience(self, opened: float) -> float | None:
        """Seconds until something is due without news."""
        now = self._clock()
        due = [opened + _CONNECTED_AFTER] if self.can_try_again else []
        if self._local_ended is not None:
            due.append(self._local_ended + _LINGER)
        return max(0.01, min(due) - now) if due else None

    def _has_room(self, stream: PortStream) -> bool:
        return stream.unsent < _QUEUED and (not self.can_try_again or len(self._kept) < _KEPT)

    def _step(self, stream: PortStream) -> None:
        stream.flush()
        if len(self._to_local) < _QUEUED:
            self._receive(stream)
        try:
            self._exchange_with_local(stream)
        except OSError:  # it has gone; what it left unread is nobody's
            self.is_over = True
        if self._local_ended is not None and self._clock() - self._local_ended > _LINGER and not stream.unsent:
            self.is_over = True

    def _receive(self, stream: PortStream) -> None:
        data = stream.receive()
        if not data:
            return
        self._is_connected()
        self._to_local += data
        if self._local_ended is not None:
            self._local_ended = self._clock()

    def _exchange_with_local(self, stream: PortStream) -> None:
        try:
            if self._to_local:
                sent = self._local.send(self._to_local)
                del self._to_local[:sent]
        except BlockingIOError:
            pass
        if self._local_ended is not None or not self._has_room(stream):
            return
        try:
            data = self._local.recv(_RECEIVE)
        except BlockingIOError:
            return
        if not data:
            self._local_ended = self._clock()
            return
        if self.can_try_again:
            self._kept += data
        stream.send(data)

    def _is_connected(self) -> None:
        self.can_try_again = False
        self._kept.clear()

    def _hand_over_the_rest(self) -> None:
        if self._to_local and not self.is_over:
            self._local.settimeout(_LAST_WORDS)
            self._local.sendall(self._to_local)


def _events(*, reads: bool, writes: bool) -> int:
    return (selectors.EVENT_READ if reads else 0) | (selectors.EVENT_WRITE if writes else 0)


def _watch(selector: selectors.BaseSelector, of: socket.socket | int, events: int) -> None:
    known = selector.get_map().get(of)
    if known is None and events:
        selector.register(of, events)
    elif known is not None and not events:
        selector.unregister(of)
    elif known is not None and known.events != events:
        selector.modify(of, events)
