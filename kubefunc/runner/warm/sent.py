"""A request that a worker was sent, and what it has to tell of it until the client has acknowledged that."""

from __future__ import annotations

import contextlib
import os
from collections import deque

from kubefunc.runner.execution.request import ENDED, OUTPUT, RESULT
from kubefunc.runner.protocol import records, wire
from kubefunc.runner.warm.frames import GIVEN_BACK, PLACE
from kubefunc.runner.warm.places import returned_by
from kubefunc.runner.warm.values import Values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from kubefunc.runner.warm.request import WarmRequest
    from kubefunc.runner.warm.stream import Stream

OUTPUT_KEPT = 1 << 20  # bytes, for a client that comes back


class Sent:
    """What is known of one request.

    Attributes:
        request: it.
        waits: nobody has begun it yet.
        ended: the exit code of its supervisor; None before.
        asked_to_end: the client wants it to end, and its supervisor does not know that yet.
        was_asked: its supervisor knows.
        values: of a generator function that has begun.
        asked_back: the client wants back what has not begun, and its supervisor does not know that yet.
        returned: the files in what it has returned, which the client fetches before it acknowledges the outcome.
    """

    def __init__(self, request: WarmRequest, where: str) -> None:
        """``where``: the worker's directory."""
        self.request = request
        self.returned: list[str] = []
        self._where = where
        self.waits = True
        self.ended: int | None = None
        self.asked_to_end = self.was_asked = self.asked_back = False
        self._printed = 0
        self._first = 0  # where the output that is kept begins
        self._output: deque[tuple[int, bytes]] = deque()
        self._answers: list[bytes | str] = []  # of a file its path
        self._given: list[int] = []
        self.values: Values | None = None

    @property
    def run(self) -> str:
        return self.request.run

    def begin(self) -> None:
        """It is run now."""
        self.waits = False
        if self.request.spec.stream is not None:
            self.values = Values(self.request.path)

    def hear_values(self, stream: Stream | None) -> None:
        """Send on what a generator function has yielded."""
        if self.values is not None:
            self.values.hear(stream)

    def take_wish_to_end(self) -> bool:
        """Whether the client wants it to end. Says so once."""
        asked, self.asked_to_end = self.asked_to_end, False
        self.was_asked = self.was_asked or asked
        return asked

    def print(self, index: int, data: bytes, stream: Stream | None) -> None:
        """An item has printed this."""
        if stream is not None:
            stream.send(wire.frame(OUTPUT, PLACE.pack(self._printed, index) + data))
        self._output.append((index, data))
        self._printed += len(data)
        while self._printed - self._first > OUTPUT_KEPT and len(self._output) > 1:
            self._first += len(self._output.popleft()[1])

    def answer(self, part: bytes | str, stream: Stream | None) -> None:
        """Some of its outcome is there: bytes, or the path of a file that holds them."""
        self.hear_values(stream)  # values come before the outcome
        self._answers.append(part)
        if stream is not None:
            _send(stream, part)

    def give_back(self, indexes: Sequence[int], stream: Stream | None) -> None:
        """These items have not begun, and never will here."""
        self._given += indexes
        if stream is not None:
            stream.send(wire.frame(GIVEN_BACK, records.pack_indexes(indexes)))

    def end(self, status: int, stream: Stream | None) -> None:
        """All of its outcome is there."""
        self.ended = status
        self.returned = returned_by(self.request, self._where)
        if self.values is not None:
            self.values.hear(stream)
            self.values.end()
        if self.request.spec.timeout is not None:  # now: the next items of the same map use this file again
            _remove(self.request.path("stacks"))
        if stream is not None:
            stream.send(wire.frame(ENDED, str(status).encode()))

    def resume(self, stream: Stream, have: int) -> None:
        """Tell all of it again to a client that has so much of its output."""
        at = self._first
        for index, data in self._output:
            if at + len(data) > have:
                stream.send(wire.frame(OUTPUT, PLACE.pack(at, index) + data))
            at += len(data)
        stream.send(wire.frame(GIVEN_BACK, records.pack_indexes(self._given)))
        if self.values is not None:
            self.values.resume(stream)
        for part in self._answers:
            _send(stream, part)
        if self.ended is not None:
            stream.send(wire.frame(ENDED, str(self.ended).encode()))

    def remove(self) -> None:
        """Its outcome has arrived: its files go."""
        if self.values is not None:
            self.values.remove()
        for part in self._answers:
            if isinstance(part, str):
                _remove(part)
        for path in self.returned:
            _remove(path)


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _send(stream: Stream, part: bytes | str) -> None:
    if isinstance(part, bytes):
        stream.send(wire.frame(RESULT, part))
        return
    with contextlib.suppress(OSError):  # the function's own doing; the outcome lacks it then, and says so
        stream.send(open(part, "rb"))
