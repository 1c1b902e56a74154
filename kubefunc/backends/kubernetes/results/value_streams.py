"""The values of generator functions, out of their Pods while these run.

A thread for each generator holds one exec stream (:mod:`kubefunc.runner.pod.streamer`): values come, and what the
program has taken goes back. After the last value the result comes on the same stream. A stream that is cut is opened
again at the first value that has not come.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from kubefunc import errors
from kubefunc.backends.kubernetes.api.conversation import Conversation
from kubefunc.backends.kubernetes.api.exec_errors import ExecRefused, TransportError
from kubefunc.backends.kubernetes.api.permission import ExecPermission
from kubefunc.backends.kubernetes.api.requests import Api
from kubefunc.backends.kubernetes.attempts.attempt import Attempt, guarded
from kubefunc.backends.kubernetes.attempts.receipt import PROGRAM
from kubefunc.backends.kubernetes.diagnose import ending
from kubefunc.backends.kubernetes.diagnose.finding import Finding
from kubefunc.backends.kubernetes.results.collect import DAMAGED_LIMIT, PATIENCE, Collector
from kubefunc.envelope import corrupted
from kubefunc.errors import ResultCorruptedError
from kubefunc.runner import FOLLOW_DATA, READER_ACK, READER_NOTHING, READER_RESULT, STREAMER_TAKEN
from kubefunc.runner.protocol import pipes, wire
from kubefunc.stream_values import StartedAnew, StreamValues

SILENCE = 35.0  # seconds: a streamer says each 10 s that it is there
AGAIN = 0.1  # seconds before the next stream: the first ones are tried while the courier still starts
SLOWER = 1.5
AGAIN_AT_MOST = 2.0
LINGER = 2.0  # seconds for the streamer to take the acknowledgement


@dataclass(eq=False)
class _Followed:
    """One generator.

    Attributes:
        pod: the name of the Pod that its values came from last; empty before the first.
        seen: whether the watch of Pods has shown that Pod.
        thread_runs: whether a thread follows it.
    """

    values: StreamValues
    pod: str = ""
    seen: bool = False
    thread_runs: bool = False
    wake: tuple[socket.socket, socket.socket] = field(default_factory=socket.socketpair)


class ValueStreams:
    """Brings the values of each generator to its program."""

    def __init__(
        self, api: Api, permission: ExecPermission, collector: Collector, fail: Callable[[Attempt, Finding], None]
    ) -> None:
        self._api = api
        self._permission = permission
        self._collector = collector
        self._fail = fail
        self._lock = threading.RLock()
        self._followed: dict[Attempt, _Followed] = {}

    # -- from the watches and the clock

    def follow(self, attempt: Attempt, pod: str) -> None:
        """Bring the values of this Pod, whose courier has started. Nothing for a function that is no generator."""
        values = attempt.values
        if values is None or attempt.over:
            return
        with self._lock:
            followed = self._followed.get(attempt)
            if followed is None:
                followed = self._followed[attempt] = _Followed(values)
                followed.wake[1].setblocking(False)  # who tells of values that were taken must not wait
            if followed.thread_runs:
                return
            followed.thread_runs = True
        work = functools.partial(self._follow, attempt, followed, pod)
        thread = threading.Thread(
            target=guarded, args=(attempt, self._fail, work), name=f"kubefunc-{attempt.call}", daemon=True
        )
        with contextlib.suppress(RuntimeError):  # the program is ending
            thread.start()

    def check(self, attempt: Attempt) -> None:
        """What the clock asks of a generator: whether its Pod is still there, whether its values are followed."""
        if attempt.values is None or attempt.over:
            return
        if self._has_lost_its_pod(attempt):
            self._fail(attempt, ending.stream_lost(self._followed[attempt].pod))
            return
        pod = attempt.pods.current()
        if pod is not None and pod.courier.state == "running" and attempt.awaits_values:
            self.follow(attempt, pod.name)
        elif pod is not None and pod.courier.state == "terminated" and pod is attempt.pods.ended:
            self._give_up(attempt)

    def _has_lost_its_pod(self, attempt: Attempt) -> bool:
        followed = self._followed.get(attempt)
        if followed is None or not followed.pod:
            return False
        ended = attempt.pods.ended
        if attempt.pods.named(followed.pod) is not None or (ended is not None and ended.name == followed.pod):
            followed.seen = True
            return False
        return followed.seen

    def release(self, attempt: Attempt) -> None:
        """Nobody waits for this attempt any more."""
        with self._lock:
            followed = self._followed.pop(attempt, None)
        if followed is None:
            return
        if followed.thread_runs:
            _wake(followed, 0)
        else:
            _close(followed)

    # -- in a thread of its own

    def _follow(self, attempt: Attempt, followed: _Followed, pod: str) -> None:
        values = followed.values
        values.tell_taken(functools.partial(_wake, followed))
        try:
            self._follow_patiently(attempt, followed, pod)
        finally:
            values.tell_taken(None)
            with self._lock:
                followed.thread_runs = False
                if attempt not in self._followed:
                    _close(followed)
            self._collector.collect(attempt)

    def _follow_patiently(self, attempt: Attempt, followed: _Followed, pod: str) -> None:
        """Stream after stream, each from the first value that has not come."""
        damaged, pause, until = 0, AGAIN, time.monotonic() + PATIENCE
        while self._is_wanted(attempt, pod):
            received = followed.values.received
            damage = self._try(attempt, followed, pod)
            if followed.values.received > received:
                damaged, pause = 0, AGAIN
            if followed.values.received > received or attempt.pods.ended is None:
                until = time.monotonic() + PATIENCE
            damaged += damage is not None
            if damage is not None and damaged == DAMAGED_LIMIT:
                self._fail(attempt, ending.corrupted(damage))
            elif time.monotonic() > until:
                self._give_up(attempt)
            elif self._is_wanted(attempt, pod):
                time.sleep(pause)
                pause = min(SLOWER * pause, AGAIN_AT_MOST)

    def _try(self, attempt: Attempt, followed: _Followed, pod: str) -> ResultCorruptedError | None:
        """One stream to its end. What was wrong with what came, where something was."""
        try:
            self._stream(attempt, followed, pod)
        except ExecRefused as error:
            self._permission.refused(attempt.namespace)
            if self._permission.is_refused(attempt.namespace):
                self._fail(attempt, stream_refused(str(error)))
        except StartedAnew:
            self._fail(attempt, ending.stream_lost(followed.pod))
        except ResultCorruptedError as error:
            return error
        except (TransportError, OSError):
            return None  # the courier is starting, or the way to it is broken
        return None

    def _is_wanted(self, attempt: Attempt, pod: str) -> bool:
        current = attempt.pods.current()
        is_there = current is None or current.name == pod
        return is_there and attempt.awaits_values and attempt in self._followed

    def _stream(self, attempt: Attempt, followed: _Followed, pod: str) -> None:
        values = followed.values
        command = (*PROGRAM, "streamer", str(values.received))
        stream = Conversation(self._api, attempt.namespace, pod, command, silence=SILENCE)
        frames, size = wire.Frames(), 0
        with stream:
            _send_taken(stream, values)
            while attempt.awaits_values and attempt in self._followed:
                heard, woken = stream.hear(followed.wake[0].fileno(), SILENCE)
                if woken:
                    followed.wake[0].recv(4096)
                    _send_taken(stream, values)
                whole = frames.feed(heard)
                size = 0 if whole else size + len(heard)
                refuse_a_flood(attempt, values, size)
                if any(self._take(attempt, followed, pod, *frame) for frame in whole):
                    _acknowledge(stream, followed)
                    return

    def _take(self, attempt: Attempt, followed: _Followed, pod: str, letter: bytes, data: bytes) -> bool:
        """Take in what the streamer says; whether that was the last."""
        if letter == FOLLOW_DATA:
            followed.values.feed(data)
            followed.pod = pod
        elif letter == READER_RESULT:
            self._deliver(attempt, data)
        elif letter == READER_NOTHING:
            self._give_up(attempt)
        return letter in (READER_RESULT, READER_NOTHING)

    def _deliver(self, attempt: Attempt, data: bytes) -> None:
        self._collector.deliver(attempt, attempt.new_receipt().whole(data))
        self._give_up(attempt)

    def _give_up(self, attempt: Attempt) -> None:
        """No more values come from this Pod: its result may be fetched as any other."""
        with attempt.lock:
            attempt.fetch.end_values()


def stream_refused(words: str = "") -> Finding:
    """The error where exec is not allowed."""
    return Finding(
        errors.PermissionDeniedError,
        "StreamRefused",
        "The values of a generator function travel by exec, and the cluster refuses that.",
        "Ask for pods/exec (create, get) in the Role, or return a list instead.",
        (words,) if words else (),
    )


def _send_taken(stream: Conversation, values: StreamValues) -> None:
    stream.send(STREAMER_TAKEN + pipes.UPLOAD_HEAD.pack(values.taken))


def refuse_a_flood(attempt: Attempt, values: StreamValues, size: int) -> None:
    """A function that is not trusted could send without an end, whatever its caller has taken.

    Raises:
        ResultCorruptedError: it sends more than it may.
    """
    if not attempt.options.untrusted:
        return
    if size > attempt.result_limit or values.received - values.taken > values.ahead:
        raise corrupted(attempt.call, "an untrusted generator sends more than its runner would")


def _acknowledge(stream: Conversation, followed: _Followed) -> None:
    """Let the Pod end. The connection must outlive the word: what is sent just before a hang-up may never arrive."""
    until = time.monotonic() + LINGER
    with contextlib.suppress(TransportError):  # it has gone: the word has arrived
        stream.send(READER_ACK)
        while (left := until - time.monotonic()) > 0:
            _, woken = stream.hear(followed.wake[0].fileno(), left)
            if woken:
                followed.wake[0].recv(4096)


def _wake(followed: _Followed, _taken: int) -> None:
    with contextlib.suppress(OSError):  # its thread has ended, or is woken already
        followed.wake[1].send(b".")


def _close(followed: _Followed) -> None:
    for end in followed.wake:
        end.close()
