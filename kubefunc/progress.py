"""How far a map is, as one line that a person sees while waiting."""

from __future__ import annotations

import importlib
import io
import os
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubefunc.console import Console, cells

if TYPE_CHECKING:
    from rich.text import Text

LIVE_AFTER = 0.5  # seconds: a map that is done by then shows no line
LIVE_EVERY = 0.1
LOG_EVERY = 30.0
RECENT = 30.0  # seconds over which the rate is measured
BAR_MOST, BAR_LEAST = 30, 8  # cells
NAME_MOST = 24
STYLES = {"succeeded": "green", "failed": "red", "cancelled": "yellow", "running": "cyan", "waiting": "yellow"}


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
        stopped_by: with ``fail_fast``, the index of the item that failed first: the others were cancelled for it.
    """

    total: int
    waiting: int
    running: int
    succeeded: int
    failed: int
    cancelled: int
    waits_for: str = ""
    pods: int = 0
    stopped_by: int | None = None

    @property
    def ended(self) -> int:
        """All that need not be waited for."""
        return self.succeeded + self.failed + self.cancelled


def progress_parts(now: MapProgress, rate: float | None) -> list[tuple[str, str]]:
    """A map's progress as pieces of text, what matters most first, each with the state that it is about, or none.

    Args:
        now: how far it is.
        rate: items a second, of late; None where it is not known.
    """
    parts = [(f"{now.ended:,} of {now.total:,} done", "succeeded" if now.succeeded == now.total else "")]
    if now.failed:
        parts.append((f"{now.failed:,} failed", "failed"))
    if now.cancelled:
        parts.append((_cancelled(now), "cancelled"))
    if rate and now.ended < now.total:
        parts += [(f"{rate:.3g}/s", ""), (f"{duration((now.total - now.ended) / rate)} left", "")]
    if now.running:
        pods = f" in {now.pods:,} Pod{'s' if now.pods > 1 else ''}" if now.pods else ""
        parts.append((f"{now.running:,} running{pods}", "running"))
    if now.waiting:
        why = now.waits_for.removeprefix("waiting ")
        parts.append((f"{now.waiting:,} waiting" + (f" ({why})" if why else ""), "waiting"))
    return parts


def progress_text(now: MapProgress, rate: float | None) -> str:
    """A map's progress in one line.

    >>> progress_text(MapProgress(1000, 588, 12, 398, 2, 0, "waiting for a node", 4), 20.0)
    '400 of 1,000 done, 2 failed, 20/s, 30 s left, 12 running in 4 Pods, 588 waiting (for a node)'
    """
    return ", ".join(text for text, _ in progress_parts(now, rate))


def summary_parts(now: MapProgress, seconds: float) -> list[tuple[str, str]]:
    """What is said of a map that has ended, as :func:`progress_parts` gives it."""
    parts = [(f"{now.succeeded:,} of {now.total:,} succeeded", "succeeded" if now.succeeded else "")]
    if now.failed:
        parts.append((f"{now.failed:,} failed", "failed"))
    if now.cancelled:
        parts.append((_cancelled(now), "cancelled"))
    return [*parts, (f"in {duration(seconds)}", "")]


def summary(now: MapProgress, seconds: float) -> str:
    """What is said of a map that has ended, in one line.

    >>> summary(MapProgress(1000, 0, 0, 998, 2, 0), 80)
    '998 of 1,000 succeeded, 2 failed, in 1 min 20 s'
    """
    return ", ".join(text for text, _ in summary_parts(now, seconds))


def shares(now: MapProgress) -> list[tuple[int, str]]:
    """The parts of a bar: how many items are in which state."""
    return [
        (now.succeeded, "succeeded"),
        (now.failed, "failed"),
        (now.cancelled, "cancelled"),
        (now.running, "running"),
        (now.waiting, "waiting"),
    ]


def _cancelled(now: MapProgress) -> str:
    """How many were cancelled, and for whose failure.

    >>> _cancelled(MapProgress(100, 0, 0, 2, 1, 97, stopped_by=17))
    '97 cancelled after item 17 failed'
    """
    why = "" if now.stopped_by is None else f" after item {now.stopped_by} failed"
    return f"{now.cancelled:,} cancelled{why}"


class Rate:
    """How many items end in a second, of late: the first ones may have waited for a node or an image.

    >>> rate = Rate(0.0)
    >>> for second, ended in ((60, 0), (70, 10), (80, 30)):
    ...     rate.add(float(second), ended)
    >>> rate.value
    1.5
    """

    def __init__(self, began: float) -> None:
        self._seen = deque([(began, 0)])
        self._first = began  # since when items end at all

    def add(self, now: float, ended: int) -> None:
        """So many have ended by now. One count a second is kept."""
        if ended == 0:
            self._seen.clear()
            self._first = now
        elif len(self._seen) > 1 and now - self._seen[-2][0] < 1.0:
            self._seen.pop()
        self._seen.append((now, ended))
        while len(self._seen) > 2 and now - self._seen[1][0] >= RECENT:
            self._seen.popleft()

    @property
    def value(self) -> float | None:
        """None while nothing has ended. Where nothing has of late, it is measured from the first on."""
        (then, before), (now, ended) = self._seen[0], self._seen[-1]
        if ended == before:
            then, before = self._first, 0
        return (ended - before) / (now - then) if ended and now > then else None


def duration(seconds: float) -> str:
    """In two units at most.

    >>> duration(7.2), duration(125), duration(3 * 3600 + 59)
    ('7 s', '2 min 5 s', '3 h 0 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class Watch:
    """Shows the progress of one map, in the threads that wait for it.

    A live line stands there only as long as a wait lasts: a program's own prints, between two results, find a clean
    line. Where a line cannot be redrawn (a log file), one is written every 30 s. Of a map that was shown, a last line
    stays, which says how it ended. A notebook's cell has one display for each map, which ends as that line.
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
        self._rate = Rate(self._began)
        self._shown = False
        self._finished = False
        self._loads = False
        self._drawing = threading.Event()  # all is there that it needs

    def tick(self) -> float:
        """Show what there is to show now; the seconds after which to come again."""
        now = self._clock()
        if self._finished:  # failed items run again
            self._finished = False
            self._began = self._logged = now
            self._rate = Rate(now)
        if now - self._began < LIVE_AFTER:
            return LIVE_AFTER
        if self._console.is_live:
            if now - self._drawn >= LIVE_EVERY:
                self._drawn = now
                self._shown = True
                self._draw(self._measured(now))
            return self._drawn + LIVE_EVERY - now
        self._console.erase()
        if now - self._logged >= LOG_EVERY:
            self._logged = now
            self._shown = True
            self._console.say(f"{self._name}: {progress_text(self._measured(now), self._rate.value)}")
        return min(LOG_EVERY, self._logged + LOG_EVERY - now)

    def tick_in_loop(self) -> float:
        """The same, held up by nothing: what draws takes a tenth of a second to load, so another thread does that."""
        draws_with_rich = self._console.is_live and not self._console.is_notebook
        if self._drawing.is_set() or self._clock() - self._began < LIVE_AFTER or not draws_with_rich:
            return self.tick()
        if not self._loads:
            self._loads = True
            threading.Thread(target=self._load, name="kubefunc-rich", daemon=True).start()
        return LIVE_EVERY

    def _load(self) -> None:
        for name in ("console", "text"):
            importlib.import_module(f"rich.{name}")
        self._drawing.set()

    def pause(self) -> None:
        """The wait is over: the line is the program's again."""
        self._console.erase()
        if self._shown:
            self._console.in_notebook(lambda output: output.leave(self))
            self.finish()

    def finish(self) -> None:
        """Leave a line that stays, once, if the map has ended and was shown."""
        if not self._shown:
            return
        now = self._progress()
        if now.ended < now.total:
            return
        self._shown, self._finished = False, True
        seconds = self._clock() - self._began
        if self._console.is_notebook:
            self._show(now, summary_parts(now, seconds))
            self._console.in_notebook(lambda output: output.release(self))
        else:
            self._console.say(f"{self._name}: {summary(now, seconds)}")

    def _measured(self, at: float) -> MapProgress:
        now = self._progress()
        self._rate.add(at, now.ended)
        return now

    def _draw(self, now: MapProgress) -> None:
        if self._console.is_notebook:
            self._show(now, progress_parts(now, self._rate.value))
        else:
            self._draw_line(now)

    def _show(self, now: MapProgress, parts: list[tuple[str, str]]) -> None:
        """In the display that this map has in a notebook's cell."""
        from kubefunc.html import card

        text = f"{self._name}  {', '.join(text for text, _ in parts)}"
        html = card(self._name, parts, shares(now))
        self._console.in_notebook(lambda output: output.show(self, text, html))

    def _draw_line(self, now: MapProgress) -> None:
        """By rich: it knows colours and what the terminal can show."""
        from rich.console import Console as Rich

        width = max(20, shutil.get_terminal_size().columns - 1)  # a full line would wrap
        line = progress_line(self._name, now, self._rate.value, width)
        rich = Rich(
            file=io.StringIO(),
            force_terminal=True,
            width=width,
            no_color="NO_COLOR" in os.environ,
        )
        with rich.capture() as capture:
            rich.print(line, end="", no_wrap=True, overflow="ellipsis")
        self._console.draw(capture.get().replace("\n", ""), width)


def progress_line(name: str, now: MapProgress, rate: float | None, width: int) -> Text:
    """Name, figures and, where there is room, a bar: what matters most comes first, for the end may be cut."""
    from rich.text import Text

    line = Text(_shortened(name), style="bold")
    line.append("  ")
    for number, (text, state) in enumerate(progress_parts(now, rate)):
        line.append(", " if number else "", style="default not bold")
        line.append(text, style=f"{STYLES.get(state, 'default')} not bold")
    room = min(BAR_MOST, width - cells(line.plain) - 2)
    if room >= BAR_LEAST:
        line.append("  ")
        line.append_text(_bar(now, room))
    line.truncate(width, overflow="ellipsis")
    return line


def _shortened(name: str) -> str:
    """An id keeps its end, by which it is told from others."""
    return name if len(name) <= NAME_MOST else f"{name[: NAME_MOST - 10]}…{name[-9:]}"


def _bar(now: MapProgress, width: int) -> Text:
    """Each state has its share and its colour."""
    from rich.text import Text

    bar = Text()
    total, done, at = max(1, now.total), 0, 0
    for count, state in shares(now)[:-1]:
        done += count
        until = width * done // total
        bar.append("━" * (until - at), style=f"{STYLES[state]} not bold")
        at = until
    bar.append("━" * (width - at), style="bright_black not bold")
    return bar


class Unwatched:
    """In place of a Watch with ``progress=False``."""

    def tick(self) -> float:
        return LOG_EVERY

    def tick_in_loop(self) -> float:
        return LOG_EVERY

    def pause(self) -> None:
        pass

    def finish(self) -> None:
        pass
