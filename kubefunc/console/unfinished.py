"""The line that a function is printing: pieces of it as they come."""

from __future__ import annotations

LINE_LIMIT = 1 << 20  # characters: a longer line is shown in pieces, or it would fill the memory


class UnfinishedLine:
    """The line that a function is printing: pieces of it as they come, carriage returns obeyed.

    What follows a carriage return replaces what stands before it, as on a terminal. The cost is linear in what is
    printed, however it arrives.

    >>> line = UnfinishedLine()
    >>> for piece in ("10%", "\\r20%", "\\r"):
    ...     line.add(piece)
    >>> line.text(80), line.take()
    ('20%', '20%')
    """

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._size = 0
        self._before = ""
        self.moves = False  # it has been drawn over: it is a progress bar, or the like

    def add(self, piece: str) -> None:
        """Some more of it, without a newline."""
        *ended, rest = piece.split("\r")
        for each in ended:
            whole = "".join((*self._parts, each))
            self._parts, self._size = [], 0
            if whole.strip():
                self._before = whole[:LINE_LIMIT]
        if rest:
            self._parts.append(rest)
            self._size += len(rest)
        self.moves = self.moves or bool(ended)

    @property
    def is_long(self) -> bool:
        """Whether it must be shown before it is whole."""
        return self._size > LINE_LIMIT

    def text(self, most: int) -> str:
        """Its state by now: at least so many characters of its beginning."""
        kept, size = [], 0
        for each in self._parts:
            kept.append(each[: most - size])
            size += len(kept[-1])
            if size >= most:
                break
        return "".join(kept) if "".join(kept).strip() else self._before[:most]

    def take(self) -> str:
        """The whole line; the next one begins."""
        whole = "".join(self._parts)
        if not whole.strip() and self._before:
            whole = self._before
        self._parts, self._size, self._before, self.moves = [], 0, "", False
        return whole
