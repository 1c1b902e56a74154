"""What one Job of a map leaves to others: items that run again elsewhere, and results that its Pods keep."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from kubefunc.backends.kubernetes.attempts.receipt import Receipt

SHRINK = 8  # what is lost with an item at fault runs in chunks so much smaller: where each item is, that ends soon


@dataclass(eq=False)
class LostItems:
    """Items that have to run again in another Job; :mod:`~kubefunc.backends.kubernetes.control.maps` starts it.

    The map's lock is held around ``add`` and ``take``.

    Attributes:
        items: those that are gathered now.
        gathering: a Job for them is made in a moment.
        shrink: in smaller chunks, for an item was at fault.
        losses: how often some of this Job's items were lost with a Pod before.
        innocent: some were lost through no fault of an item: the Job would start their Pods again.
    """

    items: list[int] = field(default_factory=list[int])
    gathering: bool = False
    shrink: bool = False
    losses: int = 0
    innocent: bool = False

    def note_innocent(self) -> None:
        """Items were lost, and none of them is at fault."""
        self.innocent = True

    def add(self, items: Iterable[int], *, at_fault: bool) -> bool:
        """Gather these. True where they are the first: then a Job is to be made in a moment."""
        self.items += items
        self.shrink = self.shrink or at_fault
        is_first = not self.gathering
        self.gathering = True
        return is_first

    def take(self) -> list[int]:
        """All that were gathered, for a Job that is made now."""
        items, self.items, self.gathering = self.items, [], False
        return items

    def chunksize(self, before: int) -> int:
        """Items for each chunk of that Job, where so many were in one."""
        return max(1, before // SHRINK) if self.shrink else before


@dataclass(frozen=True)
class HeldPod:
    """A Pod whose outcomes have come, and which was not told so. ``receipt`` holds what has come."""

    name: str
    receipt: Receipt


@dataclass(eq=False)
class HeldPods:
    """Pods that keep results which are here already, for a client that attaches if this one is killed.

    Attributes:
        waiting_looks: how many looks in a row have found Pods of the map waiting for a place.
    """

    pods: list[HeldPod] = field(default_factory=list[HeldPod])
    waiting_looks: int = 0

    def hold(self, pod: HeldPod) -> None:
        """This Pod keeps its results for now."""
        self.pods.append(pod)

    def let_go(self) -> list[HeldPod]:
        """All of them, to be told that they may end."""
        pods, self.pods = self.pods, []
        return pods

    def pods_wait(self) -> None:
        """Once more, Pods of the map were found waiting."""
        self.waiting_looks += 1

    def no_pods_wait(self) -> None:
        """A Pod that only started waits for no place."""
        self.waiting_looks = 0
