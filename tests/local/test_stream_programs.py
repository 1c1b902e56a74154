"""The values of a generator in a Pod: the supervisor's child writes them, a streamer sends them, as processes."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from kubefunc.envelope import verify
from kubefunc.reading.unpickling import loads
from kubefunc.runner import (
    EXIT_RAISED,
    EXIT_TERMINATED,
    EXIT_VALUE,
    FOLLOW_DATA,
    READER_ACK,
    READER_NOTHING,
    READER_RESULT,
    STREAMER_TAKEN,
)
from kubefunc.runner.protocol import pipes, wire
from tests.local.pod import CALL, KEY, WITHIN, Pod, until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Pods are Linux")

Made = Callable[..., Pod]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """Makes this test's Pod, of a generator function."""
    return lambda function, **spec: Pod(tmp_path, function, **{"stream": {"ahead": 3}, **spec})


class Streamer:
    """The client's end of a streamer."""

    def __init__(self, pod: Pod, number: int = 0) -> None:
        self.process = pod.start("streamer", str(number))
        self._frames = wire.Frames()
        self._waiting: list[tuple[bytes, bytes]] = []

    def next(self) -> tuple[bytes, Any]:
        """The next frame that is no heartbeat; of a value its number and the value."""
        while not self._waiting:
            data = os.read(self._pipe(self.process.stdout).fileno(), 65536)
            assert data, "the streamer has ended"
            self._waiting += [frame for frame in self._frames.feed(data) if frame[0] != b"."]
        letter, data = self._waiting.pop(0)
        if letter == FOLLOW_DATA:
            envelope = verify(data, KEY, CALL)
            return letter, (envelope.header["number"], loads(envelope.body))
        return letter, data

    def values(self, count: int) -> list[Any]:
        """The next values, whose numbers follow each other."""
        frames = [self.next() for _ in range(count)]
        assert {letter for letter, _ in frames} <= {FOLLOW_DATA}
        numbers = [number for _, (number, _) in frames]
        assert numbers == list(range(numbers[0], numbers[0] + count))
        return [value for _, (_, value) in frames]

    def take(self, count: int) -> None:
        """Say that so many values were taken."""
        self._pipe(self.process.stdin).write(STREAMER_TAKEN + pipes.UPLOAD_HEAD.pack(count))

    def send(self, data: bytes) -> None:
        self._pipe(self.process.stdin).write(data)

    def leave(self) -> int:
        """Hang up, and wait for its end."""
        with self.process:
            self._pipe(self.process.stdin).close()
            return self.process.wait(WITHIN)

    def _pipe(self, end: IO[bytes] | None) -> IO[bytes]:
        assert end is not None
        return end


@contextlib.contextmanager
def running(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """End it in any case."""
    with process:
        try:
            yield process
        finally:
            process.terminate()
            process.wait(WITHIN)


def files(pod: Pod) -> set[str]:
    """The values that are in the volume."""
    directory = pod.out_dir / "stream"
    return {name for name in os.listdir(directory) if name.isdigit()} if directory.exists() else set()


def three() -> Iterator[str]:
    """A short one."""
    yield from "abc"


def endless() -> Iterator[int]:
    """One without an end."""
    yield from itertools.count()


def test_values_then_the_result(made: Made) -> None:
    """The streamer sends all, and its client's acknowledgement lets the Pod end."""
    pod = made(three)
    with pod.start("courier") as courier, pod.start("main") as main:
        streamer = Streamer(pod)
        assert streamer.values(3) == ["a", "b", "c"]
        streamer.take(3)
        letter, result = streamer.next()
        assert letter == READER_RESULT
        assert verify(result, KEY, CALL).header["streamed"] == 3
        assert main.wait(WITHIN) == EXIT_VALUE
        streamer.send(READER_ACK)
        assert streamer.process.wait(WITHIN) == 0
        streamer.leave()
        assert courier.wait(WITHIN) == 0


def test_the_generator_is_no_further_ahead_than_it_may_be(made: Made) -> None:
    """What was taken is removed, so the volume holds a bounded number of values, too."""
    pod = made(endless)
    with running(pod.start("main")):
        until(lambda: files(pod) == {"0", "1", "2"}, "three values")
        time.sleep(0.2)
        assert files(pod) == {"0", "1", "2"}
        streamer = Streamer(pod)
        assert streamer.values(3) == [0, 1, 2]
        streamer.take(2)
        assert streamer.values(2) == [3, 4]
        until(lambda: files(pod) == {"2", "3", "4"}, "two more")
        streamer.leave()


def test_a_streamer_goes_on_where_another_was_cut(made: Made) -> None:
    """At the first value that has not come; what was taken may be said again."""
    pod = made(endless)
    with running(pod.start("main")):
        first = Streamer(pod)
        assert first.values(3) == [0, 1, 2]
        first.process.kill()
        first.leave()
        second = Streamer(pod, 3)
        second.take(3)
        assert second.values(3) == [3, 4, 5]
        assert second.leave() == 0


def test_bytes_bound_it_as_well(made: Made) -> None:
    """Large values wait for their consumer before ``ahead`` of them are there."""

    def large() -> Iterator[bytes]:
        for _ in range(4):
            yield bytes(1_000_000)

    pod = made(large, stream={"ahead": 100, "bytes": 1_500_000})
    with running(pod.start("main")):
        until(lambda: files(pod) == {"0", "1"}, "two values")
        time.sleep(0.2)
        assert files(pod) == {"0", "1"}


def test_one_that_nobody_listens_to_ends(made: Made) -> None:
    """The client was killed: after a while its Pod does not wait any longer, and its ``finally:`` runs."""

    def told() -> Iterator[int]:
        try:
            yield from itertools.count()
        finally:
            print("cleaned up")

    pod = made(told, stream={"ahead": 2, "left_after": 0.3})
    code, printed = pod.run("main")
    assert code == EXIT_RAISED
    assert printed == b"cleaned up\n"
    assert "no client has been connected" in str(pod.result().header["nodes"])


def test_a_client_that_is_there_and_takes_nothing_may_do_so(made: Made) -> None:
    """The streamer shows that it is there."""
    pod = made(endless, stream={"ahead": 2, "left_after": 1.0})
    with running(pod.start("main")) as main:
        until(lambda: files(pod) == {"0", "1"}, "two values")
        streamer = Streamer(pod)
        assert streamer.values(2) == [0, 1]
        seen = pod.out_dir / "stream" / "seen"
        assert seen.exists()
        later = time.time() + 1000
        os.utime(seen, (later, later))
        time.sleep(1.5)
        assert main.poll() is None
        streamer.leave()


def test_sigterm_closes_the_generator(made: Made) -> None:
    """It gets GeneratorExit at its ``yield``; the Pod's exit code says that it was ended from outside."""

    def told() -> Iterator[int]:
        try:
            yield from itertools.count()
        except GeneratorExit:
            print("closed", flush=True)
            raise

    pod = made(told)
    with pod.start("main") as main:
        until(lambda: len(files(pod)) == 3, "three values")
        main.terminate()
        assert main.communicate(timeout=WITHIN)[0] == b"closed\n"
        assert main.returncode == EXIT_TERMINATED


def test_without_a_result_the_streamer_says_so(made: Made) -> None:
    """After the values that are there: main was told to end before it had a result."""
    pod = made(endless)
    with pod.start("main") as main:
        until(lambda: len(files(pod)) == 3, "three values")
        main.terminate()
        main.wait(WITHIN)
    streamer = Streamer(pod)
    assert streamer.values(3) == [0, 1, 2]
    assert streamer.next()[0] == READER_NOTHING
    streamer.leave()


def test_a_function_cannot_lead_the_streamer_elsewhere(made: Made) -> None:
    """A link or a pipe in the place of a value is no value."""
    pod = made(three)
    stream = pod.out_dir / "stream"
    stream.mkdir()
    (stream / "0").symlink_to("/etc/hostname")
    streamer = Streamer(pod)
    time.sleep(0.3)
    assert streamer.process.poll() is None
    (pod.out_dir / "result").write_bytes(b"whatever")
    assert streamer.next() == (READER_RESULT, b"whatever")
    streamer.leave()
