"""The streams to one warm worker: opened one after another, until it has gone.

All are read by one thread (:mod:`kubefunc.backends.kubernetes.warm.loop`). What the worker says is its reader's matter
(:mod:`kubefunc.backends.kubernetes.warm.worker`).
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from kubefunc.backends.kubernetes.api.duplex import DuplexStream
from kubefunc.backends.kubernetes.api.requests import Api
from kubefunc.backends.kubernetes.warm.batch import Batch
from kubefunc.backends.kubernetes.warm.given import Given
from kubefunc.backends.kubernetes.warm.greeting import Greeting
from kubefunc.backends.kubernetes.warm.known_code import KnownCode
from kubefunc.backends.kubernetes.warm.loop import StreamLoop, Timer, log
from kubefunc.backends.kubernetes.warm.open_stream import SILENCE, OpenStream
from kubefunc.backends.kubernetes.warm.outbox import Outbox, send
from kubefunc.backends.kubernetes.warm.records import Record
from kubefunc.runner.warm.attach import ATTACH
from kubefunc.runner.warm.kept import Kept

RECONNECT = 60.0  # seconds without a stream after which a worker is given up, on both sides
AGAIN = 0.1  # seconds before the next stream: the first ones are tried while the Pod still starts
SLOWER = 1.1
AGAIN_AT_MOST = 2.0


@dataclasses.dataclass(frozen=True)
class Way:
    """How this program reaches workers.

    Attributes:
        api: the API server.
        client: the id by which workers know this program.
        loop: its thread reads their streams.
        known: the project code that workers may keep.
    """

    api: Api
    client: str
    loop: StreamLoop
    known: KnownCode = dataclasses.field(default_factory=KnownCode)


class Reader(Protocol):
    """The worker, as its streams see it. Called by the thread that reads them.

    Attributes:
        given: the calls that it has been given.
    """

    given: Given

    def address(self) -> Record:
        """Where it is now, and how it is reached."""
        ...

    def welcomed(self, told: dict[str, Any]) -> None:
        """A stream is open. This is what the worker has, before it has been told anything."""
        ...

    def begin(self, batch: Batch) -> None:
        """This is about to be sent, and runs next."""
        ...

    def hear(self, letter: bytes, content: bytes) -> None:
        """The worker says this."""
        ...

    def stream_broke(self, error: Exception) -> None:
        """It broke, or could not be opened. Another one follows, unless :meth:`WorkerStream.end` is called."""
        ...

    def gave_up(self) -> None:
        """The worker's Pod runs, and no stream could be opened for too long."""
        ...


class WorkerStream:
    """One after another, until :meth:`end`.

    Attributes:
        over: there will not be another one.
        kept: what the worker keeps, as far as it has said.
    """

    def __init__(self, reader: Reader, way: Way, startup: float, *, pod_runs: bool) -> None:
        """
        Args:
            reader: who is told.
            way: how it is reached.
            startup: seconds that its Pod may run, beyond RECONNECT, before it serves: packages are installed first.
            pod_runs: its Pod does.
        """
        self.over = False
        self.kept = Kept()
        self._reader = reader
        self._way = way
        self._loop = way.loop
        self._startup = self._may_start_for = startup
        self._pod_runs = pod_runs  # streams are tried before that, too
        self._request_key = b""
        self._connection: DuplexStream | None = None  # it is being opened, or open
        self._opened: OpenStream | None = None
        self._closed: threading.Event | None = None  # None: it was never started
        self._outbox = Outbox(self._unsent, lambda: self._loop.soon(self._write))
        self._pause = AGAIN
        self._timer: Timer | None = None
        self._heard_at = self._loop.clock()

    # -- by any thread

    @property
    def is_open(self) -> bool:
        return self._opened is not None

    def start(self) -> None:
        """Open the first one."""
        self._loop.enter()
        self._closed = threading.Event()
        self._loop.soon(self._connect)

    def send(self, *frames: bytes) -> None:
        """Tell the worker this, after what it has been given and not been sent."""
        self._outbox.add(*frames)

    def owe(self, frame: bytes) -> None:
        """Tell the worker this with what is told next, or after a while."""
        self._outbox.owe(frame)

    def pod_runs(self) -> None:
        """However long its image took."""
        if not self._pod_runs:
            self._pod_runs = True
            self._heard_at = self._loop.clock()
            self._loop.soon(self._hurry)

    def pod_replaced(self, *, pod_runs: bool) -> None:
        """The stream led to one that has gone."""
        self._pod_runs = pod_runs
        self._heard_at = self._loop.clock()
        self._may_start_for = self._startup
        self._cut()

    def end(self) -> None:
        """When this one ends there will not be another."""
        self.over = True

    def close(self) -> None:
        """End it at once."""
        self.over = True
        self._cut()
        self._loop.soon(self._hurry)

    def _cut(self) -> None:
        connection = self._connection
        if connection is not None:
            connection.close()

    def join(self, seconds: float) -> None:
        """Wait until it is closed, for so long at most."""
        if self._closed is not None and not self._loop.is_current:
            self._closed.wait(seconds)

    # -- by the thread that reads

    def serves(self) -> None:
        """The worker has started."""
        self._may_start_for = 0.0

    def forget(self) -> None:
        """What waits to be told was for an earlier stream."""
        self._outbox.forget()

    def send_again(self, batch: Batch) -> None:
        """The last stream broke before all of it was there."""
        if self._opened is not None:
            send(self._opened, self._frames_of(batch))

    def greets(self) -> Sequence[Batch]:
        given = self._reader.given.batches
        for batch in given:
            batch.forget_answer()
        return given

    def welcomed(self, told: dict[str, Any], key: bytes) -> None:
        self._heard_at = self._loop.clock()
        self._pause = AGAIN
        self._request_key = key
        self.kept = Kept((name, size) for name, size in told["kept"])
        self._reader.welcomed(told)

    def hear(self, letter: bytes, content: bytes) -> None:
        self._heard_at = self._loop.clock()
        self._reader.hear(letter, content)

    def ended(self, error: Exception | None) -> None:
        """Decide whether another one follows, and when."""
        self._opened = self._connection = None
        try:
            if error is not None:
                self._reader.stream_broke(error)
            now = self._loop.clock()
            if not self.over and self._pod_runs and now - self._heard_at > RECONNECT + self._may_start_for:
                self.over = True
                self._reader.gave_up()
        finally:
            if self.over:
                self._finish()
            else:
                self._timer = self._loop.after(self._pause, self._connect)
                self._pause = min(SLOWER * self._pause, AGAIN_AT_MOST)

    def _connect(self) -> None:
        self._timer = None
        if self.over:
            self._finish()
            return
        to = self._reader.address()
        try:
            made = DuplexStream(self._way.api, to.namespace, to.pod, ATTACH, silence=SILENCE)
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody else would try again, nor give the worker up
            log.info("a stream to %s cannot be made: %r", to.call, error)
            self.ended(error)
            return
        self._connection = made
        self._loop.open(made.open, lambda failure: self._connected(made, to, failure))

    def _connected(self, connection: DuplexStream, to: Record, failure: Exception | None) -> None:
        if connection is not self._connection:  # it was given up meanwhile
            connection.release()
            return
        if failure is not None:
            self.ended(failure)
            return
        self._opened = OpenStream(self, connection, Greeting(to, self._way.client), self._outbox, self._loop)
        self._opened.begin()

    def _write(self) -> None:
        if self._opened is not None:
            self._opened.write()

    def _hurry(self) -> None:
        """Do not wait for what it waits for."""
        if self._opened is not None:
            self._opened.check()
        elif self._timer is not None:
            self._timer.cancel()
            self._pause = AGAIN
            self._connect()

    def _finish(self) -> None:
        if self._closed is not None and not self._closed.is_set():
            self._closed.set()
            self._loop.leave()

    def _unsent(self) -> Iterator[bytes]:
        for batch in self._reader.given.take_unsent():
            yield from self._frames_of(batch)

    def _frames_of(self, batch: Batch) -> Iterator[bytes]:
        if batch is self._reader.given.run:
            self._reader.begin(batch)
        return batch.frames(self.kept, self._request_key, self._way.known)
