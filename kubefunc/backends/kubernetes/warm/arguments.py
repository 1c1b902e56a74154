"""The files (:class:`kubefunc.File`) among the arguments of a submission, as warm workers get them. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kubefunc.backends.base import Submission
from kubefunc.runner.protocol.file import numbers_in

if TYPE_CHECKING:
    from kubefunc.packing.sent_files import SentFile


class ArgumentFiles:
    """Which files an item needs, and which of them only that item.

    Attributes:
        place: the name of their folder in a worker.
    """

    def __init__(self, submission: Submission, place: str | None = None) -> None:
        """``place``: their folder is this one's alone, and goes with it; None: it is that of the submission."""
        payload = submission.payload
        self.place = submission.call if place is None else place
        self._sent = payload.files
        self._common = payload.used_files
        self._items: Mapping[int, bytes] = submission.items if payload.files else {}
        self._has_own_place = place is not None or submission.shape != "map"
        self._uses: Mapping[int, int] = _uses(self._items, self._common) if payload.files else {}

    def __bool__(self) -> bool:
        return bool(self._sent)

    def of(self, indexes: Sequence[int]) -> Mapping[int, SentFile]:
        """The files that these items need, by number: first those that all need."""
        numbers = dict.fromkeys(self._common)
        for index in indexes:
            numbers.update(dict.fromkeys(numbers_in(self._items.get(index, b""))))
        return {number: self._sent[number] for number in numbers}

    def own(self, indexes: Sequence[int]) -> list[int] | None:
        """The numbers of the files that no other item needs; None: all of them."""
        if self._has_own_place:
            return None
        return [number for number in self.of(indexes) if self._uses[number] == 1]

    def header(self, indexes: Sequence[int]) -> Mapping[str, Any]:
        """What a request for these items says of their files."""
        return {"files": {"place": self.place, "own": self.own(indexes)}} if self._sent else {}


def _uses(items: Mapping[int, bytes], common: Sequence[int]) -> Mapping[int, int]:
    """How many items need each file, by number; of those that all need, more than one."""
    uses = Counter(number for data in items.values() for number in set(numbers_in(data)))
    uses.update(2 * list(common))
    return uses


class Brought:
    """The files that a worker has and other items may need. The worker removes those of a place that it leaves."""

    def __init__(self) -> None:
        self._place = ""
        self._numbers: set[int] = set()

    def forget(self) -> None:
        """Nobody knows what it has."""
        self._place = ""

    def enter(self, place: str) -> None:
        """It runs something from this place now."""
        if place != self._place:
            self._place = place
            self._numbers = set()

    def __contains__(self, number: int) -> bool:
        return number in self._numbers

    def add(self, place: str, number: int) -> None:
        """It has this one now."""
        if place == self._place:
            self._numbers.add(number)
