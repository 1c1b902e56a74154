"""The values of a generator function that runs on this machine: its process writes them to files."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from kubefunc.backends.local.launch import start_thread
from kubefunc.errors import ResultCorruptedError
from kubefunc.runner import STREAM_TAKEN

if TYPE_CHECKING:
    from kubefunc.stream_values import StreamValues

POLL = 0.001  # seconds between two looks for the next value; longer, the longer none comes
POLL_AT_MOST = 0.02
SLOWER = 1.2


class LocalValues:
    """Brings the values from their directory to the program, while the function runs."""

    def __init__(self, values: StreamValues, directory: Path) -> None:
        self._values = values
        self._directory = directory
        self._lock = threading.Lock()
        self._asked = self._told = 0
        self._telling = threading.Lock()
        self._damage: ResultCorruptedError | None = None
        self._over = threading.Event()

    def follow(self) -> None:
        """Begin, in a thread of its own.

        Raises:
            OSError: no thread can be started.
        """
        self._values.tell_taken(self._tell)
        start_thread("kubefunc-stream", self._follow)

    def finish(self) -> ResultCorruptedError | None:
        """The function's process has ended: bring what is left. What was wrong with a value, if one was."""
        self._over.set()
        self._bring()
        self._values.tell_taken(None)
        return self._damage

    def _follow(self) -> None:
        pause = POLL
        while not self._over.wait(pause):
            pause = POLL if self._bring() else min(POLL_AT_MOST, pause * SLOWER)
            if self._asked > self._told:
                self._tell(self._asked)

    def _bring(self) -> bool:
        """Take in the values that are there; whether there were any."""
        with self._lock:
            before = self._values.received
            while self._damage is None:
                path = self._directory / str(self._values.received)
                try:
                    data = path.read_bytes()
                except OSError:
                    break
                try:
                    self._values.feed(data)
                except ResultCorruptedError as error:
                    self._damage = error
                path.unlink(missing_ok=True)
            return self._values.received > before

    def _tell(self, taken: int) -> None:
        """Let the generator go on. Windows replaces no file that is being read: it is tried again then."""
        with self._telling, contextlib.suppress(OSError):
            self._asked = max(self._asked, taken)
            if self._asked <= self._told:
                return
            part = self._directory / f"{STREAM_TAKEN}.part"
            part.write_text(str(self._asked))
            os.replace(part, self._directory / STREAM_TAKEN)
            self._told = self._asked
