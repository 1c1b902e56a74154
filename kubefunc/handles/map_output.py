"""What the items of a map print, and what they wait for."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from kubefunc.backends.base import Whereabouts
from kubefunc.console import Console, Printer, Silent
from kubefunc.diagnosis import Phase
from kubefunc.transcript import Transcript, last_lines


class _Log:
    """What was printed while some items ran."""

    def __init__(self, indexes: Sequence[int], printer: Printer | Silent) -> None:
        self.indexes = indexes
        self.kept = Transcript()
        self.printer = printer


class MapOutput:
    """The output of a map, by the items that it came from; shown line by line, kept for ``logs()``."""

    def __init__(self, call: str, console: Console, *, verbose: bool) -> None:
        self._call = call
        self._console = console
        self._verbose = verbose
        self._lock = threading.RLock()
        self._logs: dict[int, _Log] = {}  # by the first of the indexes
        self._told: set[str] = set()
        self.waits_for = ""

    def moved(self, where: Whereabouts) -> None:
        """Say once what must be waited for."""
        if where.phase in (Phase.SUBMITTING, Phase.PENDING, Phase.STARTING):
            self.waits_for = where.detail
        if where.detail and where.detail not in self._told and self._verbose:
            self._told.add(where.detail)
            self._console.say(f"{self._call}: {where.detail}")

    def feed(self, indexes: Sequence[int], data: bytes) -> None:
        with self._lock:
            log = self._logs.get(indexes[0])
            if log is None:
                log = self._logs[indexes[0]] = _Log(indexes, self._printer(indexes))
            log.kept.add(data)
            log.printer.feed(data)

    def end(self, indexes: Sequence[int]) -> None:
        """These items have ended: show the last line of those that were alone, which may lack its newline."""
        if not self._logs:
            return
        with self._lock:
            for log in map(self._logs.get, indexes):
                if log is not None and len(log.indexes) == 1:
                    log.printer.end()

    def end_all(self) -> None:
        with self._lock:
            for log in self._logs.values():
                log.printer.end()

    def text(self) -> str:
        with self._lock:
            return "".join(self._logs[first].kept.text() for first in sorted(self._logs))

    def text_of(self, index: int) -> str:
        with self._lock:
            return "".join(log.kept.text() for log in self._of(index))

    def last_lines(self, index: int) -> tuple[str, ...]:
        with self._lock:
            data = b"".join(log.kept.tail() for log in self._of(index))
        return last_lines(data)

    def _of(self, index: int) -> list[_Log]:
        log = self._logs.get(index)
        if log is not None:
            return [log]
        return [log for log in self._logs.values() if len(log.indexes) > 1 and index in log.indexes]

    def _printer(self, indexes: Sequence[int]) -> Printer | Silent:
        if not self._verbose:
            return Silent()
        which = f"{indexes[0]}" if len(indexes) == 1 else f"{indexes[0]}-{indexes[-1]}"
        return self._console.part_printer(f"{self._call}[{which}]")
