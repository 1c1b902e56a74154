"""Getting results out of Pods: express, termination message, exec, the courier's log, in this order.

Every step is decided anew from what is known (:meth:`Collector.collect`), and each event asks for that:
the watch of Pods, a stream that has ended, the clock. So no news can be lost between two of them.
"""

from __future__ import annotations

import enum
import threading
import time
from collections.abc import Callable

from kubefunc.backends.kubernetes.api.exec_errors import ExecRefused, StreamGarbled, TransportError
from kubefunc.backends.kubernetes.api.permission import ExecPermission
from kubefunc.backends.kubernetes.api.requests import Api
from kubefunc.backends.kubernetes.api.transfer import ResultStream
from kubefunc.backends.kubernetes.attempts.attempt import Attempt, guarded
from kubefunc.backends.kubernetes.attempts.file_receipt import NotStoredHere
from kubefunc.backends.kubernetes.attempts.held import HeldPod
from kubefunc.backends.kubernetes.attempts.receipt import Receipt
from kubefunc.backends.kubernetes.diagnose import ending, files
from kubefunc.backends.kubernetes.diagnose.finding import Finding
from kubefunc.backends.kubernetes.objects.views import Pod
from kubefunc.backends.kubernetes.results.courier_log import CourierLog
from kubefunc.backends.kubernetes.results.output import Outputs
from kubefunc.backends.kubernetes.threads import Workers
from kubefunc.envelope import Envelope
from kubefunc.errors import ResultCorruptedError
from kubefunc.runner import CHUNK
from kubefunc.runner.protocol import wire

STREAMS = 14
COLLECTORS = 2
LIVE_STREAMS = 10  # that follow chunks for as long as these run; the others serve who is in a hurry
LIVE_EVERY = 0.25  # seconds from opening one to opening the next
LIVE_BURST = 1.0  # seconds' worth of them that may be opened at once
LIVE_AGAIN = 3.0  # seconds after which one that was cut is opened again
STALE = 2.0  # seconds after which a courier's start is no news: the Pod's status will be as fast
GIVE_WAY = 3.0  # seconds without a first byte after which an express stream yields to one that waits
GIVE_UP = 30.0  # and after which it ends in any case
GIVE_UP_ENDED = 1.0  # the same once main has ended: then the first byte is due
PATIENCE = 120.0  # seconds without a further byte after which a fetch turns to the log
DAMAGED_LIMIT = 3


class Taken(enum.Enum):
    """What came of one stream."""

    DELIVERED = "delivered"
    NOTHING = "the reader has no result"
    DAMAGED = "what came is not what was written"
    CUT = "the stream ended early"


class Collector:
    """Brings each attempt to its end once: ``done(attempt, envelope)`` after delivery, or ``fail(attempt, why)``."""

    def __init__(
        self,
        api: Api,
        outputs: Outputs,
        permission: ExecPermission,
        done: Callable[[Attempt, Envelope], None],
        fail: Callable[[Attempt, Finding], None],
    ) -> None:
        self._api = api
        self._outputs = outputs
        self._permission = permission
        self._done = done
        self._fail = fail
        self.streams = Workers("kubefunc-streams", STREAMS, newest_first=True)
        self._collectors = Workers("kubefunc-collect", COLLECTORS)
        self._express: set[Attempt] = set()
        self._live: set[Attempt] = set()
        self._acknowledging: set[Attempt] = set()
        self._next_live = 0.0
        self._lock = threading.RLock()
        self._log = CourierLog(api, permission, self.deliver, fail)

    # -- express

    def is_express(self, attempt: Attempt) -> bool:
        """Whether a stream may wait at this attempt's courier before its ``main`` has ended."""
        options = attempt.options
        may_wait = options.express and not attempt.stays and attempt.values is None
        return may_wait and not self._permission.is_refused(attempt.namespace)

    def express(self, attempt: Attempt, pod: str) -> None:
        """Ask the courier before the kubelet has told of the Pod's end. Only a valid envelope is news."""
        with attempt.lock:
            if attempt.over or attempt.pods.ended is not None or not attempt.fetch.ask(pod):
                return
        asked_at = time.monotonic()
        self._stream_for(attempt, lambda: self._ride(attempt, pod, asked_at))

    def _ride(self, attempt: Attempt, pod: str, asked_at: float) -> None:
        stream = self._stream(attempt, pod)
        with attempt.lock:
            late = time.monotonic() - asked_at > STALE
            if late or attempt.over or attempt.pods.ended is not None or attempt.fetch.stream is not None:
                return
            attempt.fetch.use(stream)
        with self._lock:
            self._express.add(attempt)
        try:
            self._take(attempt, stream, pod)
        finally:
            with self._lock:
                self._express.discard(attempt)
            with attempt.lock:
                attempt.fetch.drop_stream()
            self.collect(attempt)

    def _stream_for(self, attempt: Attempt, work: Callable[[], None]) -> None:
        self.streams.do(lambda: guarded(attempt, self._fail, work))

    # -- chunks while they run

    def follow(self, attempt: Attempt, pod: str) -> None:
        """Take a chunk's outcomes as they come, where a stream is free; else its Pod's end is early enough."""
        now = time.monotonic()
        if attempt.fetch.live_again_at > now or self._permission.is_refused(attempt.namespace):
            return
        with self._lock:
            if attempt in self._live or len(self._live) >= LIVE_STREAMS or now < self._next_live:
                return
            self._next_live = max(self._next_live + LIVE_EVERY, now - LIVE_BURST)
            self._live.add(attempt)
        self._stream_for(attempt, lambda: self._follow(attempt, pod))

    def _follow(self, attempt: Attempt, pod: str) -> None:
        stream = self._stream(attempt, pod)
        try:
            with attempt.lock:
                if attempt.over or attempt.pods.ended is not None or attempt.fetch.stream is not None:
                    return
                attempt.fetch.use(stream)
            self._take(attempt, stream, pod)
        finally:
            with self._lock:
                self._live.discard(attempt)
            with attempt.lock:
                if attempt.fetch.stream is stream:  # else another has it: the Pod has ended before it was our turn
                    attempt.fetch.drop_stream()
                attempt.fetch.rest_until(time.monotonic() + LIVE_AGAIN)
            self.collect(attempt)

    def make_way(self) -> None:
        """Close express streams that wait while others do, or that have waited long."""
        now = time.monotonic()
        limit = GIVE_WAY if self.streams.backlog else GIVE_UP
        with self._lock:
            waiting = [attempt for attempt in self._express if not attempt.fetch.flowing]
        for attempt in waiting:
            ended = attempt.pods.ended_since
            if now - attempt.fetch.stream_since > limit or (ended and now - ended > GIVE_UP_ENDED):
                stream = attempt.fetch.stream
                if stream is not None:
                    stream.close()

    # -- the next step

    def collect(self, attempt: Attempt) -> None:
        """Do what is to be done next for an attempt whose ``main`` has ended; nothing where that is under way."""
        with attempt.lock:
            if attempt.over or attempt.pods.ended is None or attempt.fetch.fetching:
                return
            if not attempt.fetch.begin_looking():
                return
        self._collectors.do(lambda: guarded(attempt, self._fail, lambda: self._look(attempt)))

    def _look(self, attempt: Attempt) -> None:
        try:
            self._next_step(attempt)
        finally:
            with attempt.lock:
                again = attempt.fetch.end_looking()
        if again:
            self.collect(attempt)

    def _next_step(self, attempt: Attempt) -> None:
        pod = attempt.pods.ended
        if pod is None or attempt.over or attempt.awaits_values:
            return
        envelope = self._from_status(attempt, pod)
        if envelope is not None:
            self.deliver(attempt, envelope)
            return
        died = None if pod.has_result else ending.main_trouble(pod)
        if died is not None and died.reason != "ResultLost":
            self._fail(attempt, died)
            return
        with attempt.lock:
            if attempt.fetch.stream is not None:
                return  # express is there; its end asks again
            may_fetch = self._may_fetch(attempt, pod)
            if may_fetch:
                attempt.fetch.begin_fetching()
        if may_fetch:
            self._stream_for(attempt, lambda: self._fetch(attempt))
            return
        self._log.read(attempt, pod)

    def _from_status(self, attempt: Attempt, pod: Pod) -> Envelope | None:
        data = wire.from_termination_text(pod.main.message)
        if data is None:
            return None
        try:
            return attempt.new_receipt().whole(data)
        except ResultCorruptedError:
            return None

    # -- by exec

    def _may_fetch(self, attempt: Attempt, pod: Pod) -> bool:
        return not (
            attempt.fetch.exec_given_up
            or pod.courier.state == "terminated"
            or self._permission.is_refused(attempt.namespace)
        )

    def _fetch(self, attempt: Attempt) -> None:
        try:
            if self._fetch_patiently(attempt):
                attempt.fetch.keep_exec()
            else:
                attempt.fetch.give_exec_up()
        finally:
            with attempt.lock:
                attempt.fetch.end_fetching()
            self.collect(attempt)

    def _fetch_patiently(self, attempt: Attempt) -> bool:
        """Stream after stream, resumed where the last was cut. False: nothing more is to be had this way."""
        until = time.monotonic() + PATIENCE
        damaged, pause = 0, 0.1
        while (pod := attempt.pods.ended) is not None and not attempt.over and self._may_fetch(attempt, pod):
            received = _progress(attempt.receipt_of(pod.name))
            taken = self._fetch_once(attempt, pod.name)
            if taken is Taken.DELIVERED:
                return True
            damaged += taken is Taken.DAMAGED
            if damaged == DAMAGED_LIMIT and attempt.fetch.damage is not None:
                self._fail(attempt, ending.corrupted(attempt.fetch.damage))  # its log would come from the same file
                return True
            if taken is Taken.NOTHING or damaged == DAMAGED_LIMIT:
                return False
            if _progress(attempt.receipt_of(pod.name)) > received:
                until, pause = time.monotonic() + PATIENCE, 0.1
            if time.monotonic() > until:
                return False
            time.sleep(pause)
            pause = min(2.0, 2 * pause)
        return True

    def _fetch_once(self, attempt: Attempt, pod: str) -> Taken:
        stream = self._stream(attempt, pod)
        with attempt.lock:
            if attempt.over:
                return Taken.DELIVERED
            attempt.fetch.use(stream)
        try:
            return self._take(attempt, stream, pod)
        finally:
            with attempt.lock:
                attempt.fetch.drop_stream()

    def _stream(self, attempt: Attempt, pod: str) -> ResultStream:
        return attempt.receipt_of(pod).stream(self._api, attempt.namespace, pod)

    def _take(self, attempt: Attempt, stream: ResultStream, pod: str) -> Taken:
        """Receive, check, deliver, acknowledge."""
        receipt = attempt.receipt_of(pod)
        try:
            with stream:
                envelope = receipt.receive(stream, attempt.fetch.flow)
                if envelope is None:
                    return Taken.NOTHING
                with attempt.lock:
                    attempt.fetch.drop_stream()  # it is needed for one word more: nobody may close it now
                self._deliver_and_acknowledge(attempt, envelope, stream, pod, receipt)
                return Taken.DELIVERED
        except (ResultCorruptedError, StreamGarbled) as error:
            with attempt.lock:
                attempt.fetch.forget_receipt()
            attempt.fetch.note_damage(error if isinstance(error, ResultCorruptedError) else None)
            return Taken.DAMAGED
        except NotStoredHere as error:
            self._fail(attempt, files.not_stored_here(str(error)))
            return Taken.CUT
        except ExecRefused:
            self._permission.refused(attempt.namespace)
            return Taken.CUT
        except TransportError:
            return Taken.CUT

    def _deliver_and_acknowledge(
        self, attempt: Attempt, envelope: Envelope, stream: ResultStream, pod: str, receipt: Receipt
    ) -> None:
        with self._lock:
            self._acknowledging.add(attempt)
        try:
            if self.deliver(attempt, envelope) and attempt.releases(pod, envelope, receipt):
                stream.ack()
        finally:
            with self._lock:
                self._acknowledging.discard(attempt)

    @property
    def acknowledges(self) -> bool:
        """Whether a Pod is being told that its result has come: it is kept, and would wait for that."""
        with self._lock:
            return any(not attempt.will_be_deleted for attempt in self._acknowledging)

    def let_go(self, namespace: str, held: HeldPod) -> None:
        """Tell a Pod that nobody needs its results any more; one that does not hear it ends after ``result_ttl``."""
        self.streams.do(lambda: self._let_go(namespace, held))

    def _let_go(self, namespace: str, held: HeldPod) -> None:
        stream = held.receipt.stream(self._api, namespace, held.name)
        try:
            with stream:
                if held.receipt.receive(stream, lambda: None) is not None:
                    stream.ack()
        except (ResultCorruptedError, TransportError):
            return

    # -- the end

    def deliver(self, attempt: Attempt, envelope: Envelope) -> bool:
        """Hand a result over, and before it what was printed. False where the attempt had its end already."""
        if is_partial(envelope):
            attempt.write_off_ended()  # its outcomes were taken; the Pod that replaces it runs the rest
            return True
        if not attempt.claim():
            return False
        try:
            self._outputs.finish(attempt, envelope)
        finally:  # the result counts more than what was printed before it
            attempt.sink.deliver(envelope)
            self._done(attempt, envelope)
        return True

    def release(self, attempt: Attempt) -> None:
        """Nobody waits for this attempt any more."""
        with attempt.lock:
            stream = attempt.fetch.drop_stream()
            attempt.fetch.forget_receipt()
        if stream is not None:
            stream.close()


def _progress(receipt: Receipt) -> int:
    """Bytes that have come."""
    return receipt.received + receipt.files.received


def is_partial(envelope: Envelope) -> bool:
    """Whether this is what a chunk had when SIGTERM came."""
    return envelope.header["outcome"] == CHUNK and not envelope.header["complete"]
