"""The right to begin an item, which ``main`` may take back while its child runs."""

from __future__ import annotations

import os

_MOST_TICKETS = 4096  # a pipe of one page: all that a user over the soft limit for pipes gets


class Tickets:
    """The right to begin items: one ticket each, or where there are very many, one for some of them in a row.

    Attributes:
        step: items for each ticket; the last one may have fewer.
    """

    def __init__(self, count: int) -> None:
        self.prepare(count)
        self._pipe, end = os.pipe()
        os.write(end, bytes(self._left))
        os.close(end)  # an empty pipe is at its end then: nobody waits for more

    def prepare(self, count: int) -> None:
        """They are for so many items."""
        self.step = max(1, -(-count // _MOST_TICKETS))
        self._count = count
        self._left = -(-count // self.step)

    def allows(self, position: int) -> bool:
        """In the child: whether the item at this position may begin."""
        return position % self.step != 0 or bool(self._read(1))

    @property
    def end(self) -> int:
        """The position behind the last item that may begin."""
        return min(self._count, self._left * self.step)

    def take_back(self, items: int) -> range:
        """In the parent: the positions of the last items that have not begun, at most so many. They never will."""
        tickets = items // self.step
        end = self.end
        self._left -= len(self._read(tickets)) if tickets > 0 else 0
        return range(min(end, self._left * self.step), end)

    def _read(self, count: int) -> bytes:
        return os.read(self._pipe, count)

    def close(self) -> None:
        os.close(self._pipe)
