"""The one thread for all streams to warm workers: what it does, when, and what is left of it."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from kubefunc.backends.kubernetes.api.exec import STRAGGLERS
from kubefunc.backends.kubernetes.api.exec_errors import ExecRefused
from kubefunc.backends.kubernetes.warm import loop as module
from kubefunc.backends.kubernetes.warm.loop import StreamLoop
from kubefunc.backends.kubernetes.warm.open_stream import OpenStream
from kubefunc.backends.kubernetes.warm.outbox import Outbox
from kubefunc.backends.kubernetes.warm.records import Record
from kubefunc.backends.kubernetes.warm.stream import Way, WorkerStream

WITHIN = 30.0


class Ticking:
    """A clock that stands still until it is set, and what was done."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.done: list[str] = []
        self.loop = StreamLoop(lambda: self.now)

    def do(self, what: str) -> Callable[[], None]:
        """Notes that it was done."""
        return lambda: self.done.append(what)

    def in_loop(self, work: Callable[[], object]) -> None:
        """Have the loop do this, and wait for it."""
        done = threading.Event()
        self.loop.soon(lambda: (work(), done.set()))  # type: ignore[func-returns-value]
        assert done.wait(WITHIN)

    def turn(self) -> None:
        """Let the loop go round once more."""
        self.in_loop(lambda: None)
        self.in_loop(lambda: None)


@pytest.fixture
def ticking() -> Iterator[Ticking]:
    """A loop without members; its thread has ended when the test has."""
    made = Ticking()
    yield made
    for _ in range(made.loop._members):  # of a test that has failed
        made.loop.leave()
    until(lambda: all(each.name != "kubefunc-streams" for each in threading.enumerate()))


def until(reached: Callable[[], object]) -> None:
    """Wait for this."""
    deadline = time.monotonic() + WITHIN
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def pollers() -> int:
    """How many descriptors of this process wait for others."""
    paths = [f"/proc/self/fd/{each}" for each in os.listdir("/proc/self/fd")]
    return sum(os.path.exists(path) and "eventpoll" in os.readlink(path) for path in paths)


def descriptors() -> set[str]:
    """What this process has open; that of other tests may be closed at any time."""
    paths = [f"/proc/self/fd/{each}" for each in os.listdir("/proc/self/fd")]
    return {os.readlink(path) for path in paths if os.path.lexists(path)}


def test_what_is_due_is_done_in_its_order(ticking: Ticking) -> None:
    """What was cancelled is not."""
    loop = ticking.loop
    loop.enter()
    ticking.in_loop(lambda: loop.after(2.0, ticking.do("second")))
    ticking.in_loop(lambda: loop.after(1.0, ticking.do("first")))
    ticking.in_loop(lambda: loop.after(1.5, ticking.do("never")).cancel())
    ticking.in_loop(lambda: loop.after(60.0, ticking.do("much later")))
    ticking.turn()
    assert ticking.done == []
    ticking.now += 2.0
    ticking.turn()
    assert ticking.done == ["first", "second"]
    loop.leave()


def test_what_fails_for_one_member_is_no_others_matter(ticking: Ticking, caplog: pytest.LogCaptureFixture) -> None:
    """The log has it."""
    loop = ticking.loop
    loop.enter()
    loop.soon(lambda: [][0])
    ticking.in_loop(ticking.do("goes on"))
    assert ticking.done == ["goes on"]
    assert "IndexError" in caplog.text
    loop.leave()


def test_the_thread_ends_with_its_last_member(ticking: Ticking) -> None:
    """And leaves no descriptor; the next member has a new one."""
    loop = ticking.loop
    before = descriptors()
    for _ in range(3):
        loop.enter()
        loop.enter()
        loop.leave()
        ticking.in_loop(ticking.do("round"))
        thread = next(each for each in threading.enumerate() if each.name == "kubefunc-streams")
        loop.leave()
        thread.join(WITHIN)
        assert descriptors() - before == set()
    assert ticking.done == ["round"] * 3


def test_what_takes_long_is_done_elsewhere(ticking: Ticking, monkeypatch: pytest.MonkeyPatch) -> None:
    """By some threads at most, which end when all is done; the loop is told of failures, too."""
    monkeypatch.setattr(module, "OPENED_AT_ONCE", 3)
    loop = ticking.loop
    loop.enter()
    go_on = threading.Event()
    begun: list[str] = []
    failures: list[Exception | None] = []

    def work() -> None:
        begun.append(threading.current_thread().name)
        go_on.wait(WITHIN)
        raise OSError("no")

    for _ in range(5):
        loop.open(work, failures.append)
    until(lambda: len(begun) == 3)
    ticking.in_loop(ticking.do("is not held up"))
    assert ticking.done == ["is not held up"]
    assert len(begun) == 3
    go_on.set()
    until(lambda: len(failures) == 5)
    assert {str(each) for each in failures} == {"no"}
    until(lambda: all(each.name != "kubefunc-opens" for each in threading.enumerate()))
    loop.leave()


def test_a_ready_descriptor_is_told_of(ticking: Ticking) -> None:
    """Until it is not watched any more."""
    loop = ticking.loop
    loop.enter()
    here, there = socket.socketpair()
    with here, there:
        ticking.in_loop(lambda: loop.watch(here.fileno(), 1, lambda: ticking.done.append(here.recv(10).decode())))
        there.send(b"hello")
        until(lambda: ticking.done == ["hello"])
        ticking.in_loop(lambda: loop.unwatch(here.fileno()))
        there.send(b"again")
        ticking.turn()
        assert ticking.done == ["hello"]
    loop.leave()


def test_a_forked_child_leaves_its_parents_streams_alone(ticking: Ticking) -> None:
    """It drops what the loop has waited with, and the parent goes on reading."""
    loop = ticking.loop
    loop.enter()
    here, there = socket.socketpair()
    with here, there:
        ticking.in_loop(lambda: loop.watch(here.fileno(), 1, lambda: ticking.done.append(here.recv(10).decode())))
        pid = os.fork()
        if pid == 0:
            fewer = 0
            try:
                before = pollers()  # other tests may have left some
                loop.forget()
                loop.soon(lambda: None)
                fewer = before - pollers()
            finally:
                os._exit(fewer)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
        there.send(b"hello")
        until(lambda: ticking.done == ["hello"])
    loop.leave()


def test_a_thread_that_cannot_start_is_told_once(ticking: Ticking, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it should have done is not done by the next one either: its member has been told that it failed."""
    loop = ticking.loop
    loop.enter()
    failures: list[str] = []
    real = threading.Thread.start

    def none_left(thread: threading.Thread) -> None:
        if thread.name == "kubefunc-opens":
            raise RuntimeError("can't start new thread")
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", none_left)
    loop.open(ticking.do("the first"), lambda failure: failures.append(f"first: {failure}"))
    monkeypatch.setattr(threading.Thread, "start", real)
    loop.open(ticking.do("the second"), lambda failure: failures.append(f"second: {failure}"))
    until(lambda: len(failures) == 2)
    ticking.turn()
    assert sorted(failures) == ["first: can't start new thread", "second: None"]
    assert ticking.done == ["the second"]
    loop.leave()


def test_a_signal_handler_may_use_the_loop(ticking: Ticking) -> None:
    """It comes at any moment, also while its thread changes what the loop has to do."""
    loop = ticking.loop
    loop.enter()
    with loop._lock:
        loop.soon(ticking.do("what the handler asked for"))
    until(lambda: ticking.done)
    loop.leave()


def test_what_ends_a_thread_does_not_end_the_loop(ticking: Ticking, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody would start it again, and all streams would be silent."""
    loop = ticking.loop
    loop.enter()
    loop.soon(sys.exit)
    ticking.in_loop(ticking.do("goes on"))
    assert ticking.done == ["goes on"]
    assert "SystemExit" in caplog.text
    loop.leave()


class Ending:
    """A connection whose command has ended, and whose other side does not close it."""

    is_ending = True
    unsent = 0

    def __init__(self, descriptor: int) -> None:
        self.fileno = lambda: descriptor

    def receive(self, scratch: object) -> tuple[bytes, bool]:
        """Nothing comes."""
        return b"", False

    def raise_end(self) -> None:
        """How it has ended."""
        raise ExecRefused("it has ended")

    def release(self) -> None:
        """It is closed."""


class Listening:
    """Whose stream it is."""

    over = False

    def __init__(self) -> None:
        self.heard: list[Exception | None] = []
        self.ended = self.heard.append


def test_a_stream_that_has_ended_and_is_not_closed_is_given_up(ticking: Ticking) -> None:
    """After a moment for the last of its output; the error is that of its end."""
    loop, listening = ticking.loop, Listening()
    loop.enter()
    here, there = socket.socketpair()
    with here, there:
        outbox = Outbox(list, lambda: None)
        connection = cast(Any, Ending(here.fileno()))
        stream = OpenStream(cast(Any, listening), connection, cast(Any, None), outbox, loop)
        ticking.in_loop(stream.begin)
        for _ in range(5):
            ticking.now += STRAGGLERS / 4
            ticking.turn()
        until(lambda: listening.heard)
        assert [str(each) for each in listening.heard] == ["it has ended"]
        ticking.turn()
    loop.leave()


class Confused:
    """A reader that cannot bear that a stream breaks."""

    def __init__(self) -> None:
        self.asked = 0

    def address(self) -> Record:
        """Nowhere."""
        self.asked += 1
        return Record("worker-x", "token", "team", "pod-1")

    def stream_broke(self, error: Exception) -> None:
        """It is asked about that."""
        raise LookupError(str(error))


class Nowhere:
    """An API server that cannot be reached."""

    def __getattr__(self, name: str) -> object:
        raise OSError("no network")


def test_a_reader_that_fails_gets_its_next_stream_all_the_same(ticking: Ticking) -> None:
    """And its stream can be closed."""
    reader = Confused()
    stream = WorkerStream(cast(Any, reader), Way(cast(Any, Nowhere()), "me", ticking.loop), 0.0, pod_runs=False)
    stream.start()
    until(lambda: reader.asked == 1)
    ticking.turn()
    ticking.now += 1.0
    ticking.turn()
    until(lambda: reader.asked == 2)
    stream.close()
    stream.join(WITHIN)
    until(lambda: all(each.name != "kubefunc-streams" for each in threading.enumerate()))
