"""Results that the Pods of a map keep."""

from __future__ import annotations

from dataclasses import dataclass, field

from kubefunc.backends.kubernetes.attempts.receipt import Receipt


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
