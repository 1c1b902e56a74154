"""One attempt of one call on the cluster: what is known of it and what is under way."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from kubefunc.backends.base import Submission, Whereabouts
from kubefunc.backends.kubernetes.api.streams import Stream
from kubefunc.backends.kubernetes.api.transfer import ResultStream
from kubefunc.backends.kubernetes.attempts.items import ItemsSink
from kubefunc.backends.kubernetes.attempts.receipt import CallReceipt, Receipt
from kubefunc.backends.kubernetes.diagnose.finding import Finding, fault, sharper
from kubefunc.backends.kubernetes.objects.demands import NOTHING, Demands
from kubefunc.backends.kubernetes.objects.manifest import SECRETS_LIMIT
from kubefunc.backends.kubernetes.objects.views import Job, Pod
from kubefunc.diagnosis import Diagnosis, Phase
from kubefunc.envelope import Envelope
from kubefunc.errors import ResultCorruptedError
from kubefunc.options import Options

log = logging.getLogger("kubefunc.kubernetes.attempts")

REPLACED = "its Pod was ended from outside, another takes its place"


@dataclass(eq=False)
class Output:
    """What the ``main`` of one Pod printed, as far as it was passed on: how much, and the last of it.

    Its lock is its own: the terminal that output goes to may block, and news of the Pod must not wait for that.
    """

    pod: str
    lock: threading.RLock = field(default_factory=threading.RLock)
    passed: int = 0
    recent: bytes = b""
    stream: Stream | None = None
    following: bool = False
    again_at: float = 0.0
    closed: bool = False


@dataclass(eq=False)
class Looks:
    """When Events were read last, and a line said for what it waits: a map and its chunks share one of these.

    Attributes:
        job_at: when those of the Job were read.
        pods_at: when those of a Pod were read.
        said: when the line was said.
    """

    job_at: float = 0.0
    pods_at: float = 0.0
    said: float = 0.0


@dataclass(eq=False)
class Attempt:
    """The mutable state of an attempt. ``lock`` guards every decision that must be taken once.

    Attributes:
        job: the Job's name.
        submission: what was sent; None for an attached call.
        uid: the Job's UID, once it exists.
        stays: never acknowledged, never deleted by us: detached and attached calls.
        written_off: UIDs of Pods that ended without a result; the Job puts others in their place.
        ended_pod: the Pod whose ``main`` has left a result, or an explanation why there is none.
        vanished: such a Pod that was gone before its result was fetched, or the last that was written off.
        asked: names of the Pods that express has been to.
        quiet: another attempt says for what this one waits.
        demands: what of its namespace's demands its Job meets.
        warned: there is a new Event that may say why it does not start.
        uploads: the files that were or are being brought, by Pod and name.
        looking: a collector thread decides what to do next.
        fetching: a stream thread fetches, or will.
        damage: what was wrong with the last result that came whole.
        flowing: the stream's first byte of the result has come.
        settled_requests: nothing of its creation is under way any more.
    """

    call: str
    job: str
    function: str
    namespace: str
    key: bytes
    options: Options
    sink: ItemsSink
    stays: bool
    submission: Submission | None = None
    uid: str = ""
    born: float = field(default_factory=time.monotonic)
    lock: threading.RLock = field(default_factory=threading.RLock)

    pods: dict[str, Pod] = field(default_factory=dict[str, Pod])
    written_off: set[str] = field(default_factory=set[str])
    job_seen: Job | None = None
    where: Phase = Phase.SUBMITTING
    pod_since: float = 0.0
    running_since: float = 0.0
    deleting_since: float = 0.0
    finished_since: float = 0.0
    looked_last: bool = False

    over: bool = False
    ended_pod: Pod | None = None
    ended_since: float = 0.0
    vanished: Pod | None = None

    looking: bool = False
    look_again: bool = False
    fetching: bool = False
    exec_given_up: bool = False
    damage: ResultCorruptedError | None = None
    log_misses: int = 0
    asked: set[str] = field(default_factory=set[str])
    stream: ResultStream | None = None
    stream_since: float = 0.0
    flowing: bool = False
    receipt: Receipt | None = None
    receipt_pod: str = ""
    live_again_at: float = 0.0
    output: Output | None = None
    uploads: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])

    finding: Finding | None = None
    finding_since: float = 0.0
    quiet: bool = False
    demands: Demands = NOTHING
    warned: bool = False
    looks: Looks = field(default_factory=Looks)
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
            log.info("%s: %s -> over", self.job, self.where.value)
            self.over = True
            return True

    def pod(self) -> Pod | None:
        """The Pod that counts: the one that ended, else the newest that lives."""
        if self.ended_pod is not None:
            return self.ended_pod
        pods = list(self.pods.values())  # a copy: news may change it meanwhile
        alive = [pod for pod in pods if not pod.deleting] or pods
        return alive[-1] if alive else None

    def last_pods(self) -> list[Pod]:
        """Those that are there, or else the last that was."""
        return list(self.pods.values()) or ([self.vanished] if self.vanished is not None else [])

    def output_of(self, pod: str) -> Output:
        """How far this Pod's output was passed on. A replacement prints from its own beginning."""
        with self.lock:
            if self.output is None or self.output.pod != pod:
                self.output = Output(pod)
            return self.output

    def receipt_of(self, pod: str) -> Receipt:
        """What has come of this Pod's result: a stream that was cut is resumed there."""
        with self.lock:
            if self.receipt is None or self.receipt_pod != pod:
                self.receipt, self.receipt_pod = self.new_receipt(), pod
            return self.receipt

    def new_receipt(self) -> Receipt:
        """For a result of which nothing has come yet."""
        return CallReceipt(self.key, self.call)

    def forget_receipt(self) -> None:
        """Start from the first byte again."""
        with self.lock:
            self.receipt, self.receipt_pod = None, ""

    def cargo(self, pod: str) -> Mapping[str, Callable[[], bytes]]:
        """What must be brought to this Pod by its courier: files by name."""
        submission = self.submission
        if submission is None or submission.payload.size <= SECRETS_LIMIT:
            return {}
        return {"payload": lambda: submission.payload.data}

    @property
    def default_image(self) -> str | None:
        """The image that kubefunc chose, as nobody has set one; None where somebody has, or that is not known."""
        return self.options.resolved_image if self._was_sent_from_here and self.options.image is None else None

    @property
    def _was_sent_from_here(self) -> bool:
        """The options of an attached call are not known."""
        return self.submission is not None

    @property
    def will_be_deleted(self) -> bool:
        """Whether its Job is about to be."""
        return self.delete_wanted

    def parts(self) -> list[Attempt]:
        """All that news of the Job may concern: a map has a part for each chunk that runs."""
        return [self]

    def of_index(self, index: int | None) -> Attempt | None:
        """Whom news of a Pod with this index concerns."""
        return self

    def shown_by(self, finding: Finding) -> Attempt:
        """The part of it whose Pod shows this finding: its output and name belong in the error."""
        return self

    def living_part(self, index: int) -> Attempt | None:
        """Of a map, the chunk with this index, where it has a Pod and has not ended."""
        return None

    def releases(self, pod: str, envelope: Envelope, receipt: Receipt) -> bool:
        """Whether this Pod may go, now that its result is here."""
        return not self.stays

    @property
    def is_hurried(self) -> bool:
        """Whether a chunk's outcomes are waited for from its courier's start on, as a call's result is by express."""
        return False

    @property
    def is_gradual(self) -> bool:
        """Whether outcomes come one after another. An only one comes with the Pod's end, and a stream costs CPU."""
        return False

    def without_end(self) -> list[Attempt]:
        """When the Job is over: those parts that have neither a result nor an explanation."""
        return [] if self.over or self.ended_pod is not None else [self]

    def index_failed(self, job: Job) -> bool:
        """Whether the Job has given this part of it up."""
        return False

    def saw(self, job: Job) -> None:
        """News of the Job."""
        self.job_seen = job
        if (job.failed or job.complete) and not self.finished_since:
            self.finished_since = time.monotonic()

    def move(self, pod: Pod) -> None:
        """Tell the call where it is, when that has changed."""
        self.move_to(pod.where, pod)

    def move_to(self, where: Phase, pod: Pod) -> None:
        """The same, by other news than the Pod's status."""
        if where is self.where:
            return
        log.info("%s: %s -> %s (Pod %s, node %s)", self.job, self.where.value, where.value, pod.name, pod.node)
        self.where = where
        if where is Phase.RUNNING:
            self.running_since = time.monotonic()
        if where is Phase.STARTING:  # it may have waited for its node: what the node says of it comes now
            self.pod_since = time.monotonic()
        self.sink.moved(Whereabouts(where, "", pod.name, pod.node, self.namespace))

    def wait_for_another_pod(self, why: str) -> None:
        """The Pod that counted is no more; the Job controller makes the next one."""
        log.info("%s: %s -> %s (%s)", self.job, self.where.value, Phase.PENDING.value, why)
        self.where = Phase.PENDING
        self.ended_pod = None
        self.exec_given_up, self.log_misses = False, 0
        self.running_since = self.deleting_since = self.ended_since = 0.0
        self.pod_since = time.monotonic()
        self.sink.moved(Whereabouts(Phase.PENDING, why))

    def write_off(self, pod: Pod) -> None:
        """This Pod leaves no result, and its Job makes another."""
        with self.lock:
            self.written_off.add(pod.uid)
            self.vanished = pod
            self.pods.pop(pod.uid, None)
            self.wait_for_another_pod(REPLACED)

    def write_off_ended(self) -> None:
        """The Pod whose result has come, and is not all of it; it may not be known yet that it has ended."""
        with self.lock:
            known = [pod for pod in self.pods.values() if pod.name == self.receipt_pod]
            ended = self.ended_pod or (known[0] if known else None)
            if ended is not None:
                self.write_off(ended)

    def found(self, finding: Finding | None) -> None:
        """Remember why it does not go on, and since when."""
        finding = sharper(self.finding, finding)
        if finding is not None and not finding.same_as(self.finding):
            self.finding_since = time.monotonic()
        self.finding = finding

    def diagnosis(self, log_tail: tuple[str, ...] = ()) -> Diagnosis:
        pod = self.pod() or self.vanished
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


def guarded(attempt: Attempt, fail: Callable[[Attempt, Finding], None], work: Callable[[], None]) -> None:
    """Do this for one attempt. Whatever it raises ends that attempt: not the thread, which serves all of them."""
    try:
        work()
    except Exception as error:  # noqa: BLE001 - as above
        fail(attempt, fault(error))
