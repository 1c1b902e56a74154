"""Streams to a warm worker that break anywhere, and bytes that nobody has meant."""

from __future__ import annotations

import os
import pickle
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kubefunc.runner.execution.request import CALL, TERMINATE
from kubefunc.runner.protocol import wire
from kubefunc.runner.warm.frames import ACKNOWLEDGE, DATA, GOODBYE, HELLO, KEEP
from tests.local.warm import PipeClient, WarmWorker

CUTS = 15
CALLS = 300  # of each kind, twice


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[WarmWorker]:
    """A worker."""
    made = WarmWorker(tmp_path)
    yield made
    made.stop()


def greeted(worker: WarmWorker, run: str | None = None, name: str = "one") -> tuple[PipeClient, str | None]:
    """A client that the worker knows, and the call that the worker has."""
    client = PipeClient(worker)
    client.hello(*([run] if run is not None else []), client=name)
    return client, client.welcome()


def marking() -> Callable[[str], str]:
    """A function that leaves a mark each time it runs. It travels by value: to import this module takes a second."""

    def touch(path: str) -> str:
        with open(path, "a") as file:
            file.write("ran\n")
        return path

    return touch


@pytest.mark.parametrize("stay", [None, "one"])
def test_a_call_runs_once_wherever_its_stream_breaks(worker: WarmWorker, tmp_path: Path, stay: str | None) -> None:
    """The client comes back, sends the call if the worker has not got it, and has its outcome."""
    chance = random.Random(7)
    for number in range(CUTS):
        _cut_and_come_back(worker, tmp_path / f"marks-{number}", stay, chance.random())


def _cut_and_come_back(worker: WarmWorker, marks: Path, stay: str | None, part: float) -> None:
    def call(client: PipeClient) -> None:
        client.call(marking(), str(marks), run=marks.name, stay=stay)

    client, _ = greeted(worker)
    sent = client.recorded(call)
    client.write(sent[: round(part * (len(sent) + 1))])
    client.cut()
    again, has = greeted(worker, marks.name)
    if has is None:
        call(again)
    outcome = again.outcome(marks.name).body if stay is None else again.outcomes(marks.name)[0].body
    assert pickle.loads(outcome) == str(marks)
    assert marks.read_text() == "ran\n"
    again.cut()


def test_bytes_that_nobody_meant_cost_their_stream_and_no_more(worker: WarmWorker) -> None:
    """Of a stranger and of a client that is known; nothing of them is run or unpickled, and nothing is kept of them."""
    chance = random.Random(8)
    letters = [HELLO, DATA, CALL, KEEP, TERMINATE, ACKNOWLEDGE, b"?", b"\x00"]
    for number in range(60):
        client = greeted(worker)[0] if number % 2 else PipeClient(worker)
        noise = chance.randbytes(chance.randrange(1, 400))
        kinds = [noise, wire.frame(chance.choice(letters), noise), b"D\xff\xff\xff\xff" + noise]
        client.write(kinds[number % 3])
        client.cut()
    client, _ = greeted(worker)
    client.call(int)
    assert pickle.loads(client.outcome().body) == 0


@pytest.mark.parametrize("changed", ["request", "signature", "kept"])
def test_a_request_that_was_changed_is_not_read(worker: WarmWorker, tmp_path: Path, changed: str) -> None:
    """One byte of it, of its signature, or of the code that it names: the stream ends, and nothing has run."""
    client, _ = greeted(worker)
    marks = tmp_path / "marks"
    sent = bytearray(client.recorded(lambda recorded: recorded.batch(marking(), {0: (str(marks),)})))
    first = wire.FRAME_HEAD + 5
    places = {"kept": first, "request": sent.index(b'"run"') + 2, "signature": len(sent) - 1}
    sent[places[changed]] ^= 1
    client.write(bytes(sent))
    assert client.is_over()
    assert not marks.exists()
    again, has = greeted(worker, "run-1")
    assert has is None
    again.batch(marking(), {0: (str(marks),)})
    assert pickle.loads(again.outcomes()[0].body) == str(marks)


def test_thousands_of_calls_leave_nothing(worker: WarmWorker) -> None:
    """No descriptor, no process and no file, in the worker; and its memory stays what it was."""
    client, _ = greeted(worker)

    def run(first: int) -> None:
        for number in range(first, first + CALLS):
            client.call(abs, -1, run=f"a-{number}")
            client.outcome(f"a-{number}")
            client.call(abs, -1, run=f"b-{number}", stay="one")
            client.outcomes(f"b-{number}")

    run(0)
    before = state(worker)
    run(CALLS)
    after = state(worker)
    assert after["descriptors"] == before["descriptors"]
    assert after["children"] <= 2  # the next call's, and the one that stays
    assert after["files"] == before["files"]
    assert after["memory"] - before["memory"] < 2 << 20


def state(worker: WarmWorker) -> dict[str, int]:
    """What the worker holds, once it has nothing to do."""
    pid = worker.process.pid
    time.sleep(0.5)  # the last call's remains are cleared away after its outcome was sent
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return {
        "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
        "children": len(children),
        "files": len(list(worker.place.rglob("*"))),
        "memory": pages * os.sysconf("SC_PAGE_SIZE"),
    }


def test_a_client_that_goes_while_it_sends_leaves_nothing_to_the_next(worker: WarmWorker) -> None:
    """Half a request of the one is not the beginning of the other's."""
    first, _ = greeted(worker)
    first.send(DATA, b"half of a request")
    first.send(GOODBYE)
    assert first.is_over()
    second, _ = greeted(worker, name="two")
    second.call(int)
    assert pickle.loads(second.outcome().body) == 0
