"""The courier and the programs that exec starts beside it: the Pod's data port.

The courier waits until ``main`` has ended and its result was fetched. It is the first process of its container, so its
end kills every reader there: it ends only while it holds the lock ``readers`` alone.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import sys
import time

from kubefunc.runner import (
    EXIT_COURIER_TERMINATED,
    LOG_HEAD,
    LOG_LIMIT,
    LOG_TAIL,
    READER_ACK,
    READER_HEARTBEAT,
    READER_NOTHING,
    READER_RESULT,
    UPLOAD_DONE,
    wire,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

POLL = 0.05
HEARTBEAT_EVERY = 10.0
IDLE_LIMIT = 30.0
ALIVE_FRESH = 10.0
EXPRESS_LINGER = 3.0  # a small result also stands in the termination message; the express reader may be on its way
CHUNK = 1 << 20


class Out:
    """The shared volume, as courier and readers see it."""

    def __init__(self, directory: str) -> None:
        self.directory = directory

    def path(self, name: str) -> str:
        return os.path.join(self.directory, name)

    def has(self, name: str) -> bool:
        return os.path.exists(self.path(name))

    def open(self, name: str) -> int:
        """A descriptor to flock. Several processes may be the first."""
        return os.open(self.path(name), os.O_RDWR | os.O_CREAT, 0o644)

    def wait_for_main(self) -> None:
        """Block until main has freed its lock, which exists."""
        lock = os.open(self.path("lock"), os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_SH)
        os.close(lock)
        # On some volumes of gVisor and Kata flock does not lock (gvisor#11326, kata#3408): then ``alive`` decides.
        while not self.has("result") and self.alive_age() < ALIVE_FRESH:
            time.sleep(POLL)

    def alive_age(self) -> float:
        try:
            return time.time() - os.stat(self.path("alive")).st_mtime
        except FileNotFoundError:
            return ALIVE_FRESH


class Courier:
    def __init__(self, out: Out, spec: dict[str, Any]) -> None:
        self.out = out
        self.spec = spec
        self.terminating = False
        self.readers = out.open("readers")
        signal.signal(signal.SIGTERM, self._terminate)

    def _terminate(self, *_: object) -> None:
        self.terminating = True  # and no more: while main lives, its result is still to come

    def run(self) -> int:
        if not self._wait_for_start():
            return 0
        self.out.wait_for_main()
        if not self.out.has("result") or self._fetched_within(self._grace()) or self.out.has("inline"):
            return 0
        return self._leave_in_log()

    def _wait_for_start(self) -> bool:
        until = time.monotonic() + self.spec["pull_allowance"]
        while not self.out.has("lock"):
            if self.terminating or time.monotonic() > until:
                return False
            time.sleep(POLL)
        return True

    def _grace(self) -> float:
        if self.out.has("inline"):
            return EXPRESS_LINGER if self.spec.get("express") else 0.0
        return float(self.spec["fetch_grace"])

    def _fetched_within(self, seconds: float) -> bool:
        """Wait for an ACK. When the time is up, or SIGTERM came, a reader at work may still finish."""
        until = time.monotonic() + seconds
        while True:
            if self.out.has("ack"):
                self._let_readers_finish()
                return True
            if (self.terminating or time.monotonic() >= until) and self._no_reader():
                return self.out.has("ack")
            time.sleep(POLL)

    def _no_reader(self) -> bool:
        try:
            fcntl.flock(self.readers, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _let_readers_finish(self) -> None:
        while not self._no_reader():
            time.sleep(POLL)

    def _leave_in_log(self) -> int:
        """Nobody came: to the log with it, so that the Pod can end; or wait on, where it may not go there."""
        if self.spec["results_in_log"] and os.stat(self.out.path("result")).st_size <= LOG_LIMIT:
            self._log()
            return EXIT_COURIER_TERMINATED if self.terminating else 0
        fcntl.flock(self.readers, fcntl.LOCK_UN)
        if not self.terminating and self._fetched_within(self.spec["result_ttl"]):
            return 0
        return EXIT_COURIER_TERMINATED if self.terminating else 0

    def _log(self) -> None:
        import binascii

        with open(self.out.path("result"), "rb") as file:
            envelope = file.read()
        lines = [f"{LOG_HEAD}{len(envelope)}"]
        lines += [
            binascii.b2a_base64(envelope[start : start + 6000], newline=False).decode()
            for start in range(0, len(envelope), 6000)
        ]
        sys.stdout.write("\n".join([*lines, LOG_TAIL, ""]))
        sys.stdout.flush()


class Reader:
    """Sends the result to the client at the other end of an exec stream."""

    def __init__(self, out: Out) -> None:
        self.out = out
        self.readers = out.open("readers")
        fcntl.flock(self.readers, fcntl.LOCK_SH)

    def run(self, offset: int) -> int:
        self._wait()
        try:
            result = os.open(self.out.path("result"), os.O_RDONLY)
        except FileNotFoundError:
            wire.write_all(1, READER_NOTHING)
            return 0
        self._send(result, offset)
        return self._await_ack()

    def _wait(self) -> None:
        signal.signal(signal.SIGALRM, self._heartbeat)
        signal.setitimer(signal.ITIMER_REAL, HEARTBEAT_EVERY, HEARTBEAT_EVERY)
        while not self.out.has("lock"):
            time.sleep(0.005)
        self.out.wait_for_main()
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _heartbeat(self, *_: object) -> None:
        """Load balancers cut streams that are idle for a minute; a client that has left closes our stdin."""
        if select.select([0], [], [], 0)[0] and not os.read(0, 1):
            os._exit(0)
        wire.write_all(1, READER_HEARTBEAT)

    def _send(self, result: int, offset: int) -> None:
        size = os.fstat(result).st_size
        signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
        signal.setitimer(signal.ITIMER_REAL, IDLE_LIMIT)
        wire.write_all(1, READER_RESULT + wire.READER_HEAD.pack(size, offset))
        while offset < size:
            sent = os.sendfile(1, result, offset, CHUNK)
            if sent == 0:
                os._exit(1)
            offset += sent
            signal.setitimer(signal.ITIMER_REAL, IDLE_LIMIT)

    def _await_ack(self) -> int:
        if os.read(0, 1) == READER_ACK:
            os.close(self.out.open("ack"))
        return 0


def upload(out: Out) -> int:
    """Take a payload in from stdin and give it its name once it is whole."""
    (size,) = wire.UPLOAD_HEAD.unpack(read_exactly(wire.UPLOAD_HEAD.size))
    with open(out.path("payload.tmp"), "wb") as file:
        while size:
            data = os.read(0, min(size, CHUNK))
            if not data:
                return 1
            file.write(data)
            size -= len(data)
    os.chmod(out.path("payload.tmp"), 0o644)
    os.replace(out.path("payload.tmp"), out.path("payload"))
    wire.write_all(1, UPLOAD_DONE)
    return 0


def read_exactly(size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = os.read(0, size - len(data))
        if not more:
            raise EOFError("stdin ended before the length")
        data += more
    return data


def courier(in_dir: str, out_dir: str) -> int:
    with open(os.path.join(in_dir, "spec.json"), "rb") as file:
        spec = json.loads(file.read())
    return Courier(Out(out_dir), spec).run()


def reader(out_dir: str, offset: int) -> int:
    return Reader(Out(out_dir)).run(offset)


def uploader(out_dir: str) -> int:
    return upload(Out(out_dir))
