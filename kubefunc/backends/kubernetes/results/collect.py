"""Getting results out of Pods: express, termination message, exec, the courier's log, in this order.

Every step is decided anew from what is known (:meth:`Collector.collect`), and whoever learns something asks for that:
the watch of Pods, a stream that has ended, the clock. So no news can be lost between two of them.
"""

from __future__ import annotations

import binascii
import enum
import threading
import time
from collections.abc import Callable

from kubefunc.backends.kubernetes.api.errors import UNUSABLE
from kubefunc.backends.kubernetes.api.exec_errors import ExecRefused, StreamGarbled, TransportError
from kubefunc.backends.kubernetes.api.permission import ExecPermission
from kubefunc.backends.kubernetes.api.requests import Api, ApiError, ConnectionFailed
from kubefunc.backends.kubernetes.api.transfer import ResultStream
from kubefunc.backends.kubernetes.attempts.attempt import Flight, guarded
from kubefunc.backends.kubernetes.attempts.map_attempt import HeldPod
from kubefunc.backends.kubernetes.attempts.receipt import Receipt
from kubefunc.backends.kubernetes.diagnose import ending
from kubefunc.backends.kubernetes.diagnose.finding import Finding
from kubefunc.backends.kubernetes.objects.fields import whole_number
from kubefunc.backends.kubernetes.objects.views import Pod
from kubefunc.backends.kubernetes.results.output import Outputs, log_path
from kubefunc.backends.kubernetes.threads import Workers
from kubefunc.envelope import Envelope
from kubefunc.errors import ResultCorruptedError
from kubefunc.runner import CHUNK, COURIER, EXIT_VALUE, LOG_HEAD, LOG_LIMIT, LOG_TAIL, TERMINATION_SIZE
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
LOG_MISSES = 3


class Taken(enum.Enum):
    """What came of one stream."""

    DELIVERED = "delivered"
    NOTHING = "the reader has no result"
    DAMAGED = "what came is not what was written"
    CUT = "the stream ended early"


class Collector:
    """Brings each flight to its end once: ``done(flight, envelope)`` after delivery, or ``fail(flight, why)``."""

    def __init__(
        self,
        api: Api,
        outputs: Outputs,
        permission: ExecPermission,
        done: Callable[[Flight, Envelope], None],
        fail: Callable[[Flight, Finding], None],
    ) -> None:
        self._api = api
        self._outputs = outputs
        self._permission = permission
        self._done = done
        self._fail = fail
        self.streams = Workers("kubefunc-streams", STREAMS, newest_first=True)
        self._collectors = Workers("kubefunc-collect", COLLECTORS)
        self._express: set[Flight] = set()
        self._live: set[Flight] = set()
        self._acknowledging: set[Flight] = set()
        self._next_live = 0.0
        self._lock = threading.RLock()

    # -- express

    def is_express(self, flight: Flight) -> bool:
        """Whether a stream may wait at this flight's courier before its ``main`` has ended."""
        options = flight.options
        return options.express and not flight.stays and not self._permission.is_refused(flight.namespace)

    def express(self, flight: Flight, pod: str) -> None:
        """Ask the courier before the kubelet has told of the Pod's end. Only a valid envelope is news."""
        with flight.lock:
            if pod in flight.asked or flight.over or flight.ended_pod is not None:
                return
            flight.asked.add(pod)
        asked_at = time.monotonic()
        self._stream_for(flight, lambda: self._ride(flight, pod, asked_at))

    def _ride(self, flight: Flight, pod: str, asked_at: float) -> None:
        stream = self._stream(flight, pod)
        with flight.lock:
            late = time.monotonic() - asked_at > STALE
            if late or flight.over or flight.ended_pod is not None or flight.stream is not None:
                return
            flight.stream, flight.stream_since, flight.flowing = stream, time.monotonic(), False
        with self._lock:
            self._express.add(flight)
        try:
            self._take(flight, stream, pod)
        finally:
            with self._lock:
                self._express.discard(flight)
            with flight.lock:
                flight.stream = None
            self.collect(flight)

    def _stream_for(self, flight: Flight, work: Callable[[], None]) -> None:
        self.streams.do(lambda: guarded(flight, self._fail, work))

    # -- chunks while they run

    def follow(self, flight: Flight, pod: str) -> None:
        """Take a chunk's outcomes as they come, where a stream is free; else its Pod's end is early enough."""
        now = time.monotonic()
        if flight.live_again_at > now or self._permission.is_refused(flight.namespace):
            return
        with self._lock:
            if flight in self._live or len(self._live) >= LIVE_STREAMS or now < self._next_live:
                return
            self._next_live = max(self._next_live + LIVE_EVERY, now - LIVE_BURST)
            self._live.add(flight)
        self._stream_for(flight, lambda: self._follow(flight, pod))

    def _follow(self, flight: Flight, pod: str) -> None:
        stream = self._stream(flight, pod)
        try:
            with flight.lock:
                if flight.over or flight.ended_pod is not None or flight.stream is not None:
                    return
                flight.stream, flight.stream_since, flight.flowing = stream, time.monotonic(), False
            self._take(flight, stream, pod)
        finally:
            with self._lock:
                self._live.discard(flight)
            with flight.lock:
                if flight.stream is stream:  # else another has it: the Pod has ended before it was our turn
                    flight.stream = None
                flight.live_again_at = time.monotonic() + LIVE_AGAIN
            self.collect(flight)

    def make_way(self) -> None:
        """Close express streams that wait while others do, or that have waited long."""
        now = time.monotonic()
        limit = GIVE_WAY if self.streams.backlog else GIVE_UP
        with self._lock:
            waiting = [flight for flight in self._express if not flight.flowing]
        for flight in waiting:
            ended = flight.ended_since
            if now - flight.stream_since > limit or (ended and now - ended > GIVE_UP_ENDED):
                stream = flight.stream
                if stream is not None:
                    stream.close()

    # -- the next step

    def collect(self, flight: Flight) -> None:
        """Do what is to be done next for a flight whose ``main`` has ended; nothing where that is under way."""
        with flight.lock:
            if flight.over or flight.ended_pod is None or flight.fetching:
                return
            if flight.looking:
                flight.look_again = True
                return
            flight.looking = True
        self._collectors.do(lambda: guarded(flight, self._fail, lambda: self._look(flight)))

    def _look(self, flight: Flight) -> None:
        try:
            self._next_step(flight)
        finally:
            with flight.lock:
                again, flight.look_again = flight.look_again, False
                flight.looking = False
        if again:
            self.collect(flight)

    def _next_step(self, flight: Flight) -> None:
        pod = flight.ended_pod
        if pod is None or flight.over:
            return
        envelope = self._from_status(flight, pod)
        if envelope is not None:
            self.deliver(flight, envelope)
            return
        died = None if pod.has_result else ending.main_trouble(pod)
        if died is not None and died.reason != "ResultLost":
            self._fail(flight, died)
            return
        with flight.lock:
            if flight.stream is not None:
                return  # express is there; its end asks again
            flight.fetching = self._may_fetch(flight, pod)
        if flight.fetching:
            self._stream_for(flight, lambda: self._fetch(flight))
            return
        self._without_exec(flight, pod)

    def _from_status(self, flight: Flight, pod: Pod) -> Envelope | None:
        data = wire.from_termination_text(pod.main.message)
        if data is None:
            return None
        try:
            return flight.new_receipt().whole(data)
        except ResultCorruptedError:
            return None

    # -- by exec

    def _may_fetch(self, flight: Flight, pod: Pod) -> bool:
        return not (
            flight.exec_given_up or pod.courier.state == "terminated" or self._permission.is_refused(flight.namespace)
        )

    def _fetch(self, flight: Flight) -> None:
        try:
            flight.exec_given_up = not self._fetch_patiently(flight)
        finally:
            with flight.lock:
                flight.fetching = False
            self.collect(flight)

    def _fetch_patiently(self, flight: Flight) -> bool:
        """Stream after stream, resumed where the last was cut. False: nothing more is to be had this way."""
        until = time.monotonic() + PATIENCE
        damaged, pause = 0, 0.1
        while (pod := flight.ended_pod) is not None and not flight.over and self._may_fetch(flight, pod):
            received = flight.receipt_of(pod.name).received
            taken = self._fetch_once(flight, pod.name)
            if taken is Taken.DELIVERED:
                return True
            damaged += taken is Taken.DAMAGED
            if damaged == DAMAGED_LIMIT and flight.damage is not None:
                self._fail(flight, ending.corrupted(flight.damage))  # its log would come from the same file
                return True
            if taken is Taken.NOTHING or damaged == DAMAGED_LIMIT:
                return False
            if flight.receipt_of(pod.name).received > received:
                until, pause = time.monotonic() + PATIENCE, 0.1
            if time.monotonic() > until:
                return False
            time.sleep(pause)
            pause = min(2.0, 2 * pause)
        return True

    def _fetch_once(self, flight: Flight, pod: str) -> Taken:
        stream = self._stream(flight, pod)
        with flight.lock:
            if flight.over:
                return Taken.DELIVERED
            flight.stream, flight.stream_since, flight.flowing = stream, time.monotonic(), False
        try:
            return self._take(flight, stream, pod)
        finally:
            with flight.lock:
                flight.stream = None

    def _stream(self, flight: Flight, pod: str) -> ResultStream:
        return flight.receipt_of(pod).stream(self._api, flight.namespace, pod)

    def _take(self, flight: Flight, stream: ResultStream, pod: str) -> Taken:
        """Receive, check, deliver, acknowledge."""

        def flowing() -> None:
            flight.flowing = True

        receipt = flight.receipt_of(pod)
        try:
            with stream:
                envelope = receipt.receive(stream, flowing)
                if envelope is None:
                    return Taken.NOTHING
                with flight.lock:
                    flight.stream = None  # it is needed for one word more: nobody may close it now
                self._deliver_and_acknowledge(flight, envelope, stream, pod, receipt)
                return Taken.DELIVERED
        except (ResultCorruptedError, StreamGarbled) as error:
            flight.forget_receipt()
            flight.damage = error if isinstance(error, ResultCorruptedError) else None
            return Taken.DAMAGED
        except ExecRefused:
            self._permission.refused(flight.namespace)
            return Taken.CUT
        except TransportError:
            return Taken.CUT

    def _deliver_and_acknowledge(
        self, flight: Flight, envelope: Envelope, stream: ResultStream, pod: str, receipt: Receipt
    ) -> None:
        with self._lock:
            self._acknowledging.add(flight)
        try:
            if self.deliver(flight, envelope) and flight.releases(pod, envelope, receipt):
                stream.ack()
        finally:
            with self._lock:
                self._acknowledging.discard(flight)

    @property
    def acknowledges(self) -> bool:
        """Whether a Pod is being told that its result has come: it is kept, and would wait for that."""
        with self._lock:
            return any(not flight.will_be_deleted for flight in self._acknowledging)

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

    # -- without exec

    def _without_exec(self, flight: Flight, pod: Pod) -> None:
        """The courier leaves a result that nobody fetched in its log, and ends: then it is read there."""
        broken = ending.courier_trouble(pod)
        if broken is not None:
            self._fail(flight, broken)
            return
        if pod.courier.state == "terminated" or pod.phase in ("Succeeded", "Failed"):
            self._from_courier_log(flight, pod)
            return
        large = announced_size(pod.main.message) > LOG_LIMIT or not flight.options.results_in_log
        if large and self._permission.is_refused(flight.namespace):
            self._fail(flight, ending.needs_exec(pod))
            return
        lost = ending.main_trouble(pod)
        if flight.exec_given_up and pod.courier.state != "running" and lost is not None:
            self._fail(flight, lost)  # a courier that has not started by now leaves nothing in its log

    def _from_courier_log(self, flight: Flight, pod: Pod) -> None:
        try:
            log = self._api.read_bytes(log_path(flight.namespace, pod.name), query={"container": COURIER})
        except (ConnectionFailed, *UNUSABLE):
            return  # the clock asks again
        except ApiError:
            log = b""
        data = envelope_in_log(log)
        if data is not None:
            self._deliver_from_log(flight, pod, data)
            return
        flight.log_misses += 1
        if flight.log_misses < LOG_MISSES:
            return
        lost = ending.main_trouble(pod)
        job = flight.job_seen
        if pod.courier.exit_code and pod.main.exit_code == EXIT_VALUE and not (job is not None and job.failed):
            flight.write_off(pod)  # the courier was killed: such a Pod has failed, and its Job runs another
        elif lost is not None:
            self._fail(flight, lost)
        else:
            flight.write_off(pod)  # ended from outside, in the middle of a chunk

    def _deliver_from_log(self, flight: Flight, pod: Pod, data: bytes) -> None:
        try:
            envelope = flight.new_receipt().whole(data)
        except ResultCorruptedError as error:
            self._fail(flight, ending.corrupted(error))
            return
        self.deliver(flight, envelope)

    # -- the end

    def deliver(self, flight: Flight, envelope: Envelope) -> bool:
        """Hand a result over, and before it what was printed. False where the flight had its end already."""
        if is_partial(envelope):
            flight.write_off_ended()  # its outcomes were taken; the Pod that replaces it runs the rest
            return True
        if not flight.claim():
            return False
        try:
            self._outputs.finish(flight, envelope)
        finally:  # the result counts more than what was printed before it
            flight.sink.deliver(envelope)
            self._done(flight, envelope)
        return True

    def release(self, flight: Flight) -> None:
        """Nobody waits for this flight any more."""
        with flight.lock:
            stream, flight.stream = flight.stream, None
            flight.forget_receipt()
        if stream is not None:
            stream.close()


def is_partial(envelope: Envelope) -> bool:
    """Whether this is what a chunk had when SIGTERM came."""
    return envelope.header["outcome"] == CHUNK and not envelope.header["complete"]


def announced_size(message: str) -> int:
    """The result's size that a termination message names, or 0."""
    if not message.startswith(TERMINATION_SIZE):
        return 0
    return whole_number(message[len(TERMINATION_SIZE) :].partition(":")[0]) or 0


def envelope_in_log(log: bytes) -> bytes | None:
    """The envelope that a courier left in its log, or None where it is not there whole."""
    lines = log.decode("ascii", "replace").splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith(LOG_HEAD)]
    if not starts or LOG_TAIL not in lines[starts[-1] :]:
        return None
    start = starts[-1]
    try:
        data = b"".join(binascii.a2b_base64(line) for line in lines[start + 1 : lines.index(LOG_TAIL, start)])
    except ValueError:  # binascii.Error, or what is not ASCII
        return None
    return data if str(len(data)) == lines[start][len(LOG_HEAD) :] else None
