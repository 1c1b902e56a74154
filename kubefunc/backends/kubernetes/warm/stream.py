"""The stream to one warm worker: opened, greeted, and opened again when it breaks.

What the worker says is its reader's matter (:mod:`kubefunc.backends.kubernetes.warm.worker`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any, Protocol

from kubefunc.backends.kubernetes.api.conversation import Conversation
from kubefunc.backends.kubernetes.api.exec_errors import TransportError
from kubefunc.backends.kubernetes.api.requests import Api
from kubefunc.backends.kubernetes.warm.batch import Batch
from kubefunc.backends.kubernetes.warm.given import Given
from kubefunc.backends.kubernetes.warm.greeting import Greeting
from kubefunc.backends.kubernetes.warm.outbox import Outbox, send
from kubefunc.backends.kubernetes.warm.records import Record
from kubefunc.runner.protocol import wire
from kubefunc.runner.warm.attach import ATTACH
from kubefunc.runner.warm.frames import PING
from kubefunc.runner.warm.kept import Kept

RECONNECT = 60.0  # seconds without a stream after which a worker is given up, on both sides
SILENCE = 35.0  # seconds: a worker says each 10 s that it is there
AGAIN = 0.1  # seconds before the next stream: the first ones are tried while the Pod still starts
SLOWER = 1.1
AGAIN_AT_MOST = 2.0


class Reader(Protocol):
    """The worker, as its stream sees it. Called by the thread that reads.

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

    def __init__(self, reader: Reader, api: Api, client: str, startup: float, *, pod_runs: bool) -> None:
        """
        Args:
            reader: who is told.
            api: the API server.
            client: the id by which the worker knows this program.
            startup: seconds that its Pod may run, beyond RECONNECT, before it serves: packages are installed first.
            pod_runs: its Pod does.
        """
        self.over = False
        self.kept = Kept()
        self._reader = reader
        self._api = api
        self._client = client
        self._startup = self._may_start_for = startup
        self._pod_runs = pod_runs  # streams are tried before that, too
        self._request_key = b""
        self._conversation: Conversation | None = None
        self._thread: threading.Thread | None = None
        self._outbox = Outbox(self._unsent)
        self._hurry = threading.Event()
        self._heard = time.monotonic()

    # -- by any thread

    @property
    def is_open(self) -> bool:
        return self._conversation is not None

    def start(self) -> None:
        """Open the first one."""
        self._thread = threading.Thread(target=self._serve, name=f"kubefunc-{self._reader.address().call}", daemon=True)
        self._thread.start()

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
            self._heard = time.monotonic()
            self._hurry.set()

    def pod_replaced(self, *, pod_runs: bool) -> None:
        """The stream led to one that has gone."""
        self._pod_runs = pod_runs
        self._heard = time.monotonic()
        self._may_start_for = self._startup
        conversation = self._conversation
        if conversation is not None:
            conversation.close()

    def end(self) -> None:
        """When this one breaks there will not be another."""
        self.over = True

    def close(self) -> None:
        """End it at once."""
        self.over = True
        if self._thread is None:
            self._outbox.close()
        self._hurry.set()
        conversation = self._conversation
        if conversation is not None:
            conversation.close()
        self._outbox.add()

    def join(self, seconds: float) -> None:
        """Wait until it is closed, for so long at most."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(seconds)

    # -- by the thread that reads

    def serves(self) -> None:
        """The worker has started."""
        self._may_start_for = 0.0

    def forget(self) -> None:
        """What waits to be told was for an earlier stream."""
        self._outbox.forget()

    def send_again(self, batch: Batch) -> None:
        """The last stream broke before all of it was there."""
        if self._conversation is not None:
            send(self._conversation, self._frames_of(batch))

    def _serve(self) -> None:
        pause = AGAIN
        while not self.over:
            heard = self._heard
            try:
                self._open()
            except (TransportError, OSError) as error:  # it is starting, or the way to it is broken
                self._reader.stream_broke(error)
            if self._heard > heard:
                pause = AGAIN
            if not self.over and self._pod_runs and time.monotonic() - self._heard > RECONNECT + self._may_start_for:
                self.over = True
                self._reader.gave_up()
            if self._hurry.wait(0.0 if self.over else pause):
                self._hurry.clear()
                pause = AGAIN
            pause = min(SLOWER * pause, AGAIN_AT_MOST)
        self._outbox.close()

    def _open(self) -> None:
        to = self._reader.address()
        conversation = Conversation(self._api, to.namespace, to.pod, ATTACH, silence=SILENCE)
        with conversation:
            self._conversation = conversation
            try:
                if not self.over:
                    self._converse(conversation, Greeting(to, self._client))
            finally:
                self._outbox.shut()
                self._conversation = None

    def _converse(self, conversation: Conversation, greeting: Greeting) -> None:
        frames = wire.Frames()
        while not self.over:
            data, woken = conversation.hear(self._outbox.fileno(), SILENCE, self._outbox.patience)
            for letter, content in frames.feed(data):
                if greeting.done:
                    self._hear(conversation, letter, content)
                else:
                    self._greet(conversation, greeting, letter, content)
            if woken:
                self._outbox.woken()
            if greeting.done and not self.over:
                self._outbox.write(conversation)

    def _greet(self, conversation: Conversation, greeting: Greeting, letter: bytes, content: bytes) -> None:
        told = greeting.hear(letter, content)
        given = self._reader.given.batches
        if told is None:
            for batch in given:
                batch.forget_answer()
            conversation.send(greeting.hello(given))
            return
        self._heard = time.monotonic()
        self._request_key = greeting.key
        self.kept = Kept((name, size) for name, size in told["kept"])
        self._reader.welcomed(told)
        self._outbox.open(conversation)

    def _hear(self, conversation: Conversation, letter: bytes, content: bytes) -> None:
        self._heard = time.monotonic()
        if letter == PING:
            conversation.send(wire.frame(PING))
        else:
            self._reader.hear(letter, content)

    def _unsent(self) -> Iterator[bytes]:
        for batch in self._reader.given.take_unsent():
            yield from self._frames_of(batch)

    def _frames_of(self, batch: Batch) -> Iterator[bytes]:
        if batch is self._reader.given.run:
            self._reader.begin(batch)
        return batch.frames(self.kept, self._request_key)
