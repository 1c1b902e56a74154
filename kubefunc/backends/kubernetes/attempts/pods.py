"""What the watches have told of one attempt: its Pods, its Job, and how far it has come."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from kubefunc.backends.kubernetes.objects.views import Job, Pod
from kubefunc.diagnosis import Phase


@dataclass(eq=False)
class Pods:
    """The Pods of an attempt; :mod:`~kubefunc.backends.kubernetes.control.tracker` reports the news.

    Attributes:
        known: those that are there, by UID, the oldest first.
        written_off: UIDs of Pods that ended without a result; the Job puts others in their place.
        ended: the Pod whose ``main`` has left a result, or an explanation why there is none.
        vanished: such a Pod that was gone before its result was fetched, or the last that was written off.
        since: from when the wait for a Pod's start is counted.
    """

    known: dict[str, Pod] = field(default_factory=dict[str, Pod])
    written_off: set[str] = field(default_factory=set[str])
    ended: Pod | None = None
    ended_since: float = 0.0
    vanished: Pod | None = None
    since: float = 0.0
    deleting_since: float = 0.0

    def current(self) -> Pod | None:
        """The Pod that counts: the one that ended, else the newest that lives."""
        if self.ended is not None:
            return self.ended
        pods = list(self.known.values())  # a copy: news may change it meanwhile
        alive = [pod for pod in pods if not pod.deleting] or pods
        return alive[-1] if alive else None

    def last(self) -> list[Pod]:
        """Those that are there, or else the last that was."""
        return list(self.known.values()) or ([self.vanished] if self.vanished is not None else [])

    def named(self, name: str) -> Pod | None:
        """The Pod of this name, if it is there."""
        return next((pod for pod in list(self.known.values()) if pod.name == name), None)

    def saw(self, pod: Pod) -> bool:
        """A Pod is there or has changed. False for one that was written off: its news counts no more."""
        if pod.uid in self.written_off:
            return False
        if pod.uid not in self.known:
            self.since = time.monotonic()
        self.known[pod.uid] = pod
        self.deleting_since = (self.deleting_since or time.monotonic()) if pod.deleting else 0.0
        return True

    def got_node(self) -> None:
        """A Pod may have waited for its node: what the node says of it comes now."""
        self.since = time.monotonic()

    def main_ended(self, pod: Pod) -> None:
        """There is a result to be fetched from this Pod, or an explanation."""
        self.ended = pod
        self.ended_since = self.ended_since or time.monotonic()

    def lost(self, pod: Pod) -> bool:
        """A Pod is there no more. False for one that was not known."""
        if self.known.pop(pod.uid, None) is None:
            return False
        if self.ended is not None and self.ended.uid == pod.uid:
            self.vanished, self.ended = self.ended, None
        return True

    def write_off(self, pod: Pod) -> None:
        """This Pod leaves no result, and its Job makes another."""
        self.written_off.add(pod.uid)
        self.vanished = pod
        self.known.pop(pod.uid, None)

    def wait_for_another(self) -> None:
        """The Pod that counted is no more; the next one comes."""
        self.ended = None
        self.deleting_since = self.ended_since = 0.0
        self.since = time.monotonic()


@dataclass(eq=False)
class JobNews:
    """The Job as its watch has shown it.

    Attributes:
        finished_since: from when the last news of its Pods is waited for, once it is over; 0.0 before.
        looked_last: its Pods were or are being listed once more, before it is said that there is no result.
    """

    job: Job | None = None
    finished_since: float = 0.0
    looked_last: bool = False

    def saw(self, job: Job) -> None:
        """The Job is there or has changed."""
        self.job = job
        if job.failed or job.complete:
            self.finish()

    def keep(self, job: Job) -> None:
        """The Job has changed, which is no end of this chunk of it."""
        self.job = job

    def finish(self) -> None:
        """No more Pods come."""
        self.finished_since = self.finished_since or time.monotonic()

    def look_last(self) -> None:
        """The Pods are being listed."""
        self.looked_last = True

    def look_failed(self) -> None:
        """The list did not come: the clock asks again."""
        self.looked_last = False

    def wait_again(self) -> None:
        """The results of some chunks are still being fetched, and may be gone in the end: look once more later."""
        self.finished_since, self.looked_last = time.monotonic(), False


@dataclass(eq=False)
class Progress:
    """How far an attempt has come: the phase, and since when its function runs."""

    phase: Phase = Phase.SUBMITTING
    running_since: float = 0.0

    def reach(self, phase: Phase) -> None:
        """Enter this phase."""
        self.phase = phase
        if phase is Phase.RUNNING:
            self.running_since = time.monotonic()

    def summarize(self, phase: Phase) -> None:
        """Of a map: most of its chunks have come so far."""
        self.phase = phase

    def go_back(self) -> None:
        """Wait for another Pod."""
        self.phase = Phase.PENDING
        self.running_since = 0.0
