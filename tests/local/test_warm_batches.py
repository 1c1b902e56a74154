"""A warm worker's process that stays: one batch of items after another, or one call after another."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from kubefunc import current
from kubefunc.runner.execution.request import ENDED, OUTPUT, TERMINATE
from kubefunc.runner.protocol import records
from kubefunc.runner.warm.frames import GIVEN_BACK, PLACE
from tests.local.warm import WITHIN, WarmClient


def values(client: WarmClient, run: str = "run-1") -> dict[int, Any]:
    """What the items returned."""
    return {index: pickle.loads(each.body) for index, each in client.outcomes(run).items()}


def remember(name: str) -> list[str]:
    """All names so far in this process."""
    seen: list[str] = sys.__dict__.setdefault("_seen_by_test", [])
    seen.append(name)
    return seen


def test_items_of_a_map_share_a_process(client: WarmClient) -> None:
    """One after another, also those of a later batch."""
    client.batch(lambda number: (os.getpid(), current.index(), number), {0: (10,), 5: (20,)})
    first = values(client)
    client.batch(lambda number: (os.getpid(), current.index(), number), {7: (30,)}, run="run-2")
    second = values(client, "run-2")
    assert {index: (at, number) for index, (_, at, number) in {**first, **second}.items()} == {
        0: (0, 10),
        5: (5, 20),
        7: (7, 30),
    }
    assert len({pid for pid, _, _ in {**first, **second}.values()}) == 1


def test_each_item_has_an_outcome_of_its_own(client: WarmClient) -> None:
    """An exception, a value that cannot travel and the death of the process cost one item each."""

    def item(how: str) -> Any:
        if how == "die":
            os._exit(3)
        if how == "raise":
            raise LookupError(how)
        return threading.Lock() if how == "lock" else how

    client.batch(item, {0: ("value",), 1: ("raise",), 2: ("die",), 3: ("lock",), 4: ("value",)})
    headers = {index: each.header or {} for index, each in client.outcomes().items()}
    assert {index: each.get("code", each.get("outcome")) for index, each in headers.items()} == {
        0: None,
        1: "raised",
        2: "died",
        3: "unpicklable",
        4: None,
    }


def test_a_large_result_of_an_item_travels_in_pieces(client: WarmClient) -> None:
    """Between small ones; its file goes with the acknowledgement."""
    client.batch(lambda size: b"x" * size, {0: (1,), 1: (3_000_000,), 2: (2,)})
    assert {index: len(value) for index, value in values(client).items()} == {0: 1, 1: 3_000_000, 2: 2}
    client.call(int, run="run-2")
    client.outcome("run-2")
    assert not [each for each in client.worker.place.glob("warm/call-x*") if each.suffix != ".stacks"]


def test_items_are_retried_and_time_out(client: WarmClient) -> None:
    """As in a Job; the process that was killed is replaced, and the others go on."""

    def item(seconds: float) -> tuple[int, int]:
        time.sleep(seconds)
        if current.attempt() == 1:
            raise LookupError
        return current.attempt(), os.getpid()

    client.batch(item, {0: (0.0,), 1: (0.0,)}, retries=1, backoff=(0.0, 1.0, 0.0))
    assert [value[0] for value in values(client).values()] == [2, 2]
    client.batch(_sleep, {0: (0.0,), 1: (600.0,), 2: (0.0,)}, run="run-2", timeout=0.5)
    outcomes = client.outcomes("run-2")
    assert outcomes[0].header is None
    assert outcomes[2].header is None
    header = outcomes[1].header or {}
    assert header["code"] == "timeout"
    assert "in _sleep" in header["detail"]["stacks"]


def _sleep(seconds: float) -> None:
    time.sleep(seconds)


def test_what_an_item_prints_is_its_own(client: WarmClient) -> None:
    """However short the items are, each piece of output comes with the item that has printed it."""

    def item(number: int) -> None:
        print(f"line {number}")
        os.write(2, b"more\n" if number % 2 else b"")

    client.batch(item, {number: (number,) for number in range(50)})
    client.outcomes()
    printed = dict.fromkeys(range(50), b"")
    for letter, content in client.heard:
        if letter == OUTPUT:
            printed[PLACE.unpack_from(content)[1]] += content[PLACE.size :]
    assert {number: text.splitlines()[0].decode() for number, text in printed.items()} == {
        number: f"line {number}" for number in range(50)
    }


def test_what_has_not_begun_is_given_back(client: WarmClient) -> None:
    """A long item holds no others back: they may run on another worker."""
    client.batch(lambda: print("begun", flush=True) or time.sleep(600), dict.fromkeys(range(10), ()))
    client.receive(OUTPUT)
    client.send(GIVEN_BACK)
    assert records.unpack_indexes(client.receive(GIVEN_BACK)) == list(range(1, 10))
    client.send(TERMINATE, b"run-1")
    client.receive(ENDED)
    client.batch(abs, {3: (-3,)}, run="run-2")
    assert values(client, "run-2") == {3: 3}


def test_outcomes_come_again_over_another_stream(client: WarmClient, tmp_path: Path) -> None:
    """Those that have come already and those that come meanwhile, and what was given back."""
    go_on = tmp_path / "go-on"

    def item(number: int, go_on: str) -> int:
        print("item", number, flush=True)
        while number == 1 and not os.path.exists(go_on):
            time.sleep(0.01)
        return number

    client.batch(item, {number: (number, str(go_on)) for number in range(5)})
    client.receive(OUTPUT)
    client.receive(OUTPUT)
    client.send(GIVEN_BACK)
    client.receive(GIVEN_BACK)
    client.cut()
    go_on.touch()
    again = client.worker.attach()
    again.hello("run-1")
    again.welcome()
    assert records.unpack_indexes(again.receive(GIVEN_BACK)) == [2, 3, 4]
    assert values(again) == {0: 0, 1: 1}


def test_a_function_that_cannot_be_loaded_is_told_for_each_item(client: WarmClient) -> None:
    """With the exception that was raised there."""
    client.batch(_Unloadable(), {0: (1,), 1: (2,)})
    outcomes = client.outcomes()
    assert [(each.header or {})["code"] for each in outcomes.values()] == ["load", "load"]
    client.batch(abs, {0: (-1,)}, run="run-2")
    assert values(client, "run-2") == {0: 1}


class _Unloadable:
    def __reduce__(self) -> Any:
        return int, ("no number",)

    def __call__(self, number: int) -> int:
        return number


def test_calls_with_one_process_find_what_earlier_ones_left(client: WarmClient) -> None:
    """Modules and their state stay; a call is no item, and so has no index."""
    client.call(remember, "a", run="run-1", stay="one")
    assert values(client) == {0: ["a"]}
    client.call(lambda: (remember("b"), current.index()), run="run-2", stay="one")
    assert values(client, "run-2") == {0: (["a", "b"], None)}
    client.call(remember, "c", run="run-3", stay="another")
    assert values(client, "run-3") == {0: ["c"]}
    client.call(remember, "d", run="run-4")
    assert pickle.loads(client.outcome("run-4").body) == ["d"]


def test_cancelling_a_call_replaces_the_process(client: WarmClient) -> None:
    """What it had loaded is gone; the worker goes on."""
    client.call(remember, "a", stay="one")
    client.outcomes()
    client.call(lambda: print("begun", flush=True) or time.sleep(600), run="run-2", stay="one")
    client.receive(OUTPUT)
    client.send(TERMINATE, b"run-2")
    client.receive(ENDED)
    client.call(remember, "b", run="run-3", stay="one")
    assert values(client, "run-3") == {0: ["b"]}


def test_a_process_that_died_between_calls_is_replaced(client: WarmClient) -> None:
    """The next call does not notice."""
    client.call(os.getpid, stay="one")
    pid = values(client)[0]
    os.kill(pid, signal.SIGKILL)
    until = time.monotonic() + WITHIN
    while Path(f"/proc/{pid}").exists() and time.monotonic() < until:
        time.sleep(0.01)
    client.call(os.getpid, run="run-2", stay="one")
    assert values(client, "run-2")[0] != pid


def test_exit_handlers_run_when_a_process_goes(client: WarmClient, tmp_path: Path) -> None:
    """Another map, or another kind of call, takes its place."""

    def register(path: str) -> None:
        import atexit

        atexit.register(Path(path).touch)

    client.call(register, str(tmp_path / "gone"), stay="one")
    client.outcomes()
    client.call(int, run="run-2", stay="another")
    client.outcomes("run-2")
    assert (tmp_path / "gone").exists()
