"""What functions print: followed while they run, completed when they end."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator

from kubefunc.backends.kubernetes.api.errors import TROUBLE
from kubefunc.backends.kubernetes.api.requests import Api, ApiError
from kubefunc.backends.kubernetes.attempts.attempt import Attempt
from kubefunc.backends.kubernetes.attempts.output import Output
from kubefunc.backends.kubernetes.objects.paths import log_path
from kubefunc.backends.kubernetes.objects.views import Pod
from kubefunc.backends.kubernetes.threads import Workers
from kubefunc.envelope import Envelope
from kubefunc.runner import MAIN
from kubefunc.transcript import TAIL_LINES, last_lines
from kubefunc.untrusted import printable_lines

FOLLOWERS = 10
FOLLOW_AGAIN = 2.0
READ_DEADLINE = 5.0
READ_AGAIN = 0.1
LATE = 2.0  # seconds that the log of what has just ended gets to have a line
STALLED = 5.0  # seconds without a byte after which the node is taken to have no more: it may be busy
MOST_READING = 30.0  # seconds that a result may be held back for what was printed before it
_IDLE = 4 * 3600.0  # the kubelet's own limit for a stream without a byte


class Outputs:
    """Logs, live for as many calls as there are followers; each byte is handed on once, in order."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._followers = Workers("kubefunc-logs", FOLLOWERS)

    def follow(self, attempt: Attempt, pod: Pod) -> None:
        """Show live what a call prints, where a follower is free."""
        output = attempt.output_of(pod.name)
        with output.lock:
            if not output.may_be_followed() or not self._followers.has_room:
                return
            output.begin_following()
        self._followers.do(lambda: self._follow(attempt, output))

    def _follow(self, attempt: Attempt, output: Output) -> None:
        stream = self._api.stream_bytes(
            log_path(attempt.namespace, output.pod), {"container": MAIN, "follow": "true"}, idle_timeout=_IDLE
        )
        with output.lock:
            if output.closed:
                return
            output.use(stream)
            skip = output.passed
        try:
            with stream:
                for data in printed(stream):
                    skip = _pass_on(attempt, output, data, skip)
        except TROUBLE:
            pass  # the next tick may try again, and skip what was shown
        with output.lock:
            output.end_following(FOLLOW_AGAIN)

    def finish(self, attempt: Attempt, envelope: Envelope) -> None:
        """Hand over what was printed and not followed, before the result: nobody expects it after."""
        pod = attempt.pods.current()
        if pod is None and envelope.output is None:
            return
        output = attempt.output_of(pod.name if pod is not None else "")
        _close(output)
        missing = envelope.printed - output.passed
        if missing > 0:
            attempt.sink.output(self._missing(attempt, output, envelope))

    def _missing(self, attempt: Attempt, output: Output, envelope: Envelope) -> bytes:
        tail = envelope.output or b""
        missing = envelope.printed - output.passed
        if missing <= len(tail):
            return tail[-missing:]
        log = self._log_of_at_least(envelope.printed - len(tail), attempt, output.pod)
        return assembled(log, tail, output.passed, envelope.printed)

    def _log_of_at_least(self, size: int, attempt: Attempt, pod: str) -> bytes:
        """The log, to at least so many bytes where the node has them.

        What a container printed last comes to its log some time after its end, and even a follower that was told of
        the end stops short of that. So a log that is too short is read again, until it has stopped growing. (In a
        container's first moments the kubelet does not know it, and the log is empty.)
        """
        log = b""
        begun = grown = time.monotonic()
        while True:
            newer = self._followed(size, attempt, pod)
            now = time.monotonic()
            if len(newer) > len(log):
                log, grown = newer, now
            if len(log) >= size or now - grown > STALLED or now - begun > MOST_READING:
                return log
            time.sleep(READ_AGAIN)

    def _followed(self, size: int, attempt: Attempt, pod: str) -> bytes:
        query = {"container": MAIN, "follow": "true"}
        until = time.monotonic() + MOST_READING
        log = bytearray()
        try:
            with self._api.stream_bytes(log_path(attempt.namespace, pod), query, idle_timeout=STALLED) as stream:
                for data in printed(stream):
                    log += data
                    if len(log) >= size or time.monotonic() > until:
                        break
        except TROUBLE:
            pass  # the result counts more than what was printed
        return bytes(log)

    def tail(self, attempt: Attempt, container: str) -> tuple[str, ...]:
        """The last lines that this container printed, for an error: from its log, or what was followed of it."""
        pod = attempt.pods.current()
        if pod is None or not _may_have_printed(pod, container):
            return ()
        data = self._log_tail(attempt, pod, container)
        if not data and container == MAIN:
            data = attempt.output_of(pod.name).recent  # after the log was asked for: the follower may have heard more
        lines = last_lines(data)
        return printable_lines(lines) if attempt.options.untrusted else lines

    def _log_tail(self, attempt: Attempt, pod: Pod, container: str) -> bytes:
        query = {"container": container, "tailLines": str(TAIL_LINES)}
        begins = _was_ended_by_the_kubelet(pod) and bool(pod.containers)  # without, it was not even let in
        comes_late = container != MAIN  # it has just ended, and its last lines may not be in its log yet
        until = time.monotonic() + (LATE if begins or comes_late else 0.0)
        path = log_path(attempt.namespace, pod.name)
        while True:
            try:
                data = b"".join(printed([self._api.read_bytes(path, query=query, deadline=READ_DEADLINE)]))
            except ApiError as error:
                if not error.not_started or time.monotonic() >= until:
                    return b""
            except TROUBLE:
                return b""
            else:
                if data or not comes_late or time.monotonic() >= until:
                    return data
            time.sleep(READ_AGAIN)

    def release(self, attempt: Attempt) -> None:
        """Nobody listens any more."""
        if attempt.output is not None:
            _close(attempt.output)


def _may_have_printed(pod: Pod, container: str) -> bool:
    """Whether it began. Where a Pod ends soon after its start, the kubelet may tell of both at once."""
    if (pod.phase == "Failed" and pod.node is not None) or _was_ended_by_the_kubelet(pod):
        return True
    return any(each.name == container and each.state in ("running", "terminated") for each in pod.containers)


def _was_ended_by_the_kubelet(pod: Pod) -> bool:
    """Then the kubelet tells of the end before it looks at the containers: they may be "waiting to start" in its
    status, and until it has looked it answers with these words (400) to a request for their log.
    """
    return pod.reason in ("Evicted", "DeadlineExceeded")


def _pass_on(attempt: Attempt, output: Output, data: bytes, skip: int) -> int:
    new = data[skip:]
    with output.lock:
        if new and not output.closed:
            output.pass_on(new)
            attempt.sink.output(new)
    return max(0, skip - len(data))


def _close(output: Output) -> None:
    with output.lock:
        stream = output.close()
    if stream is not None:
        stream.close()


def assembled(log: bytes, tail: bytes, passed: int, printed: int) -> bytes:
    """What was printed from byte ``passed`` on: from the log, and from the tail that came with the result.

    Where neither has a part of it, a line says so in its place.

    >>> assembled(b"abcdef", b"efgh", 2, 8)
    b'cdefgh'
    >>> assembled(b"abc", b"gh", 1, 8)
    b'bc\\n[kubefunc: 3 bytes of output were not kept here]\\ngh'
    """
    before_tail = printed - len(tail)
    if len(log) >= before_tail:
        return log[passed:before_tail] + tail[max(0, passed - before_tail) :]
    if log.endswith(tail):  # the node keeps only the newest part of a long log
        known = log[-(printed - passed) :]
        return _gap(printed - passed - len(known)) + known
    return log[passed:] + _gap(before_tail - max(passed, len(log))) + tail


def _gap(size: int) -> bytes:
    return b"\n[kubefunc: %d bytes of output were not kept here]\n" % size if size > 0 else b""


# The kubelet's words, in place of a log, with status 200: of a Pod that it evicts it removes the containers at once.
_NO_LOG = re.compile(
    rb"unable to retrieve container logs for \S+://\S+\s*|failed to try resolving symlinks in path \"/var/log/.*\s*"
)


def printed(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """What a container printed, of the pieces of its log.

    >>> list(printed([b"one", b"two"])), list(printed([b"unable to retrieve container logs for containerd://0af3"]))
    ([b'one', b'two'], [])
    """
    for number, piece in enumerate(pieces):
        if number or not _NO_LOG.fullmatch(piece):
            yield piece
