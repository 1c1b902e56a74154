"""What a person sees while waiting: what functions print, and one line where something must be waited for."""

from __future__ import annotations

import codecs
import importlib
import io
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TextIO

LIVE_AFTER = 0.5  # seconds: a map that is done by then shows no line
LIVE_EVERY = 0.1
LOG_EVERY = 30.0


class Console:
    """Writes to the *current* ``sys.stderr``: notebooks and pytest replace it. Never raises into a call."""

    def __init__(self, stream: Callable[[], TextIO | None] = lambda: sys.stderr) -> None:
        self._stream = stream
        self._lock = threading.RLock()
        self._printers: set[Printer] = set()
        self._live: tuple[TextIO, int] | None = None  # where a live line stands, and how wide it is

    def say(self, text: str) -> None:
        """One line of our own."""
        self._write(f"kubefunc: {text}\n")

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
        with self._lock:
            printer.is_named = bool(self._printers)
            if len(self._printers) == 1:  # the first of them did not know that it would have company
                next(iter(self._printers)).is_named = True
            self._printers.add(printer)
        return printer

    def forget(self, printer: Printer) -> None:
        with self._lock:
            self._printers.discard(printer)

    @property
    def is_live(self) -> bool:
        """Whether a line can be drawn over and over: a terminal or a notebook, where nobody else does just now."""
        stream = self._stream()
        return stream is not None and _redraws(stream, os.environ) and not _others_draw()

    def draw(self, text: str, width: int) -> None:
        """Let this line, so many cells wide, stand below all that was written, until the next one or ``erase()``."""
        stream = self._stream()
        if stream is None:
            return
        with self._lock:
            self._erase()
            _put(stream, f"{text}\r")
            self._live = stream, width

    def erase(self) -> None:
        """Take the live line away: what follows is not ours."""
        if self._live is not None:
            with self._lock:
                self._erase()

    def _erase(self) -> None:
        if self._live is not None:
            (stream, width), self._live = self._live, None
            _put(stream, f"\r{' ' * width}\r")  # notebooks know no other way to erase

    def _write(self, text: str) -> None:
        stream = self._stream()
        if stream is None:
            return
        with self._lock:
            self._erase()
            _put(stream, text)


def _put(stream: TextIO, text: str) -> None:
    try:
        stream.write(text)
        stream.flush()
    except UnicodeEncodeError:
        encoding = getattr(stream, "encoding", None) or "ascii"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    except Exception:  # noqa: BLE001 - closed, its reader has left, or it is anyone's class: no call is lost
        return


def _redraws(stream: TextIO, environ: Mapping[str, str]) -> bool:
    if type(stream).__module__.startswith("ipykernel"):
        return True
    try:
        return stream.isatty() and environ.get("TERM") != "dumb"
    except Exception:  # noqa: BLE001 - as above
        return False


def _others_draw() -> bool:
    """Whether a bar of tqdm or a display of rich is on the screen: two of them would spoil each other."""
    tqdm = getattr(sys.modules.get("tqdm"), "tqdm", None)
    if getattr(tqdm, "_instances", None):
        return True
    console = getattr(sys.modules.get("rich"), "_console", None)
    return bool(getattr(console, "_live", None) or getattr(console, "_live_stack", None))


class Printer:
    """The output of one call as whole lines, whatever pieces and bytes it arrives in.

    Attributes:
        is_named: each line says whose it is.
    """

    def __init__(self, console: Console, name: str) -> None:
        self.is_named = False
        self._console = console
        self._name = name
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
        prefix = self._name if self.is_named else ""
        self._console._write("".join(f"{prefix}{line}\n" for line in text.split("\n")))


class Silent:
    """In place of a Printer with ``verbose=False``."""

    def feed(self, data: bytes) -> None:
        pass

    def end(self) -> None:
        pass


# -- the progress of a map


@dataclass(frozen=True)
class MapProgress:
    """How far a map has come: how many of its items are where. The sum from ``waiting`` to ``cancelled`` is ``total``.

    Attributes:
        total: all items.
        waiting: not started yet.
        running: being worked on, or on their way back.
        succeeded: ended with a value.
        failed: ended with an exception or an error.
        cancelled: were cancelled.
        waits_for: what those that wait are waiting for, in a person's words, where that is known; else empty.
        pods: how many Pods work on those that run; 0 on this machine.
    """

    total: int
    waiting: int
    running: int
    succeeded: int
    failed: int
    cancelled: int
    waits_for: str = ""
    pods: int = 0

    @property
    def ended(self) -> int:
        """All that need not be waited for."""
        return self.succeeded + self.failed + self.cancelled


def progress_text(now: MapProgress, seconds: float) -> str:
    """A map's progress in one line.

    >>> progress_text(MapProgress(1000, 588, 12, 398, 2, 0, "waiting for a node"), 20.0)
    '400 of 1,000 done, 12 running, 588 waiting (for a node), 2 failed, 20/s, 30 s left'
    >>> progress_text(MapProgress(12, 4, 6, 2, 0, 0, pods=6), 4.0)
    '2 of 12 done, 6 running in 6 Pods, 4 waiting, 0.5/s, 20 s left'

    Args:
        now: how far it is.
        seconds: since it began.
    """
    parts = [f"{now.ended:,} of {now.total:,} done"]
    if now.running:
        pods = f" in {now.pods:,} Pod{'s' * (now.pods > 1)}" if now.pods else ""
        parts.append(f"{now.running:,} running{pods}")
    if now.waiting:
        why = now.waits_for.removeprefix("waiting ")
        parts.append(f"{now.waiting:,} waiting" + (f" ({why})" if why else ""))
    parts += [f"{count:,} {word}" for count, word in ((now.failed, "failed"), (now.cancelled, "cancelled")) if count]
    if now.ended and now.ended < now.total and seconds > 0:
        rate = now.ended / seconds
        parts += [f"{rate:.3g}/s", f"{_duration((now.total - now.ended) / rate)} left"]
    return ", ".join(parts)


def _duration(seconds: float) -> str:
    """In two units at most.

    >>> _duration(7.2), _duration(125), _duration(3 * 3600 + 59)
    ('7 s', '2 min 5 s', '3 h 0 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class Watch:
    """Shows the progress of one map to a person, from within the waits of whoever waits for it.

    A live line stands there only as long as a wait lasts: a program's own prints, between two results, find a clean
    line. Where a line cannot be redrawn (a log file), one is written every 30 s.
    """

    def __init__(
        self,
        name: str,
        progress: Callable[[], MapProgress],
        console: Console,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._progress = progress
        self._console = console
        self._clock = clock
        self._began = clock()
        self._logged = self._began
        self._drawn = self._began
        self._loads = False
        self._drawing = threading.Event()  # all is there that it needs

    def tick(self) -> float:
        """Show what there is to show now; the seconds after which to come again."""
        now = self._clock()
        if now - self._began < LIVE_AFTER:
            return LIVE_AFTER
        if self._console.is_live:
            if now - self._drawn >= LIVE_EVERY:
                self._drawn = now
                self._console.draw(*self._rendered())
            return self._drawn + LIVE_EVERY - now
        self._console.erase()
        if now - self._logged >= LOG_EVERY:
            self._logged = now
            self._console.say(f"{self._name}: {progress_text(self._progress(), now - self._began)}")
        return min(LOG_EVERY, self._logged + LOG_EVERY - now)

    def tick_in_loop(self) -> float:
        """The same, held up by nothing: what draws takes a tenth of a second to load, so another thread does that."""
        if self._drawing.is_set() or self._clock() - self._began < LIVE_AFTER or not self._console.is_live:
            return self.tick()
        if not self._loads:
            self._loads = True
            threading.Thread(target=self._load, name="kubefunc-rich", daemon=True).start()
        return LIVE_EVERY

    def _load(self) -> None:
        for name in ("console", "progress_bar", "table", "text"):
            importlib.import_module(f"rich.{name}")
        self._drawing.set()

    def pause(self) -> None:
        """The wait is over: the line is the program's again."""
        self._console.erase()

    def _rendered(self) -> tuple[str, int]:
        """A bar and the text, by rich: it knows colours, widths of characters and what the terminal can show."""
        from rich.console import Console as Rich
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        now = self._progress()
        width = max(20, shutil.get_terminal_size().columns - 1)  # a full line would wrap
        # Left to itself rich would show a cell of its own in a notebook, for each time that the line is drawn.
        rich = Rich(
            file=io.StringIO(),
            force_terminal=True,
            force_jupyter=False,
            width=width,
            no_color="NO_COLOR" in os.environ,
        )
        text = Text(progress_text(now, self._clock() - self._began), no_wrap=True, overflow="ellipsis")
        row = Table.grid(padding=(0, 1))
        row.add_row(Text(self._name), ProgressBar(total=max(1, now.total), completed=now.ended, width=20), text)
        with rich.capture() as capture:
            rich.print(row, end="")
        return capture.get().replace("\n", ""), width


class Unwatched:
    """In place of a Watch with ``progress=False``."""

    def tick(self) -> float:
        return LOG_EVERY

    def tick_in_loop(self) -> float:
        return LOG_EVERY

    def pause(self) -> None:
        pass
