"""What a person sees while waiting: what functions print, and one line where something must be waited for."""

from __future__ import annotations

import codecs
import sys
import threading
from collections.abc import Callable
from typing import TextIO


class Console:
    """Writes to the *current* ``sys.stderr``: notebooks and pytest replace it. Never raises into a call."""

    def __init__(self, stream: Callable[[], TextIO | None] = lambda: sys.stderr) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._printers: set[Printer] = set()

    def say(self, text: str) -> None:
        """One line of our own."""
        self._write(f"kubefunc: {text}\n")

    def printer(self, call: str) -> Printer:
        """For the output of one call."""
        printer = Printer(call, self)
        with self._lock:
            self._printers.add(printer)
        return printer

    def forget(self, printer: Printer) -> None:
        with self._lock:
            self._printers.discard(printer)

    def prefix(self, call: str) -> str:
        """The call's id where more than one call is running, else nothing."""
        return f"[{call}] " if len(self._printers) > 1 else ""

    def _write(self, text: str) -> None:
        stream = self._stream()
        if stream is None:
            return
        with self._lock:
            try:
                stream.write(text)
                stream.flush()
            except UnicodeEncodeError:
                encoding = getattr(stream, "encoding", None) or "ascii"
                stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
            except Exception:  # noqa: BLE001 - closed, its reader has left, or it is anyone's class: no call is lost
                return


class Printer:
    """The output of one call as whole lines, whatever pieces and bytes it arrives in."""

    def __init__(self, call: str, console: Console) -> None:
        self._call = call
        self._console = console
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._line = ""

    def feed(self, data: bytes) -> None:
        """Show all lines that are whole now."""
        self._line += self._decoder.decode(data)
        whole, newline, self._line = self._line.rpartition("\n")
        if newline:
            self._show(whole)

    def end(self) -> None:
        """Show the last line, which may lack its newline."""
        rest = self._line + self._decoder.decode(b"", final=True)
        self._line = ""
        if rest:
            self._show(rest)
        self._console.forget(self)

    def _show(self, text: str) -> None:
        prefix = self._console.prefix(self._call)
        self._console._write("".join(f"{prefix}{line}\n" for line in text.split("\n")))


class Silent:
    """In place of a Printer with ``verbose=False``."""

    def feed(self, data: bytes) -> None:
        pass

    def end(self) -> None:
        pass
