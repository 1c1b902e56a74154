"""Who writes to ``sys.stderr``: one console for all calls of a program, and a printer for each."""

from __future__ import annotations

import codecs
import contextlib
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO

from kubefunc.console.terminal import NotebookOutput, cells, fit, is_notebook, others_draw, put, redraws
from kubefunc.console.unfinished import UnfinishedLine
from kubefunc.console.writing import Writing

BAR_HOLDS = 0.5  # seconds after its last drawing for which a map's bar keeps the live line
OWNER_HOLDS = 1.0  # seconds for which the unfinished line of one call keeps it, while others change too
LOG_FIRST = 1.0  # seconds after which the state of an unfinished line goes to a log file, and twice that, and so on
LOG_MOST = 30.0
_MOVES = re.compile(r"\x1b\[[0-9;?]*[A-HJKSTfhlsu]|\x1b[78]")


@dataclass
class _Live:
    """The line that is drawn over and over, below all that was written.

    Attributes:
        stream: where it stands.
        text: what was drawn.
        width: in cells.
        owner: the printer whose unfinished line it is; None: a map's bar.
        since: when that owner took it.
    """

    stream: TextIO
    text: str
    width: int
    owner: Printer | None
    since: float


class Console:
    """Writes to the *current* ``sys.stderr``: notebooks and pytest replace it. Never raises into a call."""

    def __init__(
        self,
        stream: Callable[[], TextIO | None] = lambda: sys.stderr,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.clock = clock
        self._stream = stream
        self._writing = Writing()
        self._printers: set[Printer] = set()
        self._live: _Live | None = None
        self._bar_drawn = -BAR_HOLDS
        self._notebook = NotebookOutput(clock)

    def say(self, text: str) -> None:
        """One line of our own."""
        self._writing.do(lambda: self._write(f"kubefunc: {text}\n"))

    def say_last(self, text: str) -> None:
        """One line of our own from a signal handler, which may have interrupted who writes here."""
        if not self._writing.do_now(lambda: self._write(f"kubefunc: {text}\n")):
            with contextlib.suppress(OSError):
                os.write(2, f"kubefunc: {text}\n".encode(errors="replace"))

    def printer(self, call: str) -> Printer:
        """For the output of one call, which is named once another has run beside it."""
        return self._add(Printer(self, f"[{call}] "))

    def part_printer(self, part: str) -> Printer:
        """For the output of a part of a map: the others may be running, may be waiting, or may have ended."""
        printer = self._add(Printer(self, f"[{part}] "))
        printer.is_named = True
        return printer

    def _add(self, printer: Printer) -> Printer:
        """Each keeps its name to the end: lines that follow those of a call that has ended are not to pass for its."""
        others = list(self._printers)
        printer.is_named = bool(others)
        if len(others) == 1:  # the first of them did not know that it would have company
            others[0].is_named = True
        self._printers.add(printer)
        return printer

    def forget(self, printer: Printer) -> None:
        """Its output has ended: later calls need no name to be told from it."""
        self._printers.discard(printer)

    @property
    def is_live(self) -> bool:
        """Whether a line can be drawn over and over: a terminal or a notebook, where nobody else does just now."""
        stream = self._stream()
        return stream is not None and redraws(stream, os.environ) and not others_draw()

    @property
    def is_notebook(self) -> bool:
        """Whether what is written goes below a notebook's cell."""
        stream = self._stream()
        return stream is not None and is_notebook(stream)

    def catch_up(self) -> None:
        """Have what was printed before a result come before what the program prints then."""
        self._writing.catch_up()

    def settle(self) -> None:
        """At exit: let what waits be written, also where another thread is at it."""
        self._writing.settle()

    def end(self) -> None:
        """Write what waits, and nothing after that.

        A daemon thread that writes while the interpreter ends holds the lock of ``sys.stderr`` for good, and Python
        aborts where it needs that lock ("Fatal Python error: _enter_buffered_busy").
        """
        self._writing.end()

    # -- the live line

    def draw(self, text: str, width: int) -> None:
        """Draw a map's bar, so many cells wide, below all that was written, until the next one or ``erase()``.

        Args:
            text: one line, with escape sequences for colours.
            width: its cells.
        """
        self._writing.do(lambda: self._draw(text, width))

    def _draw(self, text: str, width: int) -> None:
        stream = self._stream()
        if stream is None:
            return
        self._bar_drawn = self.clock()
        self._erase()
        put(stream, f"{text}\r")
        self._live = _Live(stream, text, width, None, self._bar_drawn)

    def draw_unfinished(self, printer: Printer, text: str) -> bool:
        """Show a line of output that has no end yet, where one can be drawn over; False where not."""
        if not self.is_live or self.clock() - self._bar_drawn < BAR_HOLDS:
            return False
        self._writing.do(lambda: self._draw_unfinished(printer, text))
        return True

    def _draw_unfinished(self, printer: Printer, text: str) -> None:
        stream = self._stream()
        if stream is None:
            return
        if is_notebook(stream):
            self._notebook.update(text)
            return
        now, live = self.clock(), self._live
        mine = live is not None and live.owner is printer
        if live is not None and live.owner is not None and not mine and now - live.since < OWNER_HOLDS:
            return  # the other one's turn: this one's comes
        text = fit(text, shutil.get_terminal_size().columns - 1)
        if live is not None and mine and live.text == text:
            return
        since = live.since if live is not None and mine else now
        self._erase()
        put(stream, f"{text}\r")
        self._live = _Live(stream, text, cells(text), printer, since)

    def in_notebook(self, work: Callable[[NotebookOutput], None]) -> None:
        """Have this done with a map's displays, where there is a notebook."""
        if self.is_notebook:
            self._bar_drawn = self.clock()
            self._writing.do(lambda: work(self._notebook))

    def erase(self) -> None:
        """Take a map's bar away: what follows is not ours."""
        if self._live is not None and self._live.owner is None:
            self._writing.do(self._erase_bar)

    def _erase_bar(self) -> None:
        self._bar_drawn = -BAR_HOLDS
        if self._live is not None and self._live.owner is None:
            self._erase()

    def _erase(self) -> None:
        if self._live is not None:
            live, self._live = self._live, None
            put(live.stream, f"\r{' ' * live.width}\r")  # an escape sequence would not be known everywhere

    def finish_line(self, printer: Printer, text: str) -> None:
        """Write lines of a call's output. Its unfinished line, where one was drawn, is part of them."""
        self._writing.do(lambda: self._finish_line(printer, text))

    def _finish_line(self, printer: Printer, text: str) -> None:
        if self._live is not None and self._live.owner is printer:
            self._erase()
        self._write(text)
        if self.is_notebook:
            self._notebook.clear()

    def _write(self, text: str) -> None:
        stream = self._stream()
        if stream is None:
            return
        live = self._live
        self._erase()
        put(stream, text)
        if live is not None and live.owner is not None and live.stream is stream:  # a bar draws itself again
            put(stream, f"{live.text}\r")
            self._live = live


class Printer:
    """The output of one call as whole lines, whatever pieces and bytes it arrives in.

    A line that is not whole yet, such as a progress bar, is drawn over and over where that is possible. In a log file
    its state is a line of its own now and then.

    Attributes:
        is_named: each line says whose it is.
    """

    def __init__(self, console: Console, name: str) -> None:
        self.is_named = False
        self._console = console
        self._name = name
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._line = UnfinishedLine()
        self._logged = ""
        self._log_at: float | None = None
        self._log_pause = LOG_FIRST

    def feed(self, data: bytes) -> None:
        """Show all lines that are whole now, and the one that is not."""
        first, *others = self._decoder.decode(data).split("\n")
        self._line.add(first)
        if others:
            whole = [self._taken()]
            for each in others[:-1]:
                self._line.add(each)
                whole.append(self._taken())
            self._line.add(others[-1])
            self._show([line for line in whole if line is not None])
        if self._line.is_long:
            self._show([self._line.take()])
        self._show_unfinished()

    def end(self) -> None:
        """Show the last line, which may lack its newline."""
        self._line.add(self._decoder.decode(b"", final=True))
        rest = self._taken()
        if rest:
            self._show([rest])
        self._console.forget(self)

    def _taken(self) -> str | None:
        """The whole line; None where a log file has just that as its last state."""
        line, logged = self._line.take(), self._logged
        self._logged, self._log_at, self._log_pause = "", None, LOG_FIRST
        return None if logged and line == logged else line

    @property
    def _prefix(self) -> str:
        return self._name if self.is_named else ""

    def _show(self, lines: list[str]) -> None:
        if lines:
            prefix = self._prefix
            self._console.finish_line(self, "".join(f"{prefix}{_MOVES.sub('', line)}\n" for line in lines))

    def _show_unfinished(self) -> None:
        text = self._line.text(500)
        if not text or self._console.draw_unfinished(self, self._prefix + _MOVES.sub("", text)):
            return
        if not self._line.moves:  # it waits for its end
            return
        now = self._console.clock()
        if self._log_at is None:
            self._log_at = now + LOG_FIRST
        if now < self._log_at or text == self._logged:
            return
        self._log_pause = min(LOG_MOST, 2 * self._log_pause)
        self._log_at = now + self._log_pause
        self._logged = text
        self._show([text])


class Silent:
    """In place of a Printer with ``verbose=False``."""

    def feed(self, data: bytes) -> None:
        """Show nothing."""

    def end(self) -> None:
        """Show nothing."""
