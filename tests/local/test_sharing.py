"""Warm workers that other programs have left: found, leased, refused."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from kubefunc.backends.kubernetes.api.requests import Api
from kubefunc.backends.kubernetes.warm.asking import states_of
from kubefunc.backends.kubernetes.warm.loop import StreamLoop
from kubefunc.backends.kubernetes.warm.records import Record, RecordFiles
from kubefunc.backends.kubernetes.warm.stream import Way
from kubefunc.backends.kubernetes.warm.worker import Owner, Worker
from tests.local.api_server import config_of
from tests.local.exec_server import ExecServer
from tests.local.warm import TOKEN, WITHIN, WarmWorker

WORKER = Record("worker-x", TOKEN, "team", "pod-1")


class Pool:
    """The pool of one program: what it hears of its worker."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self._changed = threading.Condition()

    def _hear(self, what: str) -> None:
        with self._changed:
            self.heard.append(what)
            self._changed.notify_all()

    def worker_ready(self, worker: Worker) -> None:
        """It is ours."""
        self._hear("ready")

    def worker_missing(self, worker: Worker, *, gone: bool) -> None:
        """It cannot be had."""
        self._hear("gone" if gone else "taken")

    def worker_leaves(self, worker: Worker) -> None:
        """It ends."""
        self._hear("leaves")

    def worker_over(self, worker: Worker, error: object) -> None:
        """It has ended."""
        self._hear("over")

    def first(self) -> str:
        """What came first."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.heard, WITHIN)
            return self.heard[0]


class Program:
    """One that uses workers: it asks for one of them."""

    def __init__(self, api: Api, name: str, record: Record = WORKER) -> None:
        self.pool = Pool()
        self.worker = Worker(cast(Owner, self.pool), Way(api, name, StreamLoop()), record)
        self.worker.take_over()

    def leave(self) -> None:
        """Its end."""
        self.worker.leave()
        self.worker.join(WITHIN)

    def close(self) -> None:
        """As if it was killed."""
        self.worker.close()
        self.worker.join(WITHIN)


@pytest.fixture
def server() -> Iterator[ExecServer]:
    """An API server."""
    with ExecServer() as made:
        yield made


@pytest.fixture
def start(server: ExecServer, tmp_path: Path) -> Iterator[Callable[..., WarmWorker]]:
    """Starts a worker, in the Pod ``pod-1``."""
    made: list[WarmWorker] = []

    def starts(**options: Any) -> WarmWorker:
        made.append(WarmWorker(tmp_path, **options))
        server.pods["pod-1"] = made[-1]
        return made[-1]

    yield starts
    for worker in made:
        worker.stop()


Start = Callable[..., WarmWorker]


def test_the_next_program_has_the_worker(api: Api, start: Start) -> None:
    """When the first has let it go; before that, it has to look elsewhere."""
    start()
    one, two = Program(api, "one"), None
    assert one.pool.first() == "ready"
    two = Program(api, "two")
    assert two.pool.first() == "taken"
    one.leave()
    three = Program(api, "three")
    assert three.pool.first() == "ready"
    three.leave()


def test_a_program_that_was_killed_leaves_the_worker(api: Api, start: Start) -> None:
    """To the next one, at once."""
    start()
    one = Program(api, "one")
    assert one.pool.first() == "ready"
    one.close()
    until = time.monotonic() + WITHIN
    while (two := Program(api, "two")).pool.first() != "ready" and time.monotonic() < until:
        two.close()
    assert two.pool.first() == "ready"
    two.leave()


def test_nothing_is_sent_to_a_worker_with_another_token(
    api: Api, server: ExecServer, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """A Pod of somebody else that has our worker's name: it is not used, and the log says why."""
    start()
    program = Program(api, "one", Record("worker-x", "another token", "team", "pod-1"))
    assert program.pool.first() == "gone"
    program.close()


def test_a_pod_that_is_no_worker_is_not_used(
    api: Api, server: ExecServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It says that it is the worker, but cannot prove it: it hears a name and a proof, neither token nor call."""
    heard: list[bytes] = []

    class Impostor(ExecServer):
        """Answers as a worker would."""

        def _answer(self, request: Any, peer: Any) -> None:
            peer.upgrade(request)
            peer.data(1, b"N" + (4).to_bytes(4, "big") + b"once")
            _, hello = peer.receive()
            heard.append(hello)
            welcome = b'{"proof": "none", "run": null, "lost": false}'
            peer.data(1, b"W" + len(welcome).to_bytes(4, "big") + welcome)
            peer.wait_gone()

    with Impostor() as server:
        program = Program(Api(config_of(server.url, tmp_path, token="t")), "one")
        assert program.pool.first() == "gone"
        program.close()
    assert TOKEN.encode() not in heard[0]
    assert "does not know its token" in caplog.text


def test_a_worker_that_has_ended_is_gone(api: Api, server: ExecServer, start: Start) -> None:
    """Its Pod as well, or only the process in it. A program without exec is not told, and starts its own."""
    assert Program(api, "one").pool.first() == "gone"
    start().stop()
    assert Program(api, "one").pool.first() == "gone"
    server.forbidden = True
    assert Program(api, "one").pool.first() == "gone"


def test_a_found_worker_that_goes_is_missed_at_once(api: Api, server: ExecServer, start: Start) -> None:
    """Without news of its Job: the Pod is not found any more."""
    worker = start()
    program = Program(api, "one")
    assert program.pool.first() == "ready"
    del server.pods["pod-1"]
    worker.stop()
    server.cut_all()
    until = time.monotonic() + WITHIN
    while program.pool.heard != ["ready", "over"] and time.monotonic() < until:
        time.sleep(0.02)
    assert program.pool.heard == ["ready", "over"]
    program.close()


def test_a_found_worker_that_is_told_to_end_says_so(api: Api, start: Start) -> None:
    """As by a node that is drained: its call, if it has not begun, is another worker's."""
    worker = start()
    program = Program(api, "one")
    assert program.pool.first() == "ready"
    worker.process.terminate()
    until = time.monotonic() + WITHIN
    while program.pool.heard != ["ready", "leaves"] and time.monotonic() < until:
        time.sleep(0.02)
    assert program.pool.heard == ["ready", "leaves"]
    program.close()


def test_a_worker_says_what_it_does_to_who_may_exec(api: Api, server: ExecServer, start: Start) -> None:
    """``kubefunc ls`` shows it. One that is not there, or may not be asked, says nothing."""
    worker = start()
    pods = [("team", "pod-1"), ("team", "another")]
    assert states_of(api, pods) == ["free", ""]
    client = worker.attach()
    client.hello()
    client.welcome()
    assert states_of(api, pods) == ["idle", ""]
    client.call(time.sleep, 600)
    until = time.monotonic() + WITHIN
    while states_of(api, pods) != ["busy", ""] and time.monotonic() < until:
        pass
    assert states_of(api, pods) == ["busy", ""]
    server.forbidden = True
    assert states_of(api, pods) == ["", ""]
    assert states_of(api, []) == []


# -- what is kept on this machine


def test_only_the_user_can_read_what_is_kept(tmp_path: Path) -> None:
    """It is enough to use the worker."""
    files = RecordFiles(tmp_path, "kind", 60.0)
    files.keep(WORKER)
    assert files.read() == [WORKER]
    (path,) = (tmp_path / "workers/kind").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert RecordFiles(tmp_path, "another", 60.0).read() == []
    files.remove(WORKER.call)
    assert files.read() == []


@pytest.mark.parametrize("open_to_all", ["workers/kind", "workers/kind/worker-x.json"])
def test_what_others_could_have_written_is_not_believed(tmp_path: Path, open_to_all: str) -> None:
    """They could lead a program to a worker of theirs."""
    files = RecordFiles(tmp_path, "kind", 60.0)
    files.keep(WORKER)
    (tmp_path / open_to_all).chmod(0o777)
    assert files.read() == []


def test_a_worker_is_not_looked_for_when_it_must_have_ended(tmp_path: Path) -> None:
    """After its idle_timeout, and some time for clocks; what does not make sense is passed over."""
    files = RecordFiles(tmp_path, "kind", 60.0)
    files.keep(WORKER)
    path = tmp_path / "workers/kind/worker-x.json"
    long_ago = time.time() - 60 - 61
    os.utime(path, (long_ago, long_ago))
    assert files.read() == []
    assert not path.exists()
    files.keep(WORKER)
    path.write_text("[")
    assert files.read() == []


def test_a_home_that_cannot_be_written_shares_nothing(tmp_path: Path) -> None:
    """And hinders nobody."""
    (tmp_path / "workers").write_text("a file")
    files = RecordFiles(tmp_path, "kind", 60.0)
    files.keep(WORKER)
    files.touch(WORKER.call)
    files.remove(WORKER.call)
    assert files.read() == []
