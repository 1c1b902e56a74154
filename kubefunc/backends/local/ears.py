"""Sockets and pipes that one thread listens to, and who is told."""

from __future__ import annotations

import contextlib
import selectors
import socket
from collections.abc import Callable


class Ears:
    """A selector whose entries are functions. Of one thread alone."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def hear(self, each: socket.socket | int, told: Callable[[], None]) -> None:
        """Call this when there is something to read."""
        self._selector.register(each, selectors.EVENT_READ, told)

    def wait_for_room(self, each: socket.socket | int) -> None:
        """Return from :meth:`listen` when it can be written to."""
        self._selector.register(each, selectors.EVENT_WRITE, lambda: None)

    def hears(self, each: socket.socket | int) -> bool:
        """Whether this is listened to."""
        return each in self._selector.get_map()

    def drop(self, each: socket.socket | int) -> None:
        """Listen to this no more."""
        with contextlib.suppress(KeyError):  # its end was seen before
            self._selector.unregister(each)

    def listen(self, seconds: float | None) -> None:
        """Tell what comes first within this time, and what has come with it."""
        watched = self._selector.get_map()
        for key, _ in self._selector.select(seconds):
            if key.fd in watched:  # else it was let go since select() said so
                key.data()

    def close(self) -> None:
        """Listen to nothing more."""
        self._selector.close()
