"""Fetching results and output: express, termination message, exec, the courier's log, in this order."""

from __future__ import annotations

import binascii
import threading
import time
from collections.abc import Callable

from kubefunc.backends.kubernetes import explain
from kubefunc.backends.kubernetes.api import Api, ApiError, ConnectionFailed
from kubefunc.backends.kubernetes.flight import Flight
from kubefunc.backends.kubernetes.transport import (
    ExecRefused,
    Outcome,
    ResultBuffer,
    ResultStream,
    TransportError,
)
from kubefunc.backends.kubernetes.workers import Workers
from kubefunc.envelope import Envelope, verify
from kubefunc.errors import ResultCorruptedError
from kubefunc.runner import (
    ARCHIVE,
    COURIER,
    IN_DIR,
    LOG_HEAD,
    LOG_LIMIT,
    LOG_TAIL,
    MAIN,
    TERMINATION_SIZE,
    wire,
)

STREAMS = 14
FOLLOWERS = 10
COLLECTORS = 2
GIVE_WAY = 3.0  # seconds without a first byte after which an express stream yields to one that waits
GIVE_UP = 30.0  # and after which it ends in any case: Pod status will tell
FETCH_TRIES = 5
READER = ("python3", "-I", "-S", "-E", f"{IN_DIR}/{ARCHIVE}", "reader")
Ended = Callable[[Flight, "explain.Finding | None"], None]


class Collector:
    """Gets envelopes and output out of Pods. ``ended`` is told of each flight once: delivered, or why not."""

    def __init__(self, api: Api, ended: Ended) -> None:
        self._api = api
        self._ended = ended
        self.streams = Workers("kubefunc-streams", STREAMS, newest_first=True)
        self._followers = Workers("kubefunc-logs", FOLLOWERS)
        self._collectors = Workers("kubefunc-collect", COLLECTORS)
        self._express: set[Flight] = set()
        self._lock = threading.Lock()
        self.exec_refused = False

    def drain(self, timeout: float) -> None:
        self._collectors.drain(timeout)

    # -- express

    def express(self, flight: Flight, pod: str) -> None:
        """Ask the courier before the kubelet has told of the Pod's end. Only a valid envelope is news."""
        with flight.lock:
            if flight.stream_since:
                return
            flight.stream_since = time.monotonic()
        self.streams.do(lambda: self._ride(flight, pod))

    def _ride(self, flight: Flight, pod: str) -> None:
        if flight.over or flight.ended_pod is not None:
            return
        stream = ResultStream(self._api, flight.namespace, pod, (*READER, "0"))
        with flight.lock:
            flight.stream = stream
            flight.stream_since = time.monotonic()
        with self._lock:
            self._express.add(flight)
        try:
            self._take(flight, stream, ResultBuffer())
        finally:
            with self._lock:
                self._express.discard(flight)
            with flight.lock:
                flight.stream = None
                flight.flowing = False
                waiting = flight.ended_pod is not None and not flight.over
            if waiting:
                self.collect(flight)

    def _take(self, flight: Flight, stream: ResultStream, buffer: ResultBuffer) -> bool:
        """Receive, check, deliver, acknowledge. False: nothing came of it, whatever the reason."""

        def flowing() -> None:
            flight.flowing = True

        try:
            with stream:
                if stream.receive(buffer, flowing) is not Outcome.RESULT:
                    return False
                envelope = verify(buffer.data, flight.key, flight.call)
                if not self._deliver(flight, envelope):
                    return False
                if not flight.stays:
                    stream.ack()
        except ExecRefused:
            self.exec_refused = True
            return flight.over
        except (TransportError, ApiError, ConnectionFailed, ResultCorruptedError):
            return flight.over
        return True

    def make_way(self) -> None:
        """Close express streams that wait while others do, or that have waited long."""
        now = time.monotonic()
        limit = GIVE_WAY if self.streams.backlog else GIVE_UP
        with self._lock:
            slow = [f for f in self._express if not f.flowing and now - f.stream_since > limit]
        for flight in slow:
            stream = flight.stream
            if stream is not None:
                stream.close()

    # -- by Pod status

    def collect(self, flight: Flight) -> None:
        """``main`` has ended, says the Pod's status: get what it left, unless its bytes flow already."""
        with flight.lock:
            if flight.over or flight.collecting:
                return
            flight.collecting = True
        self._collectors.do(lambda: self._collect(flight))

    def _collect(self, flight: Flight) -> None:
        envelope = self._from_status(flight)
        if envelope is not None:
            self._deliver(flight, envelope)
            return
        pod = flight.ended_pod
        if pod is None or pod.main.reason == "OOMKilled" or not pod.main.message.startswith("kubefunc:"):
            finding = explain.main_trouble(pod) if pod is not None else None
            if finding is not None and finding.reason != "ResultLost":
                self._give_up(flight, finding)
                return
        with flight.lock:
            flight.collecting = not (flight.stream is not None and flight.flowing)
        if flight.collecting:
            self.streams.do(lambda: self._fetch(flight))

    def _from_status(self, flight: Flight) -> Envelope | None:
        pod = flight.ended_pod
        data = wire.from_termination_text(pod.main.message) if pod is not None else None
        if data is None:
            return None
        try:
            return verify(data, flight.key, flight.call)
        except ResultCorruptedError:
            return None

    def _fetch(self, flight: Flight) -> None:
        """By exec, resumed where it was cut; then from the courier's log."""
        buffer = ResultBuffer()
        for _ in range(FETCH_TRIES):
            pod = flight.ended_pod
            if flight.over or pod is None:
                return
            if self.exec_refused or pod.courier.state == "terminated":
                break
            stream = ResultStream(self._api, flight.namespace, pod.name, (*READER, str(buffer.received)))
            with flight.lock:
                flight.stream = stream
            try:
                if self._take(flight, stream, buffer):
                    return
            finally:
                flight.stream = None
            if buffer.complete:
                buffer = ResultBuffer()  # whole, and wrong
            time.sleep(0.3)
        self._from_courier_log(flight)

    def _from_courier_log(self, flight: Flight) -> None:
        pod = flight.ended_pod
        if pod is None or flight.over:
            return
        finding = explain.main_trouble(pod)
        too_large = announced_size(pod.main.message) > LOG_LIMIT or not flight.options.results_in_log
        if self.exec_refused and too_large:
            self._give_up(flight, explain.needs_exec(pod))
            return
        wait_until = time.monotonic() + flight.options.fetch_grace + 10
        while time.monotonic() < wait_until and not flight.over:
            current = flight.ended_pod
            if current is None or current.courier.state == "terminated" or current.phase in ("Succeeded", "Failed"):
                break
            time.sleep(0.25)
        data = envelope_in_log(self._read_log(flight, pod.name, COURIER))
        if data is not None:
            try:
                self._deliver(flight, verify(data, flight.key, flight.call))
                return
            except ResultCorruptedError as error:
                if not flight.over:
                    self._give_up(flight, explain.corrupted(pod, str(error)))
                return
        if finding is not None:
            self._give_up(flight, finding)

    def _give_up(self, flight: Flight, finding: explain.Finding) -> None:
        self._ended(flight, finding)

    # -- delivering

    def _deliver(self, flight: Flight, envelope: Envelope) -> bool:
        if not flight.claim():
            return False
        self._finish_output(flight, envelope)
        flight.sink.deliver(envelope)
        self._ended(flight, None)
        return True

    def _finish_output(self, flight: Flight, envelope: Envelope) -> None:
        """Hand over what was printed and not followed, before the result: nobody expects it after."""
        with flight.lock:
            follower, flight.follower = flight.follower, None
            flight.following = True  # no new one
            missing = envelope.printed - flight.followed
        if follower is not None:
            follower.close()
        if missing <= 0:
            return
        tail = envelope.output or b""
        if missing > len(tail):
            pod = flight.pod()
            tail = self._read_log(flight, pod.name, MAIN) if pod is not None else tail
        flight.sink.output(tail[-missing:])

    # -- output

    def follow(self, flight: Flight, pod: explain.Pod) -> None:
        """Show live what a call prints, where a follower is free."""
        with flight.lock:
            if flight.following or not self._followers.has_room:
                return
            flight.following = True
        self._followers.do(lambda: self._follow(flight, pod))

    def _follow(self, flight: Flight, pod: explain.Pod) -> None:
        path = f"/api/v1/namespaces/{flight.namespace}/pods/{pod.name}/log"
        stream = self._api.stream_bytes(path, {"container": MAIN, "follow": "true"}, idle_timeout=4 * 3600.0)
        with flight.lock:
            if flight.over:
                return
            flight.follower = stream
        skip = flight.followed
        try:
            with stream:
                for data in stream:
                    skip = self._pass_on(flight, stream, data, skip)
        except (ApiError, ConnectionFailed):
            with flight.lock:
                flight.following = flight.over  # the next tick may try again; what was shown is skipped then

    def _pass_on(self, flight: Flight, stream: object, data: bytes, skip: int) -> int:
        new = data[skip:]
        with flight.lock:
            if flight.follower is stream and new:
                flight.followed += len(new)
                flight.sink.output(new)
        return max(0, skip - len(data))

    def log_tail(self, flight: Flight) -> tuple[str, ...]:
        """The last lines that the function printed, for an error."""
        pod = flight.pod()
        if pod is None or pod.main.state not in ("running", "terminated"):
            return ()
        return tuple(self._read_log(flight, pod.name, MAIN, tail=20).decode("utf-8", "replace").splitlines())

    def _read_log(self, flight: Flight, pod: str, container: str, tail: int | None = None) -> bytes:
        path = f"/api/v1/namespaces/{flight.namespace}/pods/{pod}/log"
        query = {"container": container, **({} if tail is None else {"tailLines": str(tail)})}
        try:
            return self._api.read_bytes(path, query=query, deadline=5.0)
        except (ApiError, ConnectionFailed):
            return b""

    def release(self, flight: Flight) -> None:
        """Nobody waits for this flight any more."""
        with flight.lock:
            stream = None if flight.flowing else flight.stream
            follower, flight.follower = flight.follower, None
        for each in (stream, follower):
            if each is not None:
                each.close()


def announced_size(message: str) -> int:
    """The result's size that a termination message names, or 0."""
    if not message.startswith(TERMINATION_SIZE):
        return 0
    text = message[len(TERMINATION_SIZE) :].partition(":")[0]
    return int(text) if text.isdigit() else 0


def envelope_in_log(log: bytes) -> bytes | None:
    """The envelope that a courier left in its log, or None where it is not there whole."""
    lines = log.decode("ascii", "replace").splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith(LOG_HEAD)]
    if not starts or LOG_TAIL not in lines[starts[-1] :]:
        return None
    start = starts[-1]
    try:
        data = b"".join(binascii.a2b_base64(line) for line in lines[start + 1 : lines.index(LOG_TAIL, start)])
    except binascii.Error:
        return None
    return data if str(len(data)) == lines[start][len(LOG_HEAD) :] else None
