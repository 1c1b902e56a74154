"""The courier and the programs that exec starts beside it: the Pod's data port.

The courier waits until ``main`` has ended and its result was fetched. It is the first process of its container, so its
end kills every reader there: it ends only while it holds the lock ``readers`` alone. But where a client has
acknowledged the result, and SIGTERM came, there is nothing left to wait for.
"""

from __future__ import annotations

import fcntl
import os
import select
import stat
import sys
import time

from kubefunc.runner import (
    EXIT_COURIER_TERMINATED,
    FOLLOW_DATA,
    FOLLOW_END,
    LOG_HEAD,
    LOG_LIMIT,
    LOG_TAIL,
    READER_ACK,
    READER_HEARTBEAT,
    READER_NOTHING,
    READER_RESULT,
    SPEC_FILE,
    TERMINATION_UNFETCHED,
)
from kubefunc.runner.protocol import pipes

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal

    from kubefunc.runner.protocol.spec import RunnerSpec
else:
    import _signal as signal  # what ``signal`` adds to it are names for numbers, for which it loads 4 ms of ``enum``

POLL = 0.05
FOLLOW_POLL = 0.025
HEARTBEAT_EVERY = 10.0
IDLE_LIMIT = 30.0
FILES_LIMIT = 3600.0  # seconds for a client that has a result to fetch the files that belong to it
ALIVE_FRESH = 10.0
EXPRESS_LINGER = 3.0  # a small result also stands in the termination message; the express reader may be on its way
CHUNK = 1 << 20
SOON = 1.0  # seconds within which most containers have started


class Out:
    """The shared volume, as courier and readers see it."""

    def __init__(self, directory: str) -> None:
        self.directory = directory

    def path(self, name: str) -> str:
        return os.path.join(self.directory, name)

    def has(self, name: str) -> bool:
        return os.path.exists(self.path(name))

    def has_begun(self) -> bool:
        """Whether main has started: its lock is there, or where the function has removed that, its result."""
        return self.has("lock") or self.has("result")

    def open(self, name: str) -> int:
        """A descriptor to flock. Several processes may be the first."""
        return os.open(self.path(name), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)

    def read(self, name: str) -> int:
        """A descriptor of a file. The function may have put anything in its place: links and pipes are no files.

        Raises:
            FileNotFoundError: it is not there.
        """
        try:
            file = os.open(self.path(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            raise FileNotFoundError(str(error)) from error
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise FileNotFoundError(f"{name} is not a file")
        return file

    def has_files(self) -> bool:
        """Whether files belong to the result: no log takes them."""
        return any(".file." in name for name in os.listdir(self.directory))

    def result_size(self) -> int | None:
        """Bytes of the result; None where there is none."""
        try:
            file = self.read("result")
        except FileNotFoundError:
            return None
        size = os.fstat(file).st_size
        os.close(file)
        return size

    def wait_for_main(self) -> None:
        """Block until main has freed its lock, which exists."""
        try:
            lock = self.read("lock")
            fcntl.flock(lock, fcntl.LOCK_SH)
            os.close(lock)
        except FileNotFoundError:
            pass  # the function has removed it: ``alive`` decides
        # On some volumes of gVisor and Kata flock does not lock (gvisor#11326, kata#3408): then ``alive`` decides.
        while not self.has("result") and abs(self.alive_age()) < ALIVE_FRESH:  # a function may set it to any time
            time.sleep(POLL)

    def alive_age(self) -> float:
        try:
            return time.time() - os.lstat(self.path("alive")).st_mtime
        except FileNotFoundError:
            return ALIVE_FRESH


class Courier:
    def __init__(self, out: Out, in_dir: str, termination_log: str) -> None:
        self.out = out
        self.termination_log = termination_log
        self._spec: RunnerSpec | None = None
        self._spec_file = os.path.join(in_dir, SPEC_FILE)
        self.terminating = False
        self.readers = out.open("readers")
        signal.signal(signal.SIGTERM, self._terminate)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))  # it may have come while this was loaded

    @property
    def spec(self) -> RunnerSpec:
        """Read when it is needed: while ``main`` starts, its caller waits, and the node has enough to do."""
        if self._spec is None:
            from kubefunc.runner.protocol.spec import RunnerSpec

            with open(self._spec_file, "rb") as file:
                self._spec = RunnerSpec.read(file.read())
        return self._spec

    def _terminate(self, *_: object) -> None:
        self.terminating = True  # and no more: while main lives, its result is still to come
        try:
            os.close(self.out.open("terminate"))
        except OSError:  # the volume is full
            pass

    def run(self) -> int:
        if not self._wait_for_start():
            return 0
        self.out.wait_for_main()
        if self.out.result_size() is None:
            return 0
        fetched = self._fetched_within(self._grace())
        if self.out.has("inline"):
            return 0
        return self._keep_a_copy() if fetched else self._leave_in_log()

    def _wait_for_start(self) -> bool:
        began = time.monotonic()
        while not self.out.has_begun():
            waited = time.monotonic() - began
            if self.terminating or (waited > SOON and waited > self.spec.pull_allowance):
                return False
            time.sleep(POLL)
        return True

    def _grace(self) -> float:
        if self.out.has("inline"):
            return EXPRESS_LINGER if self.spec.express else 0.0
        return float(self.spec.fetch_grace)

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
        """The client that acknowledged has the whole result: when the Pod ends, wait for no other reader."""
        while not self._no_reader() and not self.terminating:
            time.sleep(POLL)

    def _keep_a_copy(self) -> int:
        """A client that has this chunk may be killed before it has the map: ``attach_map`` reads the log then."""
        if self.spec.map is not None and self._fits_into_log():
            self._log()
        return 0

    def _fits_into_log(self) -> bool:
        size = self.out.result_size()
        is_small = size is not None and self.spec.results_in_log and size <= LOG_LIMIT
        return is_small and not self.out.has_files()

    def _leave_in_log(self) -> int:
        """Nobody came: to the log with it, so that the Pod can end; or wait on, where it may not go there."""
        if self._fits_into_log():
            self._log()
            return EXIT_COURIER_TERMINATED if self.terminating else 0
        fcntl.flock(self.readers, fcntl.LOCK_UN)
        if not self.terminating and self._fetched_within(self.spec.result_ttl):
            return 0
        if not self.terminating:
            self._note(TERMINATION_UNFETCHED)
        return EXIT_COURIER_TERMINATED if self.terminating else 0

    def _note(self, text: str) -> None:
        """For who asks later where the result is."""
        try:
            with open(self.termination_log, "w") as file:
                file.write(text)
        except OSError:
            pass

    def _log(self) -> None:
        import binascii

        with open(self.out.read("result"), "rb") as file:
            envelope = file.read(LOG_LIMIT)
        lines = [f"{LOG_HEAD}{len(envelope)}"]
        lines += [
            binascii.b2a_base64(envelope[start : start + 6000], newline=False).decode()
            for start in range(0, len(envelope), 6000)
        ]
        sys.stdout.write("\n".join([*lines, LOG_TAIL, ""]))
        sys.stdout.flush()


class _LargeBegins(Exception):
    """There is a file ``body``: a result too large for a pipe is being written."""


class Reader:
    """Sends the result to the client at the other end of an exec stream."""

    def __init__(self, out: Out) -> None:
        self.out = out
        self.readers = out.open("readers")
        fcntl.flock(self.readers, fcntl.LOCK_SH)

    def run(self, offset: int) -> int:
        try:
            self._wait()
        except _LargeBegins:
            return LargeFollower(self.out).run(offset)
        try:
            result = self.out.read("result")
        except FileNotFoundError:
            pipes.write_all(1, READER_NOTHING)
            return 0
        self._send(result, offset)
        return acknowledge(self.out)

    def _wait(self) -> None:
        """Until main has ended; raises where its child writes a large result already."""
        self.heard = time.monotonic()
        signal.signal(signal.SIGALRM, self._look)
        signal.setitimer(signal.ITIMER_REAL, FOLLOW_POLL)
        while not self.out.has_begun():
            time.sleep(0.005)
        self.out.wait_for_main()
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _look(self, *_: object) -> None:
        """While a lock is waited for, this comes in between; the timer is set anew, so that it raises once at most."""
        if self.out.has("body"):
            raise _LargeBegins
        if time.monotonic() - self.heard > HEARTBEAT_EVERY:
            self._heartbeat()
        signal.setitimer(signal.ITIMER_REAL, FOLLOW_POLL)

    def _heartbeat(self) -> None:
        """Load balancers cut streams that are idle for a minute; a client that has left closes our stdin."""
        if select.select([0], [], [], 0)[0] and not os.read(0, 1):
            os._exit(0)
        pipes.write_all(1, READER_HEARTBEAT)
        self.heard = time.monotonic()

    def _send(self, result: int, offset: int) -> None:
        size = os.fstat(result).st_size
        signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
        signal.setitimer(signal.ITIMER_REAL, IDLE_LIMIT)
        pipes.write_all(1, READER_RESULT + pipes.READER_HEAD.pack(size, offset))
        while offset < size:
            sent = os.sendfile(1, result, offset, CHUNK)
            if sent == 0:
                os._exit(1)
            offset += sent
            signal.setitimer(signal.ITIMER_REAL, FILES_LIMIT if self.out.has_files() else IDLE_LIMIT)


class Follower:
    """Sends what a chunk has written, as it grows, to the client at the other end of an exec stream."""

    def __init__(self, out: Out) -> None:
        self.out = out
        self.readers = out.open("readers")
        fcntl.flock(self.readers, fcntl.LOCK_SH)
        self.heard = time.monotonic()

    def run(self, offset: int) -> int:
        file = self._open()
        while file is not None:
            ended = self._has_ended()  # first this, then the size: nothing is written after the end
            status = os.fstat(file)
            size = status.st_size
            if self._is_void(status):
                break
            if size > offset:
                offset = self._send(file, offset, size)
            elif not ended:
                self._pause()
            elif self.out.has("result"):
                self._write(FOLLOW_END + pipes.UPLOAD_HEAD.pack(size))
                signal.setitimer(signal.ITIMER_REAL, FILES_LIMIT if self.out.has_files() else IDLE_LIMIT)
                return acknowledge(self.out)
            else:
                break
        pipes.write_all(1, READER_NOTHING)
        return 0

    def _open(self) -> int | None:
        """What main writes to: the file ``body``, whose name is ``result`` in the end."""
        while True:
            ended = self._has_ended()
            for name in ("body", "result"):
                try:
                    return self.out.read(name)
                except FileNotFoundError:
                    continue
            if ended:
                return None
            self._pause()

    def _has_ended(self) -> bool:
        """Whether main has, as far as can be said without waiting."""
        if self.out.has("result"):
            return True
        try:
            lock = self.out.read("lock")
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(lock)
        return abs(self.out.alive_age()) >= ALIVE_FRESH

    def _is_void(self, status: os.stat_result) -> bool:
        return False  # what a chunk has written stays

    def _pause(self) -> None:
        """Load balancers cut streams that are idle for a minute; a client that has left closes our stdin."""
        if select.select([0], [], [], FOLLOW_POLL)[0] and not os.read(0, 1):
            os._exit(0)
        if time.monotonic() - self.heard > HEARTBEAT_EVERY:
            self._write(READER_HEARTBEAT)

    def _send(self, file: int, offset: int, size: int) -> int:
        """The next bytes, as many as are there or as one piece may have; where the next begin."""
        end = min(size, offset + CHUNK)
        self._write(FOLLOW_DATA + pipes.LENGTH.pack(end - offset))
        while offset < end:
            with client_takes():
                sent = os.sendfile(1, file, offset, end - offset)
            if sent == 0:
                os._exit(1)
            offset += sent
        return offset

    def _write(self, data: bytes) -> None:
        with client_takes():
            pipes.write_all(1, data)
        self.heard = time.monotonic()


class LargeFollower(Follower):
    """The same for the large result of a call: a client has it almost when it is written."""

    def _is_void(self, status: os.stat_result) -> bool:
        """An attempt that failed half-way leaves its file for the next one's, or for an error."""
        return status.st_nlink == 0


class client_takes:  # noqa: N801 - reads as what it is
    """Around a write: a client that takes nothing for long has gone without a word."""

    def __enter__(self) -> None:
        signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
        signal.setitimer(signal.ITIMER_REAL, IDLE_LIMIT)

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)


def acknowledge(out: Out) -> int:
    """Wait for the client's word that it has all."""
    if os.read(0, 1) == READER_ACK:
        os.close(out.open("ack"))
    return 0


def read_exactly(size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = os.read(0, size - len(data))
        if not more:
            raise EOFError("stdin ended before the length")
        data += more
    return data


def courier(in_dir: str, out_dir: str, termination_log: str) -> int:
    return Courier(Out(out_dir), in_dir, termination_log).run()


def reader(out_dir: str, offset: int) -> int:
    return Reader(Out(out_dir)).run(offset)


def follower(out_dir: str, offset: int) -> int:
    return Follower(Out(out_dir)).run(offset)
