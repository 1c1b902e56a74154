"""A warm worker: one process after another for one client, over a stream that may break."""

from __future__ import annotations

import functools
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kubefunc import current
from kubefunc.runner.execution.request import CALL, ENDED, OUTPUT, TERMINATE
from kubefunc.runner.warm.attach import ABSENT, STARTS_WITHIN
from kubefunc.runner.warm.frames import BUSY, DATA, GOODBYE, HELLO, LEAVING
from kubefunc.runner.warm.lease import proof
from tests.local.warm import TOKEN, WITHIN, WarmClient, WarmWorker

Start = Callable[..., WarmWorker]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a worker that waits for its client."""
    made: list[WarmWorker] = []

    def starts(**options: Any) -> WarmWorker:
        made.append(WarmWorker(tmp_path, **options))
        return made[-1]

    yield starts
    for worker in made:
        worker.stop()


@pytest.fixture
def client(start: Start) -> WarmClient:
    """The client of a worker."""
    made = start().attach()
    made.hello()
    assert made.welcome() is None
    return made


def test_calls_come_one_after_another(client: WarmClient) -> None:
    """Each in a process of its own, below the same parent."""
    seen = []
    for number in range(3):
        client.call(lambda: (os.getpid(), os.getppid()), run=f"run-{number}")
        seen.append(pickle.loads(client.outcome(f"run-{number}").body))
    pids, parents = zip(*seen, strict=True)
    assert len(set(pids)) == 3
    assert set(parents) == {client.worker.process.pid}


def test_preloaded_modules_are_there(start: Start) -> None:
    """A call finds them imported."""
    client = start(preload=["wave"]).attach()
    client.hello()
    client.call(lambda: "wave" in sys.modules)
    assert pickle.loads(client.outcome().body) is True


def test_an_item_of_a_map_has_its_own_arguments(client: WarmClient) -> None:
    """Behind those that all items share; it knows its index."""

    def function(*args: int) -> tuple[object, ...]:
        return (*args, current.index())

    client.batch(functools.partial(function, 1), {7: (2, 3)})
    assert pickle.loads(client.outcomes()[7].body) == (1, 2, 3, 7)


def test_output_comes_while_it_runs(client: WarmClient) -> None:
    """And is the call's own."""

    def function() -> None:
        print("now", flush=True)
        time.sleep(600)

    client.call(function)
    assert client.receive(OUTPUT)[16:] == b"now\n"
    client.send(TERMINATE, b"run-1")
    client.receive(ENDED)


def test_a_large_result_comes_in_pieces(client: WarmClient) -> None:
    """It stands in a file there, and goes with the acknowledgement."""
    client.call(lambda: b"x" * 3_000_000)
    assert len(pickle.loads(client.outcome().body)) == 3_000_000
    client.call(int, run="run-2")
    client.outcome("run-2")
    assert not list(client.worker.place.glob("warm/*.body"))


def test_a_large_argument_comes_in_pieces(client: WarmClient) -> None:
    """More than a pipe holds."""
    client.call(len, b"x" * 3_000_000)
    assert pickle.loads(client.outcome().body) == 3_000_000


def test_a_process_that_dies_takes_nothing_along(client: WarmClient) -> None:
    """Its call fails; the worker goes on."""
    client.call(lambda: os._exit(3))
    assert client.outcome().header["detail"] == {"exit_code": 3}
    client.call(int, run="run-2")
    assert pickle.loads(client.outcome("run-2").body) == 0


def test_retries_and_timeouts_work_as_in_a_job(client: WarmClient) -> None:
    """It is the same supervisor."""
    client.call(lambda: 1 / (current.attempt() - 1), retries=1, backoff=(0.0, 1.0, 0.0))
    assert client.outcome().header["attempts"] == 2
    client.call(time.sleep, 600, run="run-2", timeout=0.3)
    header = client.outcome("run-2").header
    assert (header["code"], header["detail"]["timeout"]) == ("timeout", 0.3)


def test_what_a_call_leaves_running_is_ended(client: WarmClient) -> None:
    """Also what has left its process group."""

    def function() -> int:
        pid = os.fork()
        if pid == 0:
            os.setsid()
            time.sleep(600)
        return pid

    client.call(function)
    left = int(pickle.loads(client.outcome().body))
    until = time.monotonic() + WITHIN
    while Path(f"/proc/{left}").exists() and time.monotonic() < until:
        time.sleep(0.01)
    assert not Path(f"/proc/{left}").exists()


def test_a_call_is_ended_and_the_worker_stays(client: WarmClient) -> None:
    """As by cancel(): no outcome, and the next call runs."""
    client.call(time.sleep, 600)
    time.sleep(0.2)
    client.send(TERMINATE, b"run-1")
    client.receive(ENDED)
    client.call(int, run="run-2")
    assert pickle.loads(client.outcome("run-2").body) == 0


def test_a_call_that_is_ended_as_it_comes_never_begins(client: WarmClient, tmp_path: Path) -> None:
    """The client may change its mind before the worker has looked at the call."""
    client.worker.process.send_signal(signal.SIGSTOP)
    client.call(Path.touch, tmp_path / "begun")
    client.send(TERMINATE, b"run-1")
    client.worker.process.send_signal(signal.SIGCONT)
    client.receive(ENDED)
    assert not (tmp_path / "begun").exists()
    client.call(int, run="run-2")
    assert pickle.loads(client.outcome("run-2").body) == 0


# -- streams that break


def test_a_call_goes_on_while_its_client_is_away(client: WarmClient, tmp_path: Path) -> None:
    """Output from where the client has it, and the outcome, are there when it comes back."""
    go_on = tmp_path / "go-on"

    def function(go_on: str) -> int:
        print("one", flush=True)
        while not os.path.exists(go_on):
            time.sleep(0.01)
        print("two", flush=True)
        return 7

    client.call(function, str(go_on))
    client.receive(OUTPUT)
    client.cut()
    go_on.touch()
    again = client.worker.attach()
    again.hello("run-1", output=len("one\n"))
    assert again.welcome() == "run-1"
    assert pickle.loads(again.outcome().body) == 7
    assert b"".join(content[16:] for letter, content in again.heard if letter == OUTPUT) == b"two\n"


def test_an_outcome_is_kept_until_it_is_acknowledged(client: WarmClient) -> None:
    """However often the stream breaks, also in the middle of a large one; then it is gone."""
    client.call(lambda: b"x" * 3_000_000)
    client.receive(b"B")
    client.cut()
    for _ in range(2):
        again = client.worker.attach()
        again.hello("run-1")
        assert again.welcome() == "run-1"
        again.receive(ENDED)
        again.cut()
    last = client.worker.attach()
    last.hello("run-1")
    assert len(pickle.loads(last.outcome().body)) == 3_000_000
    last.cut()
    nothing = client.worker.attach()
    nothing.hello("run-1")
    assert nothing.welcome() is None


def test_half_a_call_is_no_call(client: WarmClient) -> None:
    """A stream that breaks while a call is sent: the client is told that it never came, and sends it again."""
    client.send(DATA, b"half of it")
    client.cut()
    again = client.worker.attach()
    again.hello("run-1")
    assert again.welcome() is None
    again.call(int)
    assert pickle.loads(again.outcome().body) == 0


def test_a_client_takes_the_place_of_its_own_half_open_stream(client: WarmClient) -> None:
    """The worker need not notice first that the old one is dead."""
    again = client.worker.attach()
    again.hello()
    again.welcome()
    assert client.process.wait(WITHIN) == 0
    again.call(int)
    assert pickle.loads(again.outcome().body) == 0


def test_a_client_that_is_gone_ends_its_call_and_a_worker_that_is_not_shared(start: Start) -> None:
    """After the time that it has to come back."""
    worker = start(reconnect=1.0, alone=1.0)
    client = worker.attach()
    client.hello()
    client.call(lambda: print(os.getpid(), flush=True) or time.sleep(600))
    pid = int(client.receive(OUTPUT)[16:])
    client.cut()
    assert worker.why() in ("no client was there for 1 s", "it was told to end (SIGTERM)")
    assert not Path(f"/proc/{pid}").exists()


# -- who may use it, and when it ends


@pytest.mark.parametrize(
    "first",
    [
        (HELLO, b'{"client": "one", "nonce": "x", "proof": "wrong", "run": null, "output": 0}'),
        (CALL, b""),
        (HELLO, b"[]"),
    ],
)
def test_a_stranger_is_sent_away(client: WarmClient, first: tuple[bytes, bytes]) -> None:
    """Who does not show the token first; the client is not disturbed."""
    stranger = client.worker.attach()
    stranger.send(*first)
    assert stranger.process.wait(WITHIN) == 0
    client.call(int)
    assert pickle.loads(client.outcome().body) == 0


def test_a_proof_is_good_for_one_stream(client: WarmClient) -> None:
    """Who has overheard one cannot use it again."""
    client.cut()
    overheard = client.worker.attach()
    overheard.nonces = client.nonces
    shown = proof(TOKEN, "one", client.nonces)
    told = {"client": "one", "nonce": client.nonces[1], "proof": shown, "run": None, "output": 0}
    overheard.send(HELLO, json.dumps(told).encode())
    assert overheard.process.wait(WITHIN) == 0


# -- one client at a time


def test_another_client_goes_elsewhere(client: WarmClient) -> None:
    """While the worker has one; that one is not disturbed."""
    other = client.worker.attach()
    other.hello(client="two")
    other.receive(BUSY)
    assert other.process.wait(WITHIN) == 0
    client.call(int)
    assert pickle.loads(client.outcome().body) == 0


def test_a_client_that_goes_leaves_the_worker_to_the_next(client: WarmClient) -> None:
    """The same process takes both one's calls, and the outcome that the first did not fetch is gone."""
    client.call(os.getppid)
    pickle.loads(client.outcome().body)
    client.send(GOODBYE)
    client.receive(GOODBYE)
    assert client.process.wait(WITHIN) == 0
    other = client.worker.attach()
    other.hello(client="two")
    assert other.welcome() is None
    other.call(os.getppid)
    assert pickle.loads(other.outcome().body) == client.worker.process.pid


def test_a_client_that_goes_ends_its_call(client: WarmClient) -> None:
    """Before the worker is the next one's."""
    client.call(lambda: print(os.getpid(), flush=True) or time.sleep(600))
    pid = int(client.receive(OUTPUT)[16:])
    client.send(GOODBYE)
    client.receive(GOODBYE)
    assert not Path(f"/proc/{pid}").exists()
    other = client.worker.attach()
    other.hello(client="two")
    assert other.welcome() is None
    other.call(int)
    assert pickle.loads(other.outcome().body) == 0


def test_a_client_that_is_killed_while_it_waits_leaves_the_worker_at_once(client: WarmClient) -> None:
    """The end of its stream says enough where it has no call."""
    client.cut()
    other = client.worker.attach()
    other.hello(client="two")
    assert other.welcome() is None


def test_a_client_that_is_killed_keeps_its_call_for_a_while(start: Start) -> None:
    """So long it may come back; then its call is ended, and another client has the worker."""
    worker = start(reconnect=1.0)
    client = worker.attach()
    client.hello()
    client.call(lambda: print(os.getpid(), flush=True) or time.sleep(600))
    pid = int(client.receive(OUTPUT)[16:])
    client.cut()
    early = worker.attach()
    early.hello(client="two")
    early.receive(BUSY)
    until = time.monotonic() + WITHIN
    while Path(f"/proc/{pid}").exists() and time.monotonic() < until:
        time.sleep(0.05)
    other = worker.attach()
    other.hello(client="two")
    assert other.welcome() is None
    other.call(int)
    assert pickle.loads(other.outcome().body) == 0


def test_a_client_that_comes_back_too_late_is_told_that_its_call_is_lost(start: Start) -> None:
    """It was begun, so it must not be taken for one that never came."""
    worker = start(reconnect=0.5)
    client = worker.attach()
    client.hello()
    client.call(lambda: print("begun", flush=True) or time.sleep(600))
    client.receive(OUTPUT)
    client.cut()
    other = worker.attach()
    until = time.monotonic() + WITHIN
    other.hello(client="two")
    while not other.is_welcome() and time.monotonic() < until:
        other = worker.attach()
        other.hello(client="two")
    other.cut()
    late = worker.attach()
    late.hello("run-1")
    assert late.welcome() is None
    assert late.lost


def test_a_client_that_says_nothing_any_more_loses_the_worker(start: Start) -> None:
    """As one that is stopped (SIGSTOP), whose stream stays open."""
    worker = start(reconnect=0.5)
    stopped = worker.attach()
    stopped.hello()
    assert stopped.welcome() is None
    assert stopped.process.wait(WITHIN) == 0
    other = worker.attach()
    other.hello(client="two")
    assert other.welcome() is None


def test_nobody_attaches_where_no_worker_is(start: Start) -> None:
    """The exit code says so at once, of one that was killed and of one that has ended."""
    worker = start()
    worker.stop()
    client = worker.attach()
    assert client.process.wait(STARTS_WITHIN / 2) == ABSENT
    ended = start(idle=0.1)
    ended.why()
    client = ended.attach()
    assert client.process.wait(STARTS_WITHIN / 2) == ABSENT


def test_a_client_waits_for_a_worker_that_is_being_loaded(start: Start) -> None:
    """It is there before the worker listens, and its first word is the worker's greeting."""
    worker = start()
    aside = worker.socket.with_name("aside")
    worker.socket.rename(aside)
    client = worker.attach()
    with pytest.raises(subprocess.TimeoutExpired):
        client.process.wait(0.5)
    aside.rename(worker.socket)
    client.hello()
    assert client.welcome() is None


def test_it_ends_when_nothing_is_to_be_done(start: Start) -> None:
    """And says so first: what it is sent after that never ran."""
    worker = start(idle=0.5)
    client = worker.attach()
    client.hello()
    assert client.receive(LEAVING) == b"no call came for 0.5 s"
    assert worker.why() == "no call came for 0.5 s"
    assert client.process.wait(WITHIN) == 0


def test_sigterm_ends_it_and_its_call(client: WarmClient) -> None:
    """The call ends without an outcome: it is to run elsewhere."""
    client.call(lambda: print(os.getpid(), flush=True) or time.sleep(600))
    pid = int(client.receive(OUTPUT)[16:])
    client.worker.process.send_signal(signal.SIGTERM)
    client.receive(ENDED)
    assert client.receive(LEAVING) == b"it was told to end (SIGTERM)"
    assert client.worker.why() == "it was told to end (SIGTERM)"
    assert not Path(f"/proc/{pid}").exists()


def test_a_worker_is_told_to_end_while_its_call_is_cancelled(client: WarmClient, tmp_path: Path) -> None:
    """Both at once, as when a pool is closed: the Pod does not stay for its grace period."""
    begun = tmp_path / "begun"

    def slow_to_end(path: str) -> None:
        try:
            with open(path, "w"):
                time.sleep(600)
        finally:
            time.sleep(0.5)

    client.call(slow_to_end, str(begun))
    until = time.monotonic() + WITHIN
    while not begun.exists():
        assert time.monotonic() < until
        time.sleep(0.01)
    client.send(TERMINATE, b"run-1")
    time.sleep(0.1)
    client.worker.process.send_signal(signal.SIGTERM)
    assert client.worker.why() == "it was told to end (SIGTERM)"
