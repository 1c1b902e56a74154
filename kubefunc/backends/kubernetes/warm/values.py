"""The values of a generator function that runs on a warm worker, over the worker's own stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from kubefunc.envelope import corrupted
from kubefunc.errors import KubefuncError, PodLostError, ResultCorruptedError
from kubefunc.runner.execution.request import TERMINATE
from kubefunc.runner.protocol import wire
from kubefunc.runner.warm.frames import STREAMED, STREAMED_HEAD
from kubefunc.stream_values import StartedAnew

if TYPE_CHECKING:
    from kubefunc.stream_values import StreamValues


class WorkerValues:
    """Of one call on one worker: what comes goes to the program, and what that has taken is told to the worker."""

    def __init__(self, values: StreamValues, call: str, batch: str, fail: Callable[[KubefuncError], None]) -> None:
        """``batch`` is the id of the batch that the call is; ``fail`` ends the call with an error."""
        self._values = values
        self._call = call
        self._batch = batch.encode()
        self._fail = fail
        self._send: Callable[[bytes], None] | None = None
        self._pieces = bytearray()
        self._missing = 0  # bytes of a large value that have not come

    def begin(self, send: Callable[[bytes], None]) -> None:
        """A worker has the call, and is told things in this way."""
        self._send = send
        self._values.tell_taken(self._tell)

    def end(self) -> None:
        """It has ended: the worker need not know what is taken from now on."""
        self._values.tell_taken(None)

    def resume(self) -> None:
        """The stream is another one: what was told on the last one may not have arrived."""
        self._tell(self._values.taken)

    def forget(self) -> None:
        """The stream broke: a value that has come in part comes again."""
        self._pieces.clear()
        self._missing = 0

    def hear(self, content: bytes) -> None:
        """A value, or the size of one that follows in pieces."""
        (self._missing,) = STREAMED_HEAD.unpack_from(content)
        if not self._missing:
            self._take(content[STREAMED_HEAD.size :])

    def hear_piece(self, content: bytes) -> bool:
        """Whether this is a piece of a value."""
        if not self._missing:
            return False
        self._pieces += content
        self._missing -= len(content)
        if self._missing < 0:
            self._refuse(corrupted(self._call, "a value is longer than its worker has said"))
        elif not self._missing:
            value, self._pieces = self._pieces, bytearray()
            self._take(value)
        return True

    def _take(self, value: bytes | bytearray) -> None:
        try:
            self._values.feed(value)
        except ResultCorruptedError as error:
            self._refuse(error)
        except StartedAnew:
            self._refuse(PodLostError(f"{self._call} began anew on another worker."))

    def _refuse(self, error: KubefuncError) -> None:
        self.forget()
        self._fail(error)
        if self._send is not None:
            self._send(wire.frame(TERMINATE, self._batch))

    def _tell(self, taken: int) -> None:
        if self._send is not None:
            self._send(wire.frame(STREAMED, STREAMED_HEAD.pack(taken) + self._batch))
