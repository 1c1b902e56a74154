"""What a function printed, as the client keeps it for ``logs()``."""

from __future__ import annotations

from kubefunc.runner import OUTPUT_TAIL
from kubefunc.runner.execution.attempts import without_runner

MOST = 64 << 20  # bytes: a program that follows chatty calls for days must not fill its memory with their output
TAIL_LINES = 20
_SLACK = 8 << 20  # that more before the oldest goes: to let go of a little each time would copy all of it each time


class Transcript:
    """The newest of what was printed, whole lines of it.

    >>> kept = Transcript(most=8, slack=4)
    >>> for _ in range(4):
    ...     kept.add(b"line\\n")
    >>> kept.text()
    '[kubefunc: 10 older bytes of output were not kept]\\nline\\nline\\n'
    """

    def __init__(self, most: int = MOST, slack: int = _SLACK) -> None:
        self._data = bytearray()
        self._most = most
        self._slack = slack
        self._dropped = 0

    def add(self, data: bytes) -> None:
        """Some more of it."""
        self._data += data
        if len(self._data) > self._most + self._slack:
            self._let_go(len(self._data) - self._most)

    def _let_go(self, count: int) -> None:
        """At least so many bytes, up to the end of a line."""
        line = self._data.find(b"\n", count - 1)
        if line >= 0:
            count = line + 1
        del self._data[:count]
        self._dropped += count

    def __bool__(self) -> bool:
        return bool(self._data)

    def text(self) -> str:
        """All that is kept; before it, how much is not."""
        before = f"[kubefunc: {self._dropped:,} older bytes of output were not kept]\n" if self._dropped else ""
        return before + self._data.decode("utf-8", "replace")

    def since(self, position: int) -> bytes:
        """What came after so many bytes, as far as it is kept."""
        return bytes(self._data[max(0, position - self._dropped) :])

    def tail(self) -> bytes:
        """Enough of its end for :func:`last_lines`."""
        return bytes(self._data[-OUTPUT_TAIL:])


def last_lines(data: bytes) -> tuple[str, ...]:
    """The last lines of what a function printed, as an error shows them."""
    return tuple(without_runner(data.decode("utf-8", "replace").splitlines()))[-TAIL_LINES:]
