"""One stream to a warm worker, from its greeting until it breaks. Nothing here waits for the network."""

from __future__ import annotations

import selectors
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from kubefunc.backends.kubernetes.api.duplex import DuplexStream
from kubefunc.backends.kubernetes.api.exec import STRAGGLERS
from kubefunc.backends.kubernetes.api.exec_errors import StreamGarbled, StreamSilent, TransportError
from kubefunc.backends.kubernetes.warm.batch import Batch
from kubefunc.backends.kubernetes.warm.greeting import Greeting
from kubefunc.backends.kubernetes.warm.loop import StreamLoop, Timer
from kubefunc.backends.kubernetes.warm.outbox import Outbox
from kubefunc.runner.protocol import wire
from kubefunc.runner.warm.frames import PING

SILENCE = 35.0  # seconds: a worker says each 10 s that it is there


class Listener(Protocol):
    """Whose stream it is. Called by the thread of the loop.

    Attributes:
        over: no stream is wanted any more.
    """

    over: bool

    def greets(self) -> Sequence[Batch]:
        """The worker is about to be told that these are expected of it."""
        ...

    def welcomed(self, told: dict[str, Any], key: bytes) -> None:
        """The worker has shown who it is; requests on this stream are signed with this key."""
        ...

    def hear(self, letter: bytes, content: bytes) -> None:
        """The worker says this."""
        ...

    def ended(self, error: Exception | None) -> None:
        """The stream is closed: it broke, or (None) is not wanted any more."""
        ...


class OpenStream:
    """What goes over one connection, both ways."""

    def __init__(
        self, listener: Listener, connection: DuplexStream, greeting: Greeting, outbox: Outbox, loop: StreamLoop
    ) -> None:
        """
        Args:
            listener: who is told what comes.
            connection: it is open.
            greeting: what is said first.
            outbox: what is to be said after that.
            loop: whose thread calls this.
        """
        self._listener = listener
        self._connection = connection
        self._greeting = greeting
        self._outbox = outbox
        self._loop = loop
        self._frames = wire.Frames()
        self._is_closed = False
        self._descriptor = -1
        self._events = 0
        self._timer: Timer | None = None
        self._silent_at = loop.clock() + SILENCE

    def begin(self) -> None:
        """Wait for what comes; some may be here already."""
        self._attempt(self._read)

    def write(self) -> None:
        """There is something to be said."""
        self._attempt(self._write)

    def check(self) -> None:
        """Close it, if it is not wanted any more."""
        self._attempt(lambda: None)

    def send(self, data: bytes) -> None:
        """Say this before what waits in the outbox."""
        self._connection.send(data)

    def _attempt(self, step: Callable[[], None]) -> None:
        if self._is_closed:
            return
        try:
            if not self._listener.over:
                step()
            if not self._listener.over:
                self._wait()
        except (TransportError, OSError) as error:  # the way to it is broken
            self._close(error)
        except Exception as error:
            self._close(StreamGarbled(f"not what a worker says: {error}"))
            raise
        else:
            if self._listener.over:
                self._close(None)

    def _close(self, error: Exception | None) -> None:
        self._is_closed = True
        self._outbox.shut()
        if self._timer is not None:
            self._timer.cancel()
        if self._descriptor >= 0:
            self._loop.unwatch(self._descriptor)
        self._connection.release()
        self._listener.ended(error)

    # -- waiting

    def _wait(self) -> None:
        """For what may come, for room, and for what is due."""
        is_writing = bool(self._connection.unsent) or self._outbox.has_more
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if is_writing else 0)
        if events != self._events:
            self._events = events
            self._descriptor = self._connection.fileno()
            self._loop.watch(self._descriptor, events, self._ready)
        now = self._loop.clock()
        due = min(self._silent_at, now + self._outbox.patience)
        if self._timer is None or due < self._timer.at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.after(due - now, self._due)

    def _ready(self) -> None:
        self._attempt(self._exchange)

    def _exchange(self) -> None:
        self._connection.flush()
        self._read()
        if self._outbox.has_more:
            self._write()

    def _due(self) -> None:
        self._timer = None
        self._attempt(self._do_what_is_due)

    def _do_what_is_due(self) -> None:
        if self._loop.clock() >= self._silent_at:
            self._read()  # this program may have been stopped, and everything is here
        if self._loop.clock() >= self._silent_at:
            if self._connection.is_ending:
                self._connection.raise_end()
            raise StreamSilent(f"nothing came for {SILENCE:g} s")
        self._write()

    def _write(self) -> None:
        if self._greeting.done:
            self._outbox.write(self._connection)

    # -- what the worker says

    def _read(self) -> None:
        data, has_more = self._connection.receive(self._loop.scratch)
        if self._connection.is_ending:  # the last of its output may come for a while only
            self._silent_at = min(self._silent_at, self._loop.clock() + STRAGGLERS)
        elif data:
            self._silent_at = self._loop.clock() + SILENCE
        for letter, content in self._frames.feed(data):
            if self._greeting.done:
                self._hear(letter, content)
            else:
                self._greet(letter, content)
        if has_more:
            self._loop.soon(lambda: self._attempt(self._read))

    def _greet(self, letter: bytes, content: bytes) -> None:
        told = self._greeting.hear(letter, content)
        if told is None:
            self._connection.send(self._greeting.hello(self._listener.greets()))
            return
        self._listener.welcomed(told, self._greeting.key)
        self._outbox.open(self._connection)
        self._write()

    def _hear(self, letter: bytes, content: bytes) -> None:
        if letter == PING:
            self._connection.send(wire.frame(PING))
        self._listener.hear(letter, content)
