"""A request that a warm worker is sent while another one runs: it waits, and begins as soon as that has ended."""

from __future__ import annotations

import os
import pickle
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kubefunc.envelope import verify
from kubefunc.runner import EXIT_TERMINATED
from kubefunc.runner.execution.request import ENDED, OUTPUT, RESULT, TERMINATE
from kubefunc.runner.protocol import records
from kubefunc.runner.warm.frames import ACKNOWLEDGE, GIVEN_BACK, GOODBYE, LEAVING, NO_MORE, NOT_BEGUN
from tests.local.warm import KEY, WITHIN, WarmClient


def answers(client: WarmClient, count: int) -> list[bytes]:
    """What came before each of so many ends, in order."""
    found, answer = [], b""
    while len(found) < count:
        letter, content = client.receive_one_of(RESULT, ENDED)
        if letter == RESULT:
            answer += content
        else:
            found.append(answer or content)
            answer = b""
    return found


def value(answer: bytes) -> Any:
    """What a call returned."""
    return pickle.loads(verify(answer, KEY, "call-x").body)


def until_there(path: Path) -> Callable[[], str]:
    """A function that says that it has begun, and ends when this file is there."""

    def wait(name: str) -> str:
        print("begun", flush=True)
        while not os.path.exists(name):
            time.sleep(0.01)
        return "first"

    return lambda: wait(str(path))


def running_and_waiting(client: WarmClient, tmp_path: Path) -> Path:
    """One call runs until the file that is returned is there, another one waits, which would leave a mark."""
    client.call(until_there(tmp_path / "go-on"))
    client.receive(OUTPUT)
    client.call(lambda: marked(tmp_path), run="run-2")
    return tmp_path / "go-on"


def marked(tmp_path: Path) -> str:
    """Leave a mark."""
    with open(tmp_path / "began", "a") as file:
        file.write("x")
    return "second"


def marks(tmp_path: Path) -> int:
    """How often the second call has begun."""
    return len((tmp_path / "began").read_text()) if (tmp_path / "began").exists() else 0


def test_the_second_waits_for_the_first(client: WarmClient, tmp_path: Path) -> None:
    """It does not begin before, and all that the worker says of it comes after the first one's end."""
    go_on = running_and_waiting(client, tmp_path)
    time.sleep(0.1)
    assert marks(tmp_path) == 0
    go_on.touch()
    assert [value(each) for each in answers(client, 2)] == ["first", "second"]
    assert marks(tmp_path) == 1


def test_the_one_that_waits_is_given_back(client: WarmClient, tmp_path: Path) -> None:
    """When the client asks for what has not begun; it never begins here, and the first one goes on."""
    go_on = running_and_waiting(client, tmp_path)
    client.send(GIVEN_BACK)
    assert client.receive(NOT_BEGUN) == b"run-2"
    go_on.touch()
    assert [value(each) for each in answers(client, 1)] == ["first"]
    client.call(int, run="run-3")
    assert value(answers(client, 1)[0]) == 0
    assert marks(tmp_path) == 0


def test_the_one_that_waits_is_cancelled_alone(client: WarmClient, tmp_path: Path) -> None:
    """The one that runs does not notice; the other never begins."""
    go_on = running_and_waiting(client, tmp_path)
    client.send(TERMINATE, b"run-2")
    go_on.touch()
    first, second = answers(client, 2)
    assert value(first) == "first"
    assert int(second) == EXIT_TERMINATED
    assert marks(tmp_path) == 0


def test_the_one_that_runs_is_cancelled_alone(client: WarmClient, tmp_path: Path) -> None:
    """The one that waits takes its place, even if the wish comes late, when that has begun already."""
    running_and_waiting(client, tmp_path)
    client.send(TERMINATE, b"run-1")
    client.send(TERMINATE, b"run-1")
    first, second = answers(client, 2)
    assert int(first) == EXIT_TERMINATED
    assert value(second) == "second"


def test_both_survive_a_stream_that_breaks(client: WarmClient, tmp_path: Path) -> None:
    """Whether the first has ended by then or not: each runs once, and both outcomes are there."""
    go_on = running_and_waiting(client, tmp_path)
    client.cut()
    again = client.worker.attach()
    again.hello("run-1", "run-2", output=len("begun\n"))
    again.welcome()
    assert again.has == ["run-1", "run-2"]
    again.cut()
    go_on.touch()
    until = time.monotonic() + WITHIN
    while not marks(tmp_path) and time.monotonic() < until:
        time.sleep(0.01)
    last = client.worker.attach()
    last.hello("run-1", "run-2", output=len("begun\n"))
    last.welcome()
    assert [value(each) for each in answers(last, 2)] == ["first", "second"]
    assert marks(tmp_path) == 1
    last.send(ACKNOWLEDGE, b"run-1")
    last.cut()
    late = client.worker.attach()
    late.hello("run-2")
    late.welcome()
    assert late.has == ["run-2"]
    assert value(answers(late, 1)[0]) == "second"


def test_a_worker_that_leaves_has_not_begun_it(client: WarmClient, tmp_path: Path) -> None:
    """SIGTERM ends the one that runs; the client hears first not to come again, and last that nothing has begun."""
    running_and_waiting(client, tmp_path)
    client.worker.process.send_signal(signal.SIGTERM)
    assert client.receive_one_of(NO_MORE, ENDED)[0] == NO_MORE
    client.receive(ENDED)
    client.receive(LEAVING)
    assert marks(tmp_path) == 0


def test_nothing_begins_for_a_client_that_has_gone(client: WarmClient, tmp_path: Path) -> None:
    """Its goodbye ends the one that runs; the other one is forgotten."""
    running_and_waiting(client, tmp_path)
    client.send(GOODBYE)
    client.receive(GOODBYE)
    other = client.worker.attach()
    other.hello(client="two")
    assert other.welcome() is None
    assert marks(tmp_path) == 0


def test_its_timeout_begins_when_it_does(client: WarmClient, tmp_path: Path) -> None:
    """However long it waited."""
    client.call(until_there(tmp_path / "go-on"))
    client.receive(OUTPUT)
    client.call(int, run="run-2", timeout=2.0)
    time.sleep(2.5)
    (tmp_path / "go-on").touch()
    assert [value(each) for each in answers(client, 2)] == ["first", 0]


def test_items_that_wait_keep_their_stacks(client: WarmClient, tmp_path: Path) -> None:
    """The acknowledgement of the first batch takes nothing from the second, which belongs to the same map."""

    def item(path: str | None) -> None:
        print("begun", flush=True)
        while path is None or not os.path.exists(path):
            time.sleep(0.01)

    client.batch(item, {0: (str(tmp_path / "go-on"),)}, timeout=5.0)
    client.receive(OUTPUT)
    client.batch(item, {1: (None,)}, run="run-2", timeout=1.0)
    (tmp_path / "go-on").touch()
    answers(client, 1)
    client.send(ACKNOWLEDGE, b"run-1")
    blocks = records.Blocks(KEY, "call-x", 0)
    (found,) = [each for content in blocks.feed(answers(client, 1)[0]) for each in records.split_records(content)]
    header = found.header or {}
    assert header["code"] == "timeout"
    assert "in item" in header["detail"]["stacks"]
