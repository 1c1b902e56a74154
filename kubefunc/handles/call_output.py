"""What a single call prints, and what it waits for."""

from __future__ import annotations

import binascii
import contextlib
import threading
from collections.abc import Mapping
from typing import Any

from kubefunc.backends.base import Whereabouts
from kubefunc.console import Console, Printer, Silent
from kubefunc.transcript import Transcript, last_lines


class CallOutput:
    """The output of one call: kept for ``logs()``, and shown line by line after :meth:`show`."""

    def __init__(self, console: Console, call: str) -> None:
        self._console = console
        self._call = call
        self._lock = threading.RLock()
        self._kept = Transcript()
        self._printer: Printer | Silent = Silent()
        self._detail = ""

    def show(self) -> None:
        """Print it from now on, and say what must be waited for."""
        self._printer = self._console.printer(self._call)

    def moved(self, where: Whereabouts) -> None:
        """Say what must be waited for, when that has changed."""
        before, self._detail = self._detail, where.detail
        if where.detail and where.detail != before and not isinstance(self._printer, Silent):
            self._console.say(f"{self._call}: {where.detail}")

    def feed(self, data: bytes) -> None:
        """It printed this."""
        with self._lock:
            self._kept.add(data)
            self._printer.feed(data)

    def end(self) -> None:
        """Show the last line, which may lack its newline. Later calls need no prefix to be told from this one."""
        with self._lock:
            self._printer.end()

    def text(self) -> str:
        """All that is kept."""
        return self._kept.text()

    def since(self, passed: int) -> bytes:
        """What came after so many bytes."""
        return self._kept.since(passed)

    def __bool__(self) -> bool:
        return bool(self._kept)

    def last_lines(self, header: Mapping[str, Any]) -> tuple[str, ...]:
        """Its last lines; those that the Pod has sent with the result where nothing was seen live."""
        with self._lock:
            data = self._kept.tail()
        return last_lines(data or _sent_with(header))


def _sent_with(header: Mapping[str, Any]) -> bytes:
    encoded = header.get("output")
    with contextlib.suppress(binascii.Error, ValueError, TypeError):  # a function may sign anything
        return binascii.a2b_base64(encoded) if isinstance(encoded, str) else b""
    return b""
