"""The supervisor: one forked child per attempt, watched until there is a result that can be published.

It is the container's first process. Such a process ignores every signal that it has no handler for, and whatever kills
it ends the Pod: so the user's function never runs in it.
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
    wire,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ALIVE_EVERY = 2.0
EXIT_GRACE = 10.0  # for a child's atexit handlers, once its result is written
STACKS_GRACE = 0.3  # faulthandler writes the stacks at the timeout; then the child is killed
OUTPUT_CHUNK = 65536


class Place:
    """Where a call's files are."""

    def __init__(self, in_dir: str, out_dir: str, termination_log: str | None) -> None:
        self.in_dir = in_dir
        self.out_dir = out_dir
        self.termination_log = termination_log

    def out(self, name: str) -> str:
        return os.path.join(self.out_dir, name)

    def read(self, name: str) -> bytes:
        with open(os.path.join(self.in_dir, name), "rb") as file:
            return file.read()

    def payload(self) -> bytes:
        """The payload: uploaded, whole, or joined from the shards of several Secrets."""
        if os.path.exists(self.out("payload")):
            with open(self.out("payload"), "rb") as file:
                return file.read()
        if os.path.exists(os.path.join(self.in_dir, "payload")):
            return self.read("payload")
        count = sum(name.startswith("payload.") for name in os.listdir(self.in_dir))
        return b"".join(self.read(f"payload.{number}") for number in range(count))


class Signals:
    """SIGTERM and SIGCHLD as bytes in a pipe, so that one select waits for all there is to wait for."""

    def __init__(self) -> None:
        self.pipe, write = os.pipe()
        for end in (self.pipe, write):
            os.set_blocking(end, False)
        self.terminating = False
        for number in (signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)

    def drain(self) -> bool:
        """Read what came; True if SIGTERM was among it."""
        try:
            came = signal.SIGTERM in os.read(self.pipe, 512)
        except BlockingIOError:
            return False
        self.terminating = self.terminating or came
        return came


class Ending:
    """How an attempt's child ended: the header that it sent, or its wait status."""

    def __init__(self, header: dict[str, Any] | None, status: int, timed_out: bool, started: float | None) -> None:
        self.header = header
        self.status = status
        self.timed_out = timed_out
        self.started = started


class Supervisor:
    def __init__(self, place: Place, lifeline: int | None = None) -> None:
        self.place = place
        self.lifeline = lifeline
        self.signals = Signals()
        self.lock = self._take_lock()
        self.spec: dict[str, Any] = json.loads(place.read("spec.json"))
        self.key = place.read("key")
        self.oom_kills = oom_kills()
        self.printed = 0
        self.output_tail = bytearray()
        self.peak_memory = 0

    def run(self) -> int:
        """Attempts until one counts; publishes what it left and returns the exit code."""
        if self.spec["python"] != "{}.{}".format(*sys.version_info):
            here = "{}.{}".format(*sys.version_info)
            return self._publish_error(CODE_PYTHON, {"there": self.spec["python"], "here": here}, 0)
        if self.spec.get("upload") and not self._wait_for_upload():
            return self._publish_error(CODE_UPLOAD, {"waited": self.spec["pull_allowance"]}, 0)
        attempt = 0
        while True:
            attempt += 1
            ending = self._attempt(attempt)
            if self.signals.terminating and ending.header is None:
                os.unlink(self.place.out("alive"))  # the courier need not wait for it to grow old
                return EXIT_TERMINATED
            more = attempt <= self.spec["retries"] and not self.signals.terminating
            if more and self._counts_as_retryable(ending) and self._back_off(attempt):
                continue
            return self._publish(ending, attempt)

    # -- one attempt

    def _attempt(self, attempt: int) -> Ending:
        frames, frames_end = os.pipe()
        output, output_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            self._become_child(attempt, frames_end, output_end)
        os.close(frames_end)
        os.close(output_end)
        try:
            return self._watch(pid, frames, output)
        finally:
            os.close(frames)
            os.close(output)

    def _become_child(self, attempt: int, frames: int, output: int) -> None:
        """Never returns. The lock's descriptor goes: a flock lives as long as any copy of it."""
        status = 70
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            os.close(self.lock)
            if self.lifeline is not None:
                os.close(self.lifeline)
            os.setsid()
            os.dup2(output, 1)
            os.dup2(output, 2)
            null = os.open(os.devnull, os.O_RDONLY)
            os.dup2(null, 0)
            self._arm_stacks()
            from kubefunc.runner import child

            for stream in (sys.stdout, sys.stderr):
                stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
            child.run(self.spec, attempt, self.place.payload(), self.place.out("body"), frames)
            status = 0
            import atexit

            atexit._run_exitfuncs()
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(status)

    def _arm_stacks(self) -> None:
        """At the timeout, every thread's stack goes to a file, even where the function holds the GIL."""
        import faulthandler

        faulthandler.enable(2)
        if self.spec["timeout"] is not None:
            self._stacks = open(self.place.out("stacks"), "wb")
            faulthandler.dump_traceback_later(self.spec["timeout"], file=self._stacks)

    def _watch(self, pid: int, frames: int, output: int) -> Ending:  # noqa: C901 - one loop over all that can happen
        reader = FrameReader(frames)
        status: int | None = None
        deadline = timeout_at = float("inf")
        started: float | None = None
        timed_out = False
        open_pipes = [frames, output]
        while status is None:
            now = time.monotonic()
            if now >= deadline:
                timed_out = reader.header is None
                kill_group(pid, signal.SIGKILL)
                deadline = float("inf")
            wait = max(0.0, min(deadline - now, ALIVE_EVERY))
            lifelines = [] if self.lifeline is None else [self.lifeline]
            ready, _, _ = select.select([*open_pipes, *lifelines, self.signals.pipe], [], [], wait)
            if self.lifeline in ready:  # its end: the client is gone, on this machine nothing may outlive it
                kill_group(pid, signal.SIGKILL)
                os._exit(EXIT_TERMINATED)
            self._touch_alive()
            if output in ready and not self._pump(output):
                open_pipes.remove(output)
            if frames in ready and not reader.read():
                open_pipes.remove(frames)
            if reader.started and started is None:
                started = time.time()
                if self.spec["timeout"] is not None:
                    timeout_at = time.monotonic() + self.spec["timeout"] + STACKS_GRACE
                    deadline = timeout_at
            if reader.header is not None and deadline in (timeout_at, float("inf")) and not timed_out:
                deadline = time.monotonic() + EXIT_GRACE
                timeout_at = -1.0
            if self.signals.drain():
                kill_group(pid, signal.SIGTERM)
            status = self._reap(pid)
        kill_group(pid, signal.SIGKILL)  # what the function left running
        while reader.header is None and frames in open_pipes and readable(frames) and reader.read():
            pass
        while output in open_pipes and readable(output) and self._pump(output):
            pass
        return Ending(reader.header, status, timed_out, started)

    def _reap(self, pid: int) -> int | None:
        """The child's wait status once it has ended. Orphans that came to this first process are reaped on the way."""
        while True:
            try:
                ended, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return 0
            if ended == 0:
                return None
            if ended == pid:
                self.peak_memory = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
                return status

    def _pump(self, output: int) -> bool:
        """Pass on what the function printed. It goes through here to be counted: the client sees what it missed."""
        data = os.read(output, OUTPUT_CHUNK)
        self.printed += len(data)
        self.output_tail = (self.output_tail + data)[-OUTPUT_TAIL:]
        view = memoryview(data)
        while view:
            view = view[os.write(1, view) :]
        return bool(data)

    # -- between attempts

    def _counts_as_retryable(self, ending: Ending) -> bool:
        if ending.header is not None:
            return bool(ending.header.get("retry"))
        if ending.timed_out:
            return True
        return not self._out_of_memory(ending)

    def _out_of_memory(self, ending: Ending) -> bool:
        killed = os.WIFSIGNALED(ending.status) and os.WTERMSIG(ending.status) == signal.SIGKILL
        return killed and oom_kills() > self.oom_kills

    def _back_off(self, attempt: int) -> bool:
        """Wait before the next attempt; False when SIGTERM ends the waiting."""
        initial, factor, maximum = self.spec["backoff"]
        delay = min(maximum, initial * factor ** (attempt - 1)) * random.uniform(0.5, 1.0)
        until = time.monotonic() + delay
        while (left := until - time.monotonic()) > 0:
            select.select([self.signals.pipe], [], [], min(left, ALIVE_EVERY))
            self._touch_alive()
            if self.signals.drain():
                return False
        return True

    def _wait_for_upload(self) -> bool:
        until = time.monotonic() + self.spec["pull_allowance"]
        while not os.path.exists(self.place.out("payload")):
            if time.monotonic() > until or self.signals.terminating:
                return False
            select.select([self.signals.pipe], [], [], 0.02)
            self.signals.drain()
            self._touch_alive()
        return True

    # -- the lock and the result

    def _take_lock(self) -> int:
        """``lock`` appears only once it is held: it exists = started, it is free = ended."""
        path = self.place.out("lock.tmp")
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(lock, fcntl.LOCK_EX)
        self._touch_alive()
        os.rename(path, self.place.out("lock"))
        return lock

    def _touch_alive(self) -> None:
        now = time.monotonic()
        if now - getattr(self, "_touched", -ALIVE_EVERY) < ALIVE_EVERY:
            return
        self._touched = now
        with open(self.place.out("alive"), "wb"):
            pass

    def _publish(self, ending: Ending, attempt: int) -> int:
        if ending.header is not None:
            return self._publish_header(ending.header, attempt)
        if ending.timed_out:
            detail = {"timeout": self.spec["timeout"], "stacks": self._stacks_text()}
            return self._publish_error(CODE_TIMEOUT, detail, attempt, ending.started)
        if self._out_of_memory(ending):
            return self._publish_error(CODE_OOM, {"limit": memory_limit()}, attempt, ending.started)
        signalled = os.WIFSIGNALED(ending.status)
        detail = {"signal": os.WTERMSIG(ending.status)} if signalled else {"exit_code": os.WEXITSTATUS(ending.status)}
        return self._publish_error(CODE_DIED, detail, attempt, ending.started)

    def _stacks_text(self) -> str:
        try:
            with open(self.place.out("stacks"), errors="replace") as file:
                return file.read(20_000)
        except FileNotFoundError:
            return ""

    def _publish_error(self, code: str, detail: dict[str, Any], attempt: int, started: float | None = None) -> int:
        with open(self.place.out("body"), "wb"):
            pass
        empty = hashlib.sha256().hexdigest()
        header = {"outcome": ERROR, "code": code, "detail": detail, "size": 0, "sha256": empty}
        times = {"started": started, "finished": time.time(), "peak_memory": self.peak_memory}
        return self._publish_header({**header, **times}, attempt)

    def _publish_header(self, header: dict[str, Any], attempt: int) -> int:
        """Complete the envelope behind its body, give it its name, leave the termination message, free the lock."""
        body = self.place.out("body")
        header.update(call=self.spec["call"], attempts=attempt, printed=self.printed)
        self._leave_termination_message(body, header)
        output = binascii.b2a_base64(self.output_tail, newline=False).decode()
        with open(body, "ab") as file:
            file.write(wire.tail({**header, "output": output}, self.key))
        os.chmod(body, 0o644)
        os.replace(body, self.place.out("result"))
        os.close(self.lock)
        return EXIT_VALUE if header["outcome"] == VALUE else EXIT_RAISED

    def _leave_termination_message(self, body: str, header: dict[str, Any]) -> None:
        """A small result fits in whole; what was printed is left out there, the log has it."""
        if self.place.termination_log is None:
            return
        text = None
        if self.spec["inline"] and header["size"] < 64 * 1024:
            with open(body, "rb") as file:
                text = wire.termination_text(file.read() + wire.tail(header, self.key))
        if text is not None:
            with open(self.place.out("inline"), "wb"):
                pass
        try:
            with open(self.place.termination_log, "w") as file:
                file.write(text or wire.termination_size(header["size"], header["sha256"]))
        except OSError as error:  # the result stands in a file all the same
            print(f"kubefunc: no termination message: {error}", file=sys.stderr)


class FrameReader:
    """The child's frames, as they arrive in pieces."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._data = bytearray()
        self.started = False
        self.header: dict[str, Any] | None = None

    def read(self) -> bool:
        """Take in what there is; False at the end of the pipe."""
        data = os.read(self._descriptor, 65536)
        self._data += data
        while len(self._data) >= 5:
            size = 5 + wire.LENGTH.unpack_from(self._data, 1)[0]
            if len(self._data) < size:
                break
            letter, content = bytes(self._data[:1]), bytes(self._data[5:size])
            del self._data[:size]
            self.started = True
            if letter == b"F":
                self.header = json.loads(content)
        return bool(data)


def readable(descriptor: int) -> bool:
    return bool(select.select([descriptor], [], [], 0)[0])


def kill_group(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):  # gone, or (macOS) only zombies are left
        pass


def oom_kills() -> int:
    """How often the kernel's OOM killer struck in this container: cgroup v2, then v1; 0 where neither tells."""
    for path in ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"):
        try:
            with open(path) as file:
                return parse_oom_kills(file.read())
        except OSError:
            continue
    return 0


def parse_oom_kills(text: str) -> int:
    """The counter ``oom_kill`` of cgroup v2's memory.events or v1's memory.oom_control.

    >>> parse_oom_kills("low 0\\nhigh 0\\noom 1\\noom_kill 2\\n")
    2
    """
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name == "oom_kill" and value.strip().isdigit():
            return int(value)
    return 0


def memory_limit() -> int | None:
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            with open(path) as file:
                text = file.read().strip()
        except OSError:
            continue
        return int(text) if text.isdigit() and int(text) < 1 << 60 else None
    return None


def supervise(place: Place, lifeline: int | None = None) -> int:
    return Supervisor(place, lifeline).run()
