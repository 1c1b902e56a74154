"""A handle that is pickled comes back, in whichever process, as one that was attached to."""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubefunc import errors
from kubefunc.backends.base import Shape, Sink, Work
from kubefunc.backends.local.backend import LocalBackend, LocalWork
from kubefunc.backends.local.oneshot import OneShots
from kubefunc.handles.call import Call
from kubefunc.handles.map_call import MapCall
from kubefunc.handles.map_items import MapItems
from kubefunc.session import Session
from tests.unit.by_hand import HandBackend, HandWork


class Remembering(HandBackend):
    """Remembers what was attached to."""

    def __init__(self) -> None:
        super().__init__()
        self.attached: list[str] = []

    def attach(self, call: str, shape: Shape, sink: Sink) -> Work:
        self.attached.append(call)
        return super().attach(call, shape, sink)


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[Remembering]:
    """The backend that this process's session has."""
    made, session = Remembering(), Session()
    session._backends["kubernetes", None] = made
    monkeypatch.setattr(importlib.import_module("kubefunc.session"), "_session", session)
    return made


def test_a_pickled_call_is_an_attached_one(backend: Remembering) -> None:
    """It finds the Job by namespace and id."""
    call: Call[int] = Call("f-abcdefghabcdefgh", "f", Session())
    call._work = HandWork(backend, call.id)
    again = pickle.loads(pickle.dumps(call))
    assert isinstance(again, Call)
    assert again.id == call.id
    assert backend.attached == ["somewhere/f-abcdefghabcdefgh"]


def test_a_pickled_map_is_an_attached_one(backend: Remembering) -> None:
    """And still gives exceptions as results, where it did."""
    made: MapCall[int] = MapCall(
        MapItems("f-abcdefghabcdefgh", "f", backend, Session(), return_exceptions=True, verbose=False)
    )
    made._items.work = HandWork(backend, made.id)
    again = pickle.loads(pickle.dumps(made))
    assert isinstance(again, MapCall)
    assert again.id == made.id
    assert again._items.return_exceptions
    assert backend.attached == ["somewhere/f-abcdefghabcdefgh"]


def test_an_item_of_a_map_is_not_pickled(backend: Remembering) -> None:
    """The map is: the error says what to do."""
    made: MapCall[int] = MapCall(
        MapItems("f-abcdefghabcdefgh", "f", backend, Session(), return_exceptions=False, verbose=False)
    )
    made._items.outcomes.open(3)
    with pytest.raises(errors.SerializationError, match=r"f-abcdefghabcdefgh\[2\] .* use its calls\[2\]"):
        pickle.dumps(made.calls[2])


def test_a_call_of_this_machine_is_not_pickled(tmp_path: Path) -> None:
    """It is a process of this program: no other can find it."""
    call: Call[int] = Call("f-abcdefghabcdefgh", "f", Session())
    call._work = LocalWork(LocalBackend(tmp_path, OneShots), call.id)
    with pytest.raises(errors.SerializationError, match=r"runs on this machine.*Pass its result\(\)"):
        pickle.dumps(call)
