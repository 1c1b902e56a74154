"""One attempt of one call on the cluster: what is known of it and what is under way.

How an attempt goes on, and the transitions that take it there::

    submitting
        |  Secrets and Job are made          objects.were_created
        v
    pending <-------------------------------------------------------+
        |  a Pod has a node                  pods.saw               |
        v                                                           |
    starting                                                        |
        |  main runs, or the outcomes        pods.saw,              |
        v  of a chunk come already           move_to                |
    running ----------------------------------------------------->  |
        |  main has ended, with a result     pods.main_ended        |  replaced: the Pod is gone (pods.lost)
        v  or an explanation                                        |  or leaves no result and is written off
    fetching -----------------------------------------------------> +  (write_off); the Job makes another one
        |  by status, exec or log            fetch.use, ...
        v
    over       from each phase, once: claim() is True for the one who delivers the result, fails or cancels it.
        |      A chunk whose Pod has failed, and is replaced, is reopened and pending again.
        |  its Job is not kept               objects.want_deleted
        v
    deleted    as soon as nothing of the creation is under way (objects.settle): objects.were_deleted

Phases may be skipped: a Pod's first news may be that its ``main`` has ended. What keeps an attempt in one of the first
three is told by ``waiting.found``; the Job's end without a result (``job_news``) is an end in each of them.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kubefunc.backends.base import Submission, Whereabouts
from kubefunc.backends.kubernetes.attempts.cargo import Cargo, cargo_of, files_of
from kubefunc.backends.kubernetes.attempts.fetch import Fetch
from kubefunc.backends.kubernetes.attempts.items import ItemsSink
from kubefunc.backends.kubernetes.attempts.job_objects import JobObjects
from kubefunc.backends.kubernetes.attempts.output import BroughtFiles, Output
from kubefunc.backends.kubernetes.attempts.pods import JobNews, Pods, Progress
from kubefunc.backends.kubernetes.attempts.receipt import CallReceipt, Receipt
from kubefunc.backends.kubernetes.attempts.waiting import Waiting
from kubefunc.backends.kubernetes.diagnose.finding import Finding, fault
from kubefunc.backends.kubernetes.objects.demands import NOTHING, Demands
from kubefunc.backends.kubernetes.objects.views import Job, Pod
from kubefunc.diagnosis import Diagnosis, Phase
from kubefunc.envelope import Envelope
from kubefunc.options import Options
from kubefunc.packing.sent_files import SentFile
from kubefunc.runner import PLAIN_HEADER, PLAIN_LIMIT

if TYPE_CHECKING:
    from kubefunc.stream_values import StreamValues

log = logging.getLogger("kubefunc.kubernetes.attempts")

REPLACED = "its Pod was ended from outside, another takes its place"


@dataclass(eq=False)
class Attempt:
    """What one attempt is and the structs of its state. ``lock`` guards every decision that must be taken once.

    Each struct changes by its own methods only, which are called under the lock where two threads may decide.

    Attributes:
        job: the Job's name.
        submission: what was sent; None for an attached call.
        stays: never acknowledged, never deleted by us: detached and attached calls.
        demands: what of its namespace's demands its Job meets.
        over: it has its end, or is being given it.
        output: that of the Pod that was followed last.
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
    demands: Demands = NOTHING
    lock: threading.RLock = field(default_factory=threading.RLock)
    over: bool = False

    objects: JobObjects = field(default_factory=JobObjects)
    progress: Progress = field(default_factory=Progress)
    pods: Pods = field(default_factory=Pods)
    job_news: JobNews = field(default_factory=JobNews)
    waiting: Waiting = field(default_factory=Waiting)
    fetch: Fetch = field(default_factory=Fetch)
    output: Output | None = None
    brought: BroughtFiles = field(default_factory=BroughtFiles)

    def claim(self) -> bool:
        """True for the one who may end this attempt."""
        with self.lock:
            if self.over:
                return False
            log.info("%s: %s -> over", self.job, self.progress.phase.value)
            self.over = True
            return True

    def reopen(self) -> None:
        """The end that was claimed was that of one Pod: another one goes on."""
        self.over = False

    def output_of(self, pod: str) -> Output:
        """How far this Pod's output was passed on. A replacement prints from its own beginning."""
        with self.lock:
            if self.output is None or self.output.pod != pod:
                self.output = Output(pod)
            return self.output

    def receipt_of(self, pod: str) -> Receipt:
        """What has come of this Pod's result: a stream that was cut is resumed there."""
        with self.lock:
            return self.fetch.receipt_of(pod, self.new_receipt)

    def new_receipt(self) -> Receipt:
        """For a result that has not begun to come."""
        return CallReceipt(self.key, self.call, self.result_limit)

    @property
    def result_limit(self) -> float:
        """How many bytes its result may have in this program."""
        return PLAIN_LIMIT + PLAIN_HEADER if self.options.untrusted else math.inf

    def cargo(self, pod: str) -> Cargo:
        """What must be brought to this Pod by its courier: files by name."""
        submission = self.submission
        return {} if submission is None else cargo_of(submission)

    def files(self) -> Mapping[str, SentFile]:
        """The files of the arguments that its Pods need, by name."""
        return {} if self.submission is None else files_of(self.submission, None)

    @property
    def values(self) -> StreamValues | None:
        """Of a generator function, where its values go."""
        return None if self.submission is None else self.submission.values

    @property
    def awaits_values(self) -> bool:
        """Whether a stream brings values from its Pod, or will: the result comes after them."""
        return self.values is not None and not self.over and not self.fetch.values_over

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
        return self.objects.delete_wanted

    def parts(self) -> list[Attempt]:
        """All that news of the Job may concern: a map has a part for each chunk that runs."""
        return [self]

    def of_index(self, index: int | None) -> Attempt | None:
        """The attempt that an event of a Pod with this index affects."""
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
        """Whether outcomes come one after another. A single result is cheaper to read when the Pod ends."""
        return False

    def without_end(self) -> list[Attempt]:
        """When the Job is over: those parts that have neither a result nor an explanation."""
        return [] if self.over or self.pods.ended is not None else [self]

    def index_failed(self, job: Job) -> bool:
        """Whether the Job has given this part of it up."""
        return False

    def saw(self, job: Job) -> None:
        """News of the Job."""
        self.job_news.saw(job)

    def move(self, pod: Pod) -> None:
        """Tell the call where it is, when that has changed."""
        self.move_to(pod.where, pod)

    def move_to(self, where: Phase, pod: Pod) -> None:
        """The same, by other news than the Pod's status."""
        known = self.progress.phase
        if where is known:
            return
        log.info("%s: %s -> %s (Pod %s, node %s)", self.job, known.value, where.value, pod.name, pod.node)
        self.progress.reach(where)
        if where is Phase.STARTING:
            self.pods.got_node()
        self.sink.moved(Whereabouts(where, "", pod.name, pod.node, self.namespace))

    def wait_for_another_pod(self, why: str) -> None:
        """The Pod that counted is no more; the Job controller makes the next one."""
        log.info("%s: %s -> %s (%s)", self.job, self.progress.phase.value, Phase.PENDING.value, why)
        self.progress.go_back()
        self.pods.wait_for_another()
        self.fetch.start_over()
        if self.values is None or not self.values.received:  # else this is its end: its values would come twice
            self.sink.moved(Whereabouts(Phase.PENDING, why))

    def write_off(self, pod: Pod) -> None:
        """This Pod leaves no result, and its Job makes another."""
        with self.lock:
            self.pods.write_off(pod)
            self.wait_for_another_pod(REPLACED)

    def write_off_ended(self) -> None:
        """The Pod whose result has come, and is not all of it; it may not be known yet that it has ended."""
        with self.lock:
            ended = self.pods.ended or self.pods.named(self.fetch.receipt_pod)
            if ended is not None:
                self.write_off(ended)

    def diagnosis(self, log_tail: tuple[str, ...] = ()) -> Diagnosis:
        pod = self.pods.current() or self.pods.vanished
        return Diagnosis(
            reason="",
            message="",
            phase=self.progress.phase,
            call=self.call,
            namespace=self.namespace,
            pod=pod.name if pod else None,
            node=pod.node if pod else None,
            events=self.waiting.warnings,
            log_tail=log_tail,
        )


def guarded(attempt: Attempt, fail: Callable[[Attempt, Finding], None], work: Callable[[], None]) -> None:
    """Do this for one attempt. Whatever it raises ends that attempt: not the thread, which serves all of them."""
    try:
        work()
    except Exception as error:  # noqa: BLE001 - as above
        fail(attempt, fault(error))
