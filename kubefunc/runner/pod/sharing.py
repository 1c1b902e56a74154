"""How a chunk gives back items that it has not begun, so that idle Pods take them.

The client runs ``sharer SECONDS`` in the courier. It writes the file ``share``; ``main`` answers in ``shared``: which
items it has given back so far, and how long an item takes here. An item is given back or run, never both: before each
item the child takes a ticket out of a pipe, and ``main`` takes tickets back from the same pipe. The kernel gives each
byte of a pipe to one reader.
"""

from __future__ import annotations

import json
import os
import time

from kubefunc.runner.execution.tickets import Tickets
from kubefunc.runner.protocol import pipes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from kubefunc.runner.execution.items import Item

SHARE = "share"
SHARED = "shared"
SHARE_POLL = 0.1  # seconds between looks for a request
ANSWER_WITHIN = 3.0
_ANSWER_POLL = 0.01


class Pace:
    """How long an item takes in one child, from what it has reported. Times are the monotonic clock's."""

    def __init__(self) -> None:
        self.began = 0.0
        self.begun = 0
        self.item_began = 0.0

    def item(self, now: float) -> None:
        """An item begins."""
        if not self.begun:
            self.began = now
        self.item_began = now
        self.begun += 1

    def mean(self, now: float) -> float:
        """Seconds for each item begun, the one that runs included."""
        return (now - self.began) / self.begun if self.begun else 0.0

    def items_within(self, seconds: float, now: float) -> int:
        """How many further items are done within this time.

        The item that runs is taken to need as long again as it has had: where one is slow, nothing waits behind it.
        """
        left = seconds - (now - self.item_began)
        return int(left / max(self.mean(now), 1e-6)) if left > 0 else 0


class Sharing:
    """In ``main``: answers requests to give items back."""

    def __init__(self, path: str, answer: str) -> None:
        self._path = path
        self._answer = answer
        self._look_at = 0.0
        self.given: list[int] = []

    def request(self, now: float) -> tuple[str, float] | None:
        """The name of a request that has come since the last look, and the seconds of work to keep."""
        if now < self._look_at:
            return None
        self._look_at = now + SHARE_POLL
        try:
            with open(self._path) as file:
                name, seconds = file.read().split()
            os.unlink(self._path)
        except (FileNotFoundError, ValueError):
            return None
        return name, float(seconds)

    def answer(self, name: str, pace: Pace, now: float) -> None:
        """Say what was given back up to now: again where an earlier answer was lost."""
        text = json.dumps({"request": name, "given": self.given, "begun": pace.begun, "mean": pace.mean(now)})
        with open(f"{self._answer}.new", "w") as file:
            file.write(text)
        os.replace(f"{self._answer}.new", self._answer)


def share(due: Sequence[Item], tickets: Tickets, pace: Pace, seconds: float, now: float) -> list[int]:
    """Take back what cannot be begun soon; the indexes of these items.

    Nothing before the first item has begun: imports say nothing of how long an item takes. Nothing of a run that tries
    items again: how often each was tried is known here alone.
    """
    if not pace.begun or any(item.attempt > 1 for item in due):
        return []
    taken = tickets.take_back(tickets.end - pace.begun - pace.items_within(seconds, now))
    return [due[position].index for position in taken]


def ask(directory: str, seconds: str) -> int:
    """The program ``sharer``: pass the request on, print the answer. Nothing is printed where ``main`` has ended."""
    name = str(os.getpid())
    request, answer = os.path.join(directory, SHARE), os.path.join(directory, SHARED)
    with open(f"{request}.{name}", "w") as file:
        file.write(f"{name} {seconds}")
    os.replace(f"{request}.{name}", request)
    until = time.monotonic() + ANSWER_WITHIN
    while time.monotonic() < until and not os.path.exists(os.path.join(directory, "result")):
        said = _answer_to(answer, name)
        if said is not None:
            pipes.write_all(1, said)
            return 0
        time.sleep(_ANSWER_POLL)
    return 0


def _answer_to(path: str, name: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            text = file.read()
    except FileNotFoundError:
        return None
    said: dict[str, Any] = json.loads(text)
    return text if said["request"] == name else None
