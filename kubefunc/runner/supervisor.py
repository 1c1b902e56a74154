"""The supervisor: one forked child per attempt, watched until there is a result that can be published.

It is the container's first process. Such a process ignores every signal that it has no handler for, and whatever kills
it ends the Pod: so the user's function never runs in it. The local backend's fork server runs the same supervisor; what
differs (where jobs come from, where output and results go) is the port: :class:`Place` in a container,
:class:`kubefunc.runner.server.Slot` on a machine.
"""

from __future__ import annotations

import binascii
import fcntl
import hashlib
import json
import os
import random
import select
import signal
import sys
import time
import traceback

from kubefunc.runner import (
    CODE_DIED,
    CODE_OOM,
    CODE_PYTHON,
    CODE_TIMEOUT,
    CODE_UPLOAD,
    ERROR,
    EXIT_RAISED,
    EXIT_TERMINATED,
    EXIT_VALUE,
    OUTPUT_TAIL,
    VALUE,
    child,
    memory,
    wire,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Protocol

    class Port(Protocol):
        """What a supervisor needs of its surroundings."""

        @property
        def spec(self) -> dict[str, Any]: ...
        @property
        def end_grace(self) -> float: ...  # seconds between SIGTERM and SIGKILL; infinite where someone else kills
        @property
        def wakeups(self) -> Sequence[int]: ...  # descriptors: readable when ``asked_to_end`` has news

        def path(self, name: str) -> str: ...
        def asked_to_end(self) -> bool: ...
        def tick(self) -> None: ...
        def start(self, attempt: int) -> Child: ...
        def output(self, data: bytes) -> None: ...
        def publish(self, header: dict[str, Any], body: bytes | None, output: bytes) -> None: ...
        def give_up(self) -> None: ...


ALIVE_EVERY = 2.0
EXIT_GRACE = 10.0  # for a child's atexit handlers, once its result is written
STACKS_GRACE = 0.3  # faulthandler writes the stacks at the timeout; then the child is killed
UPLOAD_POLL = 0.02
OUTPUT_READ_WITHIN = 5.0  # for the container runtime to take what was printed last
OUTPUT_CHUNK = 65536
STACKS_LIMIT = 20_000  # characters
FOREVER = float("inf")
EXIT_BROKEN = 70  # the child's own code failed: EX_SOFTWARE


class Signals:
    """SIGTERM and SIGCHLD as bytes in a pipe, so that one select waits for all there is to wait for."""

    def __init__(self) -> None:
        self.pipe, self._write = os.pipe()
        for end in (self.pipe, self._write):
            os.set_blocking(end, False)
        for number in (signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)

    def drain(self) -> bool:
        """Read what came; True if SIGTERM was among it."""
        try:
            return signal.SIGTERM in os.read(self.pipe, 512)
        except BlockingIOError:
            return False

    def forget(self) -> None:
        """In a forked child: back to how a program starts."""
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        os.close(self.pipe)
        os.close(self._write)


class Child:
    """A forked child, and this process's ends of its pipes."""

    def __init__(self, pid: int, frames: int, output: int) -> None:
        self.pid = pid
        self.frames = frames
        self.output = output

    def close(self) -> None:
        os.close(self.frames)
        os.close(self.output)


def fork_child(run: Callable[[int], None], forget: Callable[[], None]) -> Child:
    """Fork a process in a group of its own that runs ``run``, given the descriptor for its frames.

    ``forget`` runs first and closes what of its parent it must not keep: a flock lives as long as any copy of its
    descriptor.
    """
    frames, frames_end = os.pipe()
    output, output_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            forget()
            os.close(frames)
            os.close(output)
            _become_child(output_end)
            run(frames_end)
            os._exit(0)
        except BaseException:  # this program's own fault: say so, and end
            traceback.print_exc()
        finally:
            os._exit(EXIT_BROKEN)
    _lead_group(pid)  # here and there: whoever comes first, from now on a signal to the group arrives
    os.close(frames_end)
    os.close(output_end)
    return Child(pid, frames, output)


def _become_child(output: int) -> None:
    """A group of its own; nothing to read; what it prints goes to the pipe."""
    _lead_group(0)
    for number in (1, 2):
        os.dup2(output, number)
    os.close(output)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    # New streams: those of the parent may have been made for a terminal or a file, in another encoding.
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = open(number, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _lead_group(pid: int) -> None:
    try:
        os.setpgid(pid, pid)
    except (PermissionError, ProcessLookupError):  # it has exec'ed, or ended, already
        pass


class Ending:
    """How an attempt ended: the header that its child sent and the body with it, or the wait status."""

    def __init__(self, frames: child.FrameReader, status: int, started: float | None, timed_out: bool) -> None:
        self.header = frames.header
        self.body = frames.body
        self.status = status
        self.started = started
        self.timed_out = timed_out

    @property
    def signal(self) -> int | None:
        return os.WTERMSIG(self.status) if os.WIFSIGNALED(self.status) else None


class Clock:
    """When the child is to be killed, and why: at most one such time is set."""

    def __init__(self) -> None:
        self.at = FOREVER
        self.why = ""

    def set(self, why: str, seconds: float) -> None:
        if self.why != "end":  # who was asked to end gets no more time for anything else
            self.at, self.why = time.monotonic() + seconds, why

    def stop(self) -> None:
        self.at = FOREVER

    def left(self) -> float:
        return max(0.0, self.at - time.monotonic())

    def is_over(self) -> bool:
        return time.monotonic() >= self.at


class Supervisor:
    """Runs one call."""

    def __init__(self, port: Port, signals: Signals) -> None:
        self.port = port
        self.signals = signals
        self.spec = port.spec
        self.ending = False
        self.oom_kills = memory.oom_kills()
        self.printed = 0
        self.tail = bytearray()
        self.peak_memory = 0

    def run(self) -> int:
        """Attempts until one counts; publishes what it left and returns the exit code."""
        here = "{}.{}".format(*sys.version_info)
        if self.spec["python"] != here:
            return self._publish_error(CODE_PYTHON, {"there": self.spec["python"], "here": here}, 0)
        if self.spec.get("upload") and not self._wait_for_upload():
            if self.ending:
                return EXIT_TERMINATED
            return self._publish_error(CODE_UPLOAD, {"waited": self.spec["pull_allowance"]}, 0)
        attempt = 0
        while True:
            attempt += 1
            ending = self._attempt(attempt)
            if self.ending and ending.header is None:
                self.port.give_up()
                return EXIT_TERMINATED
            more = attempt <= self.spec["retries"] and not self.ending and self._counts_as_retryable(ending)
            if not more or not self._back_off(attempt):
                return self._publish(ending, attempt)

    # -- one attempt

    def _attempt(self, attempt: int) -> Ending:
        process = self.port.start(attempt)
        try:
            return self._watch(process)
        except BaseException:
            kill_group(process.pid, signal.SIGKILL)
            raise
        finally:
            process.close()

    def _watch(self, process: Child) -> Ending:
        frames = child.FrameReader(process.frames)
        clock = Clock()
        started: float | None = None
        timed_out = False
        pipes = [process.frames, process.output]
        status: int | None = None
        while status is None:
            if clock.is_over():
                timed_out = clock.why == "timeout"
                clock.stop()
                kill_group(process.pid, signal.SIGKILL)
            ready = self._wait(pipes, clock.left())
            for pipe in pipes[:]:
                if pipe in ready and not (frames.read() if pipe == process.frames else self._pump(pipe)):
                    pipes.remove(pipe)
            if frames.started and started is None:
                started = time.time()
                if self.spec["timeout"] is not None:
                    clock.set("timeout", self.spec["timeout"] + STACKS_GRACE)
            if frames.header is not None and clock.why != "exit":
                clock.set("exit", EXIT_GRACE)
            if self._asked_to_end(ready):
                kill_group(process.pid, signal.SIGTERM)
                clock.set("end", self.port.end_grace)
            status = 0 if frames.ended else self._reap(process.pid)
        kill_group(process.pid, signal.SIGKILL)  # what the function left running
        self._read_rest(process, frames, pipes)
        return Ending(frames, status, started, timed_out)

    def _wait(self, pipes: list[int], seconds: float) -> list[int]:
        """The descriptors that have news: of these pipes, of the signals and of the port."""
        watched = [*pipes, self.signals.pipe, *self.port.wakeups]
        ready, _, _ = select.select(watched, [], [], min(seconds, ALIVE_EVERY))
        self.port.tick()
        return ready

    def _asked_to_end(self, ready: list[int]) -> bool:
        asked = self.signals.pipe in ready and self.signals.drain()
        if any(each in ready for each in self.port.wakeups):
            asked = self.port.asked_to_end() or asked
        self.ending = self.ending or asked
        return asked

    def _read_rest(self, process: Child, frames: child.FrameReader, pipes: list[int]) -> None:
        """What still is in the pipes; their ends may stay open in a process that got away."""
        while process.frames in pipes and is_readable(process.frames) and frames.read():
            pass
        while process.output in pipes and is_readable(process.output) and self._pump(process.output):
            pass

    def _reap(self, pid: int) -> int | None:
        """The child's wait status once it has ended. Orphans that came to this first process are reaped on the way."""
        while True:
            ended, status, usage = os.wait4(-1, os.WNOHANG)
            if ended == 0:
                return None
            if ended == pid:
                self.peak_memory = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
                return status

    def _pump(self, output: int) -> bool:
        """Pass on what the function printed. It goes through here to be counted: the client sees what it missed."""
        data = os.read(output, OUTPUT_CHUNK)
        self.printed += len(data)
        self.tail = (self.tail + data)[-OUTPUT_TAIL:]
        if data:
            self.port.output(data)
        return bool(data)

    # -- between attempts

    def _counts_as_retryable(self, ending: Ending) -> bool:
        if ending.header is not None:
            return bool(ending.header.get("retry"))
        return ending.timed_out or not self._out_of_memory(ending)

    def _out_of_memory(self, ending: Ending) -> bool:
        return ending.signal == signal.SIGKILL and memory.oom_kills() > self.oom_kills

    def _back_off(self, attempt: int) -> bool:
        """Wait before the next attempt; False when the wait was ended from outside."""
        initial, factor, maximum = self.spec["backoff"]
        delay = min(maximum, initial * factor ** (attempt - 1)) * random.uniform(0.5, 1.0)
        return self._sleep_until(time.monotonic() + delay, lambda: False, poll=FOREVER) is None

    def _wait_for_upload(self) -> bool:
        until = time.monotonic() + self.spec["pull_allowance"]
        return self._sleep_until(until, lambda: os.path.exists(self.port.path("payload")), UPLOAD_POLL) is True

    def _sleep_until(self, until: float, over: Callable[[], bool], poll: float) -> bool | None:
        """True: ``over`` became true; False: asked to end; None: the time has come."""
        while not over():
            left = until - time.monotonic()
            if left <= 0:
                return None
            if self._asked_to_end(self._wait([], min(left, poll))):
                return False
        return True

    # -- the result

    def _publish(self, ending: Ending, attempt: int) -> int:
        if ending.header is not None:
            return self._publish_header(ending.header, ending.body, attempt)
        if ending.timed_out:
            detail: dict[str, Any] = {"timeout": self.spec["timeout"], "stacks": self._stacks()}
            return self._publish_error(CODE_TIMEOUT, detail, attempt, ending.started)
        if self._out_of_memory(ending):
            return self._publish_error(CODE_OOM, {"limit": memory.memory_limit()}, attempt, ending.started)
        detail = {"exit_code": os.WEXITSTATUS(ending.status)} if ending.signal is None else {"signal": ending.signal}
        return self._publish_error(CODE_DIED, detail, attempt, ending.started)

    def _stacks(self) -> str:
        try:
            with open(self.port.path("stacks"), errors="replace") as file:
                return file.read(STACKS_LIMIT)
        except FileNotFoundError:
            return ""

    def _publish_error(self, code: str, detail: dict[str, Any], attempt: int, started: float | None = None) -> int:
        header = {
            "outcome": ERROR,
            "code": code,
            "detail": detail,
            "size": 0,
            "sha256": hashlib.sha256().hexdigest(),
            "started": started,
            "finished": time.time(),
            "peak_memory": self.peak_memory,
        }
        return self._publish_header(header, b"", attempt)

    def _publish_header(self, header: dict[str, Any], body: bytes | None, attempt: int) -> int:
        """Let the port complete the envelope: the body came along, or the child has written it to its file."""
        header.update(call=self.spec["call"], attempts=attempt, printed=self.printed)
        self.port.publish(header, body, bytes(self.tail))
        return EXIT_VALUE if header["outcome"] == VALUE else EXIT_RAISED


class Place:
    """The port of a container: files in, files out, output to the container's log."""

    end_grace = FOREVER  # the kubelet kills
    wakeups: Sequence[int] = ()

    def __init__(self, in_dir: str, out_dir: str, termination_log: str | None, signals: Signals) -> None:
        self.in_dir = in_dir
        self.out_dir = out_dir
        self.termination_log = termination_log
        self.signals = signals
        self._touched = -FOREVER
        self.lock = self._take_lock()
        self.spec: dict[str, Any] = json.loads(self._read("spec.json"))
        self.key = self._read("key")

    def path(self, name: str) -> str:
        return os.path.join(self.out_dir, name)

    def asked_to_end(self) -> bool:
        return False  # SIGTERM says so

    def tick(self) -> None:
        """Show that this process lives, to those who cannot trust the lock."""
        now = time.monotonic()
        if now - self._touched >= ALIVE_EVERY:
            self._touched = now
            with open(self.path("alive"), "wb"):
                pass

    def start(self, attempt: int) -> Child:
        return fork_child(lambda frames: child.run(self._job(attempt), frames), self._forget)

    def output(self, data: bytes) -> None:
        wire.write_all(1, data)

    def publish(self, header: dict[str, Any], body: bytes | None, output: bytes) -> None:
        """Put the envelope there whole, by one rename; leave the termination message; free the lock."""
        if body is not None:
            with open(self.path("body"), "wb") as file:
                file.write(body)
        self._leave_termination_message(header)
        text = binascii.b2a_base64(output, newline=False).decode()
        with open(self.path("body"), "ab") as file:
            file.write(wire.tail({**header, "output": text}, self.key))
        os.chmod(self.path("body"), 0o644)
        os.replace(self.path("body"), self.path("result"))
        os.close(self.lock)

    def give_up(self) -> None:
        """There will be no result: the courier need not wait for ``alive`` to grow old."""
        os.unlink(self.path("alive"))

    def _leave_termination_message(self, header: dict[str, Any]) -> None:
        """A small result fits in whole; what was printed is left out there, the log has it."""
        if self.termination_log is None:
            return
        text = None
        if self.spec["inline"] and header["size"] < 64 * 1024:
            with open(self.path("body"), "rb") as file:
                text = wire.termination_text(file.read() + wire.tail(header, self.key))
        try:
            with open(self.termination_log, "w") as file:
                file.write(text or wire.termination_size(header["size"], header["sha256"]))
        except OSError as error:  # the result stands in a file all the same
            print(f"kubefunc: no termination message: {error}", file=sys.stderr)
            return
        if text is not None:
            with open(self.path("inline"), "wb"):
                pass

    def _take_lock(self) -> int:
        """``lock`` appears only once it is held: it exists = started, it is free = ended."""
        lock = os.open(self.path("lock.tmp"), os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(lock, fcntl.LOCK_EX)
        self.tick()
        os.rename(self.path("lock.tmp"), self.path("lock"))
        return lock

    def _forget(self) -> None:
        self.signals.forget()
        os.close(self.lock)

    def _job(self, attempt: int) -> child.Job:
        return child.Job(
            spec=self.spec,
            attempt=attempt,
            payload=self._payload(),
            body=self.path("body"),
            stacks=self.path("stacks"),
            code=os.path.join(os.environ.get("TMPDIR", "/tmp"), f"kubefunc-{self.spec['call']}"),
        )

    def _payload(self) -> bytes:
        """Uploaded, whole, or joined from the shards of several Secrets."""
        if self.spec.get("upload"):
            with open(self.path("payload"), "rb") as file:
                return file.read()
        if os.path.exists(os.path.join(self.in_dir, "payload")):
            return self._read("payload")
        count = sum(name.startswith("payload.") for name in os.listdir(self.in_dir))
        return b"".join(self._read(f"payload.{number}") for number in range(count))

    def _read(self, name: str) -> bytes:
        with open(os.path.join(self.in_dir, name), "rb") as file:
            return file.read()


def is_readable(descriptor: int) -> bool:
    return bool(select.select([descriptor], [], [], 0)[0])


def kill_group(pid: int, number: int) -> None:
    """Signal a child's whole process group. It may be gone, or hold only zombies (macOS then says EPERM)."""
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def supervise(in_dir: str, out_dir: str, termination_log: str | None) -> int:
    """The program ``main``. The handlers come first: a first process without them would miss an early SIGTERM."""
    signals = Signals()
    supervisor = Supervisor(Place(in_dir, out_dir, termination_log, signals), signals)
    exit_code = supervisor.run()
    if supervisor.printed:
        wait_until_read(1, OUTPUT_READ_WITHIN)
    return exit_code


def wait_until_read(pipe: int, seconds: float) -> bool:
    """Wait until nothing is left in a pipe that we write to; False if something still is.

    containerd drops what its reader has not taken from a container's output when the first process ends: the log lacks
    its last 64 KiB then, for good. The result is published before this wait, so no caller waits for it.
    """
    import array
    import termios

    unread = array.array("i", [0])
    until = time.monotonic() + seconds
    while True:
        try:
            fcntl.ioctl(pipe, termios.FIONREAD, unread)
        except OSError:  # not a pipe: nothing to be lost
            return True
        if unread[0] == 0:
            return True
        if time.monotonic() > until:
            return False
        time.sleep(0.002)
