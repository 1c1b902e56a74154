"""What a backend brings of a generator function, and what its program takes: each value once, in order."""

from __future__ import annotations

import base64
import contextlib
import json
import pickle
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kubefunc import remote
from kubefunc.backends.base import Lost, Submission
from kubefunc.backends.kubernetes.attempts.attempt import Attempt
from kubefunc.backends.kubernetes.results.value_streams import refuse_a_flood
from kubefunc.envelope import returned
from kubefunc.errors import OutOfMemoryError, PodLostError, ResultCorruptedError
from kubefunc.options import Options
from kubefunc.outcomes.retry import decide, how_error_ended
from kubefunc.packing.payload import Packer
from kubefunc.runner import VALUE
from kubefunc.runner.protocol import wire
from kubefunc.stream_values import StartedAnew, StreamValues
from tests.unit.by_hand import KEY

CALL = "f-abcdefgh"


def sealed(number: Any, value: object = None, run: str = "first", key: bytes = KEY, call: str = CALL) -> bytes:
    """A value as its generator's process writes it."""
    header = {"outcome": VALUE, "call": call, "number": number, "run": run}
    return wire.seal(header, pickle.dumps(number if value is None else value), key)


def new(ahead: int = 4) -> StreamValues:
    """One call's values, of which none has come."""
    return StreamValues(CALL, KEY, ahead)


def taken(values: StreamValues) -> Any:
    """The next value, which is there."""
    record = values.take(0)
    assert record is not None
    ended = returned(record.body, lambda: pytest.fail("it can be unpickled"))
    return ended.value  # type: ignore[union-attr]


def test_values_come_out_as_they_came_in() -> None:
    """In order."""
    values = new()
    for number in range(3):
        values.feed(sealed(number))
    assert [taken(values) for _ in range(3)] == [0, 1, 2]
    assert values.take(0) is None
    assert (values.received, values.taken) == (3, 3)


def test_what_comes_again_is_passed_over() -> None:
    """A stream that was cut may be resumed at a value that had come."""
    values = new()
    for number in (0, 1, 0, 1, 2):
        values.feed(sealed(number))
    assert [taken(values) for _ in range(values.received)] == [0, 1, 2]


@pytest.mark.parametrize("number", [2, -5.0, "1", None, 10**30])
def test_a_value_is_never_left_out(number: Any) -> None:
    """The next one must follow the last."""
    values = new()
    values.feed(sealed(0))
    with pytest.raises(ResultCorruptedError, match="value 1 was due"):
        values.feed(sealed(number))


@pytest.mark.parametrize(
    "data",
    [sealed(0, key=b"x" * 32), sealed(0, call="g-abcdefgh"), sealed(0)[:-1], sealed(0)[1:], b"", b"\0" * 200],
    ids="key call cut-at-the-end cut-at-the-beginning nothing garbage".split(),
)
def test_only_what_the_generators_process_wrote_is_taken(data: bytes) -> None:
    """By its signature, length and digest."""
    values = new()
    with pytest.raises(ResultCorruptedError):
        values.feed(data)
    assert values.received == 0


def test_another_run_of_the_generator_is_noticed() -> None:
    """After values have come: they would come twice. Before, it is the run that counts."""
    values = new()
    values.feed(sealed(0, run="second"))
    with pytest.raises(StartedAnew):
        values.feed(sealed(0, run="third"))
    with pytest.raises(StartedAnew):
        values.feed(sealed(1, run="third"))
    assert taken(values) == 0


def test_the_generator_is_told_before_it_has_to_wait() -> None:
    """Not of each value: of half of what it may be ahead, or when nothing is left."""
    values, told = new(ahead=4), list[int]()
    values.tell_taken(told.append)
    for number in range(4):
        values.feed(sealed(number))
    for _ in range(4):
        taken(values)
    assert told == [2, 4]


def test_who_comes_later_is_told_what_was_taken_before() -> None:
    """A stream that was opened again begins with that."""
    values, told = new(), list[int]()
    values.feed(sealed(0))
    taken(values)
    values.tell_taken(told.append)
    assert told == [1]


def test_a_waiting_program_wakes_with_the_value_or_the_end() -> None:
    """In a thread, and in an event loop by a callback."""
    values, woken = new(), list[str]()
    values.wake(lambda: woken.append("value"))
    assert woken == []
    threading.Timer(0.05, lambda: values.feed(sealed(0))).start()
    assert values.take(60) is not None
    assert woken == ["value"]
    threading.Timer(0.05, values.end).start()
    assert values.take(60) is None
    values.wake(lambda: woken.append("end"))
    assert woken == ["value", "end"]
    assert values.is_over


def test_values_that_came_before_the_end_are_still_there() -> None:
    """The end of the call is not the end of its values."""
    values = new()
    values.feed(sealed(0))
    values.end()
    assert not values.is_over
    assert taken(values) == 0
    assert values.is_over


@pytest.mark.parametrize("error", [PodLostError("gone"), OutOfMemoryError("full")])
def test_after_the_first_value_the_client_begins_no_further_attempt(error: PodLostError | OutOfMemoryError) -> None:
    """Before it, the usual policy holds."""
    values = new()
    sent = Submission(
        call=CALL,
        function="f",
        options=Options(memory=("1Gi", "4Gi"), retries=3),
        payload=Packer.for_local().pack(len, ["abc"]),
        key=KEY,
        values=values,
    )
    ended = how_error_ended(error)
    assert ended is not None
    assert decide(sent, ended) is not None
    values.feed(sealed(0))
    assert decide(sent, ended) is None
    assert decide(sent, Lost(PodLostError("gone"))) is None


def test_what_its_pod_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """How far ahead it may be; and no small result in the Pod's status, as the values before it must come first."""
    monkeypatch.setenv("KUBECONFIG", "/dev/null")  # no cluster is needed

    def numbers() -> Iterator[int]:
        yield 1

    told = {}
    for function in (remote(numbers).options(stream_ahead=7, result_ttl=5), remote(len)):
        secret = function.manifest(*[[]] * (function.function is len))[0]
        told[function.function] = json.loads(base64.b64decode(secret["data"]["spec.json"]))
    assert told[numbers]["stream"] == {"ahead": 7, "left_after": 30.0}
    assert told[numbers]["inline"] is False
    assert "stream" not in told[len]
    assert told[len]["inline"] is True


@pytest.mark.parametrize(("untrusted", "refused"), [(True, True), (False, False)])
def test_an_untrusted_generator_cannot_flood_its_caller(untrusted: bool, refused: bool) -> None:
    """Its process may ignore what was taken, and send on: more than may wait is not accepted."""
    attempt = cast("Attempt", SimpleNamespace(options=Options(untrusted=untrusted), call=CALL, result_limit=100))
    values = new(ahead=2)
    refuse_a_flood(attempt, values, 100)
    for number in range(3):
        values.feed(sealed(number))
    with pytest.raises(ResultCorruptedError) if refused else contextlib.nullcontext():
        refuse_a_flood(attempt, values, 0)
    with pytest.raises(ResultCorruptedError) if refused else contextlib.nullcontext():
        refuse_a_flood(attempt, new(), 101)
