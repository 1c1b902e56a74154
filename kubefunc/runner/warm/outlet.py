"""The values of a generator function on their way from its process to the worker: through a pipe with a name.

Frames: ``V`` a value (an envelope); ``L`` the same, but it stands in the file of the next number. In the other pipe
come numbers of values that the client's program has taken (8 bytes each, big endian): the last one counts.
"""

from __future__ import annotations

import os
import select

from kubefunc.runner import EXIT_RAISED, STREAM
from kubefunc.runner.execution.reports import SealedBody
from kubefunc.runner.execution.streaming import Outlet
from kubefunc.runner.execution.values import of_stream
from kubefunc.runner.protocol import wire
from kubefunc.runner.warm.values import LARGE_VALUE, TAKEN, TAKEN_PIPE, VALUE, VALUES_PIPE, file_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from kubefunc.runner.execution.reports import Body, Form
    from kubefunc.runner.protocol.spec import RunnerSpec

MOST_READ = 1 << 16  # bytes: all that the pipe holds


class PipedOutlet(Outlet):
    """Sends values to the worker, and hears from it how many were taken."""

    def __init__(self, path: Callable[[str], str], spec: RunnerSpec, key: bytes, form: Form) -> None:
        """``path`` makes the path of a file of the call."""
        super().__init__(path(STREAM), spec, key, of_stream(form))
        self._path = path
        self._values = os.open(self._path(VALUES_PIPE), os.O_WRONLY)
        self._news = os.open(self._path(TAKEN_PIPE), os.O_RDONLY | os.O_NONBLOCK)

    def close(self) -> None:
        """Its process may stay."""
        os.close(self._values)
        os.close(self._news)

    def _new_body(self) -> Body:
        if not self.count:
            with open(self._directory, "wb"):  # no directory here: it says that the function is not to run again
                pass
        return SealedBody(self._path(file_of(self.count)))

    def _write(self, body: Body, tail: bytes) -> None:
        content = body.content()
        if body.in_memory:
            wire.write_all(self._values, wire.frame(VALUE, content + tail))
            return
        with open(body.path, "ab") as file:
            file.write(tail)
        wire.write_all(self._values, wire.frame(LARGE_VALUE))

    def _look_what_was_taken(self) -> None:
        try:
            told = os.read(self._news, MOST_READ)
        except BlockingIOError:
            return
        if not told:
            os._exit(EXIT_RAISED)  # the worker has been killed, and nobody will ever take a value
        self._note_taken(*TAKEN.unpack(told[-TAKEN.size :]))

    def _wait_for_room(self) -> None:
        while not self._has_room():
            select.select([self._news], [], [])

    async def _wait_for_room_async(self) -> None:
        import asyncio

        loop = asyncio.get_running_loop()
        while not self._has_room():
            news = asyncio.Event()
            loop.add_reader(self._news, news.set)
            try:
                await news.wait()
            finally:
                loop.remove_reader(self._news)
