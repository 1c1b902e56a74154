"""Processes under supervision. What both supervisors share."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import sys
import time

from kubefunc.runner import CODE_DIED, CODE_OOM, CODE_TIMEOUT, EXIT_BROKEN, OUTPUT_TAIL
from kubefunc.runner.execution import attempts, child, memory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Protocol

    from kubefunc.runner.protocol.spec import RunnerSpec

    class Port(Protocol):
        """What a supervisor needs of its surroundings."""

        @property
        def spec(self) -> RunnerSpec: ...
        @property
        def end_grace(self) -> float: ...  # seconds between SIGTERM and SIGKILL; infinite where someone else kills
        @property
        def wakeups(self) -> Sequence[int]: ...  # descriptors: readable when ``asked_to_end`` has news
        @property
        def outgoing(self) -> Sequence[int]: ...  # descriptors: when one can be written to, ``tick`` goes on with that

        def path(self, name: str) -> str: ...
        def asked_to_end(self) -> bool: ...
        def tick(self) -> None: ...
        def prepare(self, overseer: Overseer) -> dict[str, Any] | None: ...  # None, or the header of an error
        def start(self, attempt: int) -> Child: ...
        def output(self, data: bytes) -> None: ...
        def publish(self, header: dict[str, Any], body: bytes | None, output: bytes) -> None: ...
        def give_up(self) -> None: ...


ALIVE_EVERY = 2.0
UPLOAD_POLL = 0.02
OUTPUT_READ_WITHIN = 5.0  # for the container runtime to take what was printed last
OUTPUT_CHUNK = 65536


class Signals:
    """SIGTERM and SIGCHLD as bytes in a pipe, so that one select waits for all there is to wait for."""

    def __init__(self) -> None:
        self.terminated = False
        self.pipe, self._write = os.pipe()
        for end in (self.pipe, self._write):
            os.set_blocking(end, False)
        for number in (signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        # A mask is inherited: the caller's thread may have blocked some, as this program does while it is loaded.
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def drain(self) -> bool:
        """Read what came; True if SIGTERM was among it."""
        try:
            has_come = signal.SIGTERM in os.read(self.pipe, 512)
        except BlockingIOError:
            return False
        self.terminated = self.terminated or has_come
        return has_come

    def forget(self) -> None:
        """In a forked child: back to how a program starts."""
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        os.close(self.pipe)
        os.close(self._write)


def take_over(descriptor: int) -> None:
    """Make a descriptor that another process sent this one's own.

    It blocks from here on: that is a property of what it refers to, and the sender's default timeout, or gevent, may
    have changed it.
    """
    os.set_inheritable(descriptor, False)
    os.set_blocking(descriptor, True)


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

    Raises:
        OSError: the system gives no process more.
    """
    pipes: list[int] = []
    try:
        pipes += os.pipe()
        pipes += os.pipe()
        pid = os.fork()
    except OSError:
        for each in pipes:
            os.close(each)
        raise
    frames, frames_end, output, output_end = pipes
    if pid == 0:
        try:
            forget()
            os.close(frames)
            os.close(output)
            become_child(output_end)
            run(frames_end)
            os._exit(0)
        except BaseException:
            print_fault()
        finally:
            os._exit(EXIT_BROKEN)
    lead_group(pid)  # both processes do it: after the first one, a signal to the group arrives
    os.close(frames_end)
    os.close(output_end)
    return Child(pid, frames, output)


def print_fault() -> None:
    """In a process that is about to end by an error of this program's own: say which."""
    import traceback  # not above, where all would wait for it

    traceback.print_exc()


def become_child(output: int) -> None:
    """A group of its own; nothing to read; what it prints goes to the pipe."""
    lead_group(0)
    for number in (1, 2):
        os.dup2(output, number)
    os.close(output)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    child.renew_streams()


def lead_group(pid: int) -> None:
    """Give the process (0: this one) a group of its own."""
    try:
        os.setpgid(pid, pid)
    except (PermissionError, ProcessLookupError):  # it has exec'ed, or ended, already
        pass


class Overseer:
    """What both supervisors do: wait, pass on what is printed, reap, notice that they are asked to end."""

    def __init__(self, port: Port, signals: Signals) -> None:
        self.port = port
        self.signals = signals
        self.spec = port.spec
        self.ending = False
        self.oom_kills = 0  # before the child that is watched
        self.printed = 0
        self.tail = bytearray()
        self.peak_memory = 0

    def wait(self, pipes: list[int], seconds: float) -> list[int]:
        """The descriptors that have news: of these pipes, of the signals and of the port."""
        watched = [*pipes, self.signals.pipe, *self.port.wakeups]
        ready, _, _ = select.select(watched, self.port.outgoing, [], min(seconds, ALIVE_EVERY))
        self.port.tick()
        return ready

    def is_ending(self) -> bool:
        """Whether it was asked to end by now: nothing is begun then that would have to be stopped at once."""
        self.asked_to_end(self.wait([], 0.0))
        return self.ending

    def asked_to_end(self, ready: list[int]) -> bool:
        asked = self.signals.pipe in ready and self.signals.drain()
        if any(each in ready for each in self.port.wakeups):
            asked = self.port.asked_to_end() or asked
        self.ending = self.ending or asked
        return asked

    def reap(self, pid: int) -> int | None:
        """The child's wait status once it has ended. Orphans that came to this first process are reaped on the way."""
        while True:
            ended, status, usage = os.wait4(-1, os.WNOHANG)
            if ended == 0:
                return None
            if ended == pid:
                self.peak_memory = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
                return status

    def pump(self, output: int) -> bool:
        """Pass on what the function printed. It goes through here to be counted: the client sees what it missed."""
        data = os.read(output, OUTPUT_CHUNK)
        self.pass_on(data)
        return bool(data)

    def say(self, text: str) -> None:
        """Add a line of our own to what the function printed."""
        line_end = "" if not self.tail or self.tail.endswith(b"\n") else "\n"
        self.pass_on(f"{line_end}kubefunc: {text}\n".encode())

    def pass_on(self, data: bytes) -> None:
        """Show it, and count it."""
        self.printed += len(data)
        self.tail = (self.tail + data)[-OUTPUT_TAIL:]
        if data:
            self.port.output(data)

    def out_of_memory(self, status: int) -> bool:
        """Whether the kernel has killed the child that ended so, for want of memory."""
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        return killed and memory.oom_kills() > self.oom_kills

    def back_off(self, attempt: int) -> float:
        """Seconds before the attempt after this one."""
        return attempts.back_off(self.spec.backoff, attempt)

    def wait_for_file(self, name: str, seconds: float) -> bool:
        """Whether the client has brought this file, waiting so long for it."""
        until = time.monotonic() + seconds
        return self.sleep_until(until, lambda: os.path.exists(self.port.path(name)), UPLOAD_POLL) is True

    def sleep_until(self, until: float, over: Callable[[], bool], poll: float) -> bool | None:
        """True: ``over`` became true; False: asked to end; None: the time has come."""
        while not over():
            left = until - time.monotonic()
            if left <= 0:
                return None
            if self.asked_to_end(self.wait([], min(left, poll))):
                return False
        return True

    def verdict(self, status: int, timed_out: bool) -> dict[str, Any]:
        """What the header says of a child that left no result: the clock, the kernel, or how it ended."""
        if timed_out:
            stacks = attempts.read_stacks(self.port.path("stacks"))
            code, detail = CODE_TIMEOUT, {"timeout": self.spec.timeout, "stacks": stacks}
        elif self.out_of_memory(status):
            code, detail = CODE_OOM, {"limit": memory.memory_limit()}
        elif os.WIFSIGNALED(status):
            code, detail = CODE_DIED, {"signal": os.WTERMSIG(status)}
        else:
            code, detail = CODE_DIED, {"exit_code": os.WEXITSTATUS(status)}
        return attempts.error_header(code, detail)


def is_readable(descriptor: int) -> bool:
    return bool(select.select([descriptor], [], [], 0)[0])


def kill_group(pid: int, number: int) -> None:
    """Signal a child's whole process group. It may be gone, or hold only zombies (macOS then says EPERM)."""
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def wait_until_read(pipe: int, seconds: float) -> bool:
    """Wait until nothing is left in a pipe that we write to; False if something still is.

    containerd drops what its reader has not taken from a container's output when the first process ends: the log lacks
    its last 64 KiB then, for good. The result is published before this wait, so no caller waits for it.
    """
    import array
    import termios

    unread = array.array("i", [0])
    until = time.monotonic() + seconds
    pause = 0.00002
    while True:
        try:
            fcntl.ioctl(pipe, termios.FIONREAD, unread)
        except OSError:  # not a pipe: nothing to be lost
            return True
        if unread[0] == 0:
            return True
        if time.monotonic() > until:
            return False
        time.sleep(pause)
        pause = min(2 * pause, 0.002)
