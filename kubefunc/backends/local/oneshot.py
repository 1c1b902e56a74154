"""Processes without fork: each attempt has a process of its own, started ahead of time and watched from here.

The way of Windows; nothing here or in :mod:`kubefunc.runner.local.oneshot` needs more than Windows has. What differs
from fork: a call costs the start of a Python where none was started ahead, cancelling gives the function no moment for
its clean-up, and what the function itself has started is not ended with it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import queue
import socket
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from kubefunc.backends.local.launch import command, start_directory, start_thread
from kubefunc.backends.local.run import Ended, Run, not_started
from kubefunc.runner import CODE_DIED, CODE_TIMEOUT, OUTPUT_TAIL, STREAM
from kubefunc.runner.execution import attempts, reports
from kubefunc.runner.execution.request import END_GRACE, OUTPUT, RESULT, Request
from kubefunc.runner.local.oneshot import HEAD
from kubefunc.runner.protocol import wire

OUTPUT_CHUNK = 65536
LAST_OUTPUT_WITHIN = 0.5  # seconds; a process that the function left behind may hold the pipe open

NEWS, GONE, PRINTED, END = "news", "gone", "printed", "end"


class _Process:
    """A process that was started for one attempt. Two threads read its pipes into its watcher's queue."""

    def __init__(self, directory: Path, environ: Mapping[str, str]) -> None:
        self.popen = subprocess.Popen(
            command("oneshot", str(directory)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environ,
            cwd=start_directory(),
            bufsize=0,
            # Ctrl-C is for the caller alone.
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        self.frames = reports.FrameReader(_pipe(self.popen.stdout).fileno())
        self._threads: list[threading.Thread] = []  # that were started

    def hand_over(self, attempt: int, request: bytes, events: queue.SimpleQueue[_Event]) -> None:
        """Give it its attempt and report what comes of that.

        Raises:
            OSError: it has died, or no thread can be started.
        """
        for read in (self._read_frames, self._read_output):
            self._threads.append(start_thread("kubefunc-local", functools.partial(read, events)))
        _pipe(self.popen.stdin).write(HEAD.pack(attempt, len(request)) + request)

    def _read_frames(self, events: queue.SimpleQueue[_Event]) -> None:
        while self.frames.read():
            events.put(_Event(NEWS, self))
        events.put(_Event(GONE, self))

    def _read_output(self, events: queue.SimpleQueue[_Event]) -> None:
        descriptor = _pipe(self.popen.stderr).fileno()
        while data := os.read(descriptor, OUTPUT_CHUNK):
            events.put(_Event(PRINTED, self, data))

    def end(self) -> int:
        """Kill it if it lives, and let its pipes go; its exit code."""
        self.popen.kill()
        code = self.popen.wait()
        _pipe(self.popen.stdin).close()
        for thread in self._threads:
            thread.join(LAST_OUTPUT_WITHIN)
        if not any(thread.is_alive() for thread in self._threads):
            _pipe(self.popen.stdout).close()
            _pipe(self.popen.stderr).close()
        return code


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise RuntimeError("a process without pipes")
    return pipe


class _Event:
    """Something that a watcher waits for."""

    def __init__(self, what: str, process: _Process | None = None, data: bytes = b"") -> None:
        self.what = what
        self.process = process
        self.data = data


class _Watcher:
    """A run from its first attempt to its last: what the supervisor is where there is fork."""

    def __init__(self, run: Run, owner: OneShots) -> None:
        self.run = run
        self.events: queue.SimpleQueue[_Event] = queue.SimpleQueue()
        self.process: _Process | None = None
        self._owner = owner
        self._request = Request(run.request)
        self._ending = False
        self._printed = 0
        self._tail = bytearray()

    def watch(self) -> None:
        """In a thread of its own."""
        lost = "its process was told to end"
        try:
            self._attempts()
        except OSError as error:
            lost = not_started(error)
        finally:
            self._owner.watched(self, lost)

    def _attempts(self) -> None:
        attempt = int(self._request.spec.used)
        while True:
            attempt += 1
            header = self._attempt(attempt)
            if header is None:
                return
            more = attempt <= self._request.spec.retries and header.get("retry", False) and not self._ending
            if more:
                self._say(attempts.announcement(self._request.spec.call, self._request.spec.retries, attempt, header))
            if not more or not self._wait(attempts.back_off(self._request.spec.backoff, attempt)):
                self._publish(header, attempt)
                return

    def _attempt(self, attempt: int) -> dict[str, Any] | None:
        """How it ended, as an envelope's header; None if it was told to end and left nothing."""
        self.process = process = self._owner.take(attempt, self._request.data, self.events)
        clock = attempts.Clock()
        timed_out = False
        started: float | None = None
        while not process.frames.ended:
            event = self._next(clock.left())
            if event is None:
                timed_out = clock.why == "timeout"
                clock.stop()
                process.popen.kill()
            elif event.what == END:
                process.popen.terminate()
                clock.set("end", END_GRACE)
            elif event.process is process and event.what == GONE:
                break
            started = self._mind_the_time(process.frames, clock, started)
        timed_out = timed_out or clock.timeout_has_come()  # before the wait for the end of what it has printed
        code = process.end()
        self._take_last_output()
        if process.frames.header is not None or self._ending:
            return process.frames.header
        return self._failure(code, timed_out, started)

    def _mind_the_time(self, frames: reports.FrameReader, clock: attempts.Clock, started: float | None) -> float | None:
        """Set the clock for what comes next; when the function started."""
        timeout = self._request.spec.timeout
        if frames.header is not None and clock.why != "exit":
            clock.set("exit", attempts.EXIT_GRACE)
        elif frames.started and started is None:
            started = time.time()
            if timeout is not None:
                clock.set("timeout", timeout + attempts.STACKS_GRACE)
        return started

    def _next(self, seconds: float) -> _Event | None:
        """The next event, or None when the time is up. What was printed is passed on here."""
        try:
            event = self.events.get(timeout=None if seconds == attempts.FOREVER else seconds)
        except queue.Empty:
            return None
        if event.what == PRINTED:
            self._pass_on(event.data)
        self._ending = self._ending or event.what == END
        return event

    def _wait(self, seconds: float) -> bool:
        """Before the next attempt; False when the wait was ended from outside."""
        until = time.monotonic() + seconds
        while not self._ending and (left := until - time.monotonic()) > 0:
            self._next(left)
        return not self._ending

    def _say(self, text: str) -> None:
        """Add a line of our own to what the function printed."""
        line_end = "" if not self._tail or self._tail.endswith(b"\n") else "\n"
        self._pass_on(f"{line_end}kubefunc: {text}\n".encode())

    def _pass_on(self, data: bytes) -> None:
        self._printed += len(data)
        self._tail = (self._tail + data)[-OUTPUT_TAIL:]
        self.run.heard(OUTPUT, data)

    def _take_last_output(self) -> None:
        while not self.events.empty():
            self._next(0)

    def _failure(self, code: int, timed_out: bool, started: float | None) -> dict[str, Any]:
        """It left no word of its own."""
        if timed_out:
            stacks = attempts.read_stacks(self._request.path("stacks"))
            detail: dict[str, Any] = {"timeout": self._request.spec.timeout, "stacks": stacks}
            header = attempts.error_header(CODE_TIMEOUT, detail)
        else:
            detail = {"signal": -code} if code < 0 else {"exit_code": code}
            header = attempts.error_header(CODE_DIED, detail)
        may_retry = not attempts.has_streamed(self._request.spec, self._request.path(STREAM))
        return {**header, "retry": may_retry, "started": started, "finished": time.time(), "peak_memory": 0}

    def _publish(self, header: dict[str, Any], attempt: int) -> None:
        header.pop("error", None)
        header.update(call=self.run.call, attempts=attempt, printed=self._printed)
        body = self.process.frames.body if self.process is not None else None
        if header["size"] == 0:
            body = b""
        elif body is None:
            body = self.run.file("body").read_bytes()
        self.run.heard(RESULT, body + wire.tail(header, self._request.key))


class OneShots:
    """Implements :class:`kubefunc.backends.local.run.Processes`."""

    def __init__(self, directory: Path, ended: Ended) -> None:
        self.environ = dict(os.environ)
        self._directory = directory
        self._ended = ended
        self._lock = threading.RLock()
        self._spare: _Process | None = None
        self._watchers: dict[str, _Watcher] = {}
        self._threads: list[threading.Thread] = []  # of the watchers
        self._closed = False

    def warm(self) -> None:
        with self._lock:
            if self._spare is None and not self._closed:
                self._spare = _Process(self._directory, self.environ)

    def start(self, run: Run) -> None:
        watcher = _Watcher(run, self)
        run.request = b""
        with self._lock:
            self._watchers[run.call] = watcher
            self._threads = [thread for thread in self._threads if thread.is_alive()]
        try:
            thread = start_thread(f"kubefunc-{run.call}", watcher.watch)
        except OSError:
            with self._lock:
                del self._watchers[run.call]
            raise
        with self._lock:
            self._threads.append(thread)

    def end(self, run: Run) -> None:
        with self._lock:
            watcher = self._watchers.get(run.call)
        if watcher is not None:
            watcher.events.put(_Event(END))

    def new_pool(self) -> socket.socket:
        raise OSError("workers need fork")

    def close(self, until: float) -> None:
        with self._lock:
            self._closed = True
            spare, self._spare = self._spare, None
            processes = [watcher.process for watcher in self._watchers.values() if watcher.process is not None]
            threads = list(self._threads)
        for process in processes:
            process.popen.kill()
        if spare is not None:
            spare.end()
        for thread in threads:  # or one may print while the interpreter ends
            thread.join(max(0.0, until - time.monotonic()))

    def forget(self) -> None:
        """Without fork there is no forked child."""

    # -- for the watchers, in their threads

    def take(self, attempt: int, request: bytes, events: queue.SimpleQueue[_Event]) -> _Process:
        """A process that runs this attempt: the spare one, or a new one.

        Raises:
            OSError: none can be started.
        """
        with self._lock:
            if self._closed:
                raise OSError("this program is ending")
            process, self._spare = self._spare, None
        if process is not None:
            try:
                process.hand_over(attempt, request, events)
            except OSError:  # it died while it waited
                process.end()
                process = None
        if process is None:
            process = _Process(self._directory, self.environ)
            try:
                process.hand_over(attempt, request, events)
            except OSError:
                process.end()
                raise
        with contextlib.suppress(OSError):  # this one runs; the next will see
            self.warm()
        return process

    def watched(self, watcher: _Watcher, lost: str) -> None:
        with self._lock:
            self._watchers.pop(watcher.run.call, None)
        self._ended(watcher.run, lost)
