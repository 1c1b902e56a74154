"""What a single call prints, and what it waits for."""

from __future__ import annotations

import binascii
import contextlib
import threading
from collections.abc import Mapping
from typing import Any

from kubefunc.backends.base import Whereabouts
from kubefunc.console import Console, Printer, Silent
from kubefunc.runner.execution.attempts import without_runner
from kubefunc.transcript import Transcript

_TAIL_LINES = 20
_TAIL = 16 * 1024  # bytes of output that an error looks at for its last lines


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
            data = self._kept.tail(_TAIL)
        lines = without_runner((data or _sent_with(header)).decode("utf-8", "replace").splitlines())
        return tuple(lines)[-_TAIL_LINES:]


def _sent_with(header: Mapping[str, Any]) -> bytes:
    encoded = header.get("output")
    with contextlib.suppress(binascii.Error, ValueError, TypeError):  # a function may sign anything
        return binascii.a2b_base64(encoded) if isinstance(encoded, str) else b""
    return b""
