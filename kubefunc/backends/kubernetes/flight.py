"""One attempt of one call on the cluster: what is known of it and what is under way."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from kubefunc.backends.base import Sink, Submission, Whereabouts
from kubefunc.backends.kubernetes.api import Stream
from kubefunc.backends.kubernetes.explain import Finding, Job, Pod
from kubefunc.backends.kubernetes.transport import ResultStream
from kubefunc.diagnosis import Diagnosis, Phase
from kubefunc.options import Options


@dataclass(eq=False)
class Flight:
    """The mutable state of an attempt. ``lock`` guards every decision that must be taken once.

    Attributes:
        job: the Job's name.
        submission: what was sent; None for an attached call.
        uid: the Job's UID, once it exists.
        stays: never acknowledged, never deleted by us: detached and attached calls.
    """

    call: str
    job: str
    function: str
    namespace: str
    key: bytes
    options: Options
    sink: Sink
    stays: bool
    submission: Submission | None = None
    uid: str = ""
    born: float = field(default_factory=time.monotonic)
    lock: threading.RLock = field(default_factory=threading.RLock)

    pods: dict[str, Pod] = field(default_factory=dict)
    job_seen: Job | None = None
    where: Phase = Phase.SUBMITTING
    pod_since: float = 0.0
    running_since: float = 0.0
    deleting_since: float = 0.0
    failed_since: float = 0.0

    over: bool = False
    cancelled: bool = False
    ended_pod: Pod | None = None
    collecting: bool = False
    uploading: bool = False

    stream: ResultStream | None = None
    stream_since: float = 0.0
    flowing: bool = False

    follower: Stream | None = None
    following: bool = False
    followed: int = 0

    finding: Finding | None = None
    finding_since: float = 0.0
    said: float = 0.0
    looked: float = 0.0
    warnings: tuple[str, ...] = ()

    secrets: tuple[str, ...] = ()
    created: bool = False
    owned: bool = False
    settled_requests: bool = False
    delete_wanted: bool = False
    deleted: bool = False

    def claim(self) -> bool:
        """True for the one who may end this attempt."""
        with self.lock:
            if self.over:
                return False
            self.over = True
            return True

    def pod(self) -> Pod | None:
        """The Pod that counts: the one that ended, else the newest that lives."""
        if self.ended_pod is not None:
            return self.ended_pod
        alive = [pod for pod in self.pods.values() if not pod.deleting] or list(self.pods.values())
        return alive[-1] if alive else None

    def move(self, pod: Pod) -> None:
        """Tell the call where it is, when that has changed."""
        now = time.monotonic()
        if pod.where is self.where:
            return
        self.where = pod.where
        if pod.where is Phase.RUNNING:
            self.running_since = now
        self.sink.moved(Whereabouts(pod.where, "", pod.name, pod.node))

    def found(self, finding: Finding | None) -> None:
        """Remember why it does not go on, and since when."""
        if finding is not None and (self.finding is None or finding.reason != self.finding.reason):
            self.finding_since = time.monotonic()
        self.finding = finding

    def diagnosis(self, log_tail: tuple[str, ...] = ()) -> Diagnosis:
        pod = self.pod()
        return Diagnosis(
            reason="",
            message="",
            phase=self.where,
            call=self.call,
            namespace=self.namespace,
            pod=pod.name if pod else None,
            node=pod.node if pod else None,
            events=self.warnings,
            log_tail=log_tail,
        )
