"""Hostile news of one call: it ends that call with an error of ours, or is ignored; no thread and no other call."""

from __future__ import annotations

import contextlib
import copy
import json
import pickle
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kubefunc import errors
from kubefunc.backends.kubernetes.diagnose import starting
from kubefunc.backends.kubernetes.objects import fields, views
from kubefunc.backends.kubernetes.results.courier_log import announced_size, envelope_in_log
from kubefunc.diagnosis import Diagnosis
from kubefunc.envelope import Envelope, Raised, Returned, outcome, verify, verify_chunk
from kubefunc.handles.call import Call
from kubefunc.handles.map_call import MapCall
from kubefunc.handles.map_items import MapItems
from kubefunc.outcomes.attempts import View
from kubefunc.runner import RAISED
from kubefunc.runner.execution import exceptions
from kubefunc.runner.protocol import records, wire
from kubefunc.session import Session
from tests.unit import statuses
from tests.unit.by_hand import KEY, HandBackend, OneItem, value_record
from tests.unit.test_following_maps import Following, Items, Layout, inline, lead_of, pod

CALL = "f-abcdefgh"
UNKNOWN = Diagnosis(reason="", message="")
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["\u00b2", "9" * 5000]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "outcome": st.sampled_from(["value", "raised", "error", "chunk"]) | JSON,
        "code": st.sampled_from(["python", "exit", "timeout", "died", "oom", "upload", "load", "unpicklable", "new"])
        | JSON,
        "detail": st.dictionaries(st.sampled_from(["type", "exit_code", "signal", "limit", "timeout"]), JSON) | JSON,
        "nodes": st.lists(
            st.fixed_dictionaries(
                {},
                optional={
                    name: JSON | st.integers(-1, 2) | st.lists(st.integers(-1, 2), max_size=2)
                    for name in ("type", "message", "notes", "at", "cause", "context", "suppress", "members")
                },
            ),
            max_size=3,
        )
        | JSON,
        "traceback": JSON,
        "printed": JSON,
        "output": JSON,
        "started": JSON,
        "peak_memory": JSON,
        "attempts": JSON,
    },
)


def places(obj: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to every part of an object."""
    yield path
    parts = obj.items() if isinstance(obj, dict) else enumerate(obj) if isinstance(obj, list) else ()
    for name, part in parts:
        yield from places(part, (*path, name))


def changed(obj: Any, path: tuple[Any, ...], value: object) -> Any:
    """The object with another value at this place."""
    if not path:
        return value
    obj = copy.deepcopy(obj)
    inner = obj
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return obj


def made() -> tuple[Call[Any], OneItem]:
    """A call that nobody has answered yet."""
    call: Call[Any] = Call(CALL, "f", SESSION)
    return call, OneItem(View(call._outcomes))


SESSION = Session()
TROUBLED = statuses.pod(
    statuses.terminated(137, "OOMKilled", "kubefunc:at:3"),
    statuses.waiting("ErrImagePull", "no such image"),
    init=statuses.RUNNING,
    conditions=(statuses.disrupted("Preempted"), {"type": "PodScheduled", "status": "False", "message": "none"}),
    deleting=True,
)


@given(st.data(), JSON)
def test_a_pod_or_job_is_read_strictly(data: st.DataObject, value: object) -> None:
    """Whatever stands in a field: it is read as what the API gives it, or the object is refused as a whole."""
    job = statuses.job(reason="DeadlineExceeded", message="late")
    job["status"]["failedIndexes"] = "1,3-5"
    for read, obj in ((views.pod_view, TROUBLED), (views.job_view, job)):
        path = data.draw(st.sampled_from([path for path in places(obj) if path]))
        with contextlib.suppress(fields.BadObject):
            view = read(changed(obj, path, value))
            assert isinstance(view.name, str)
            assert isinstance(view.uid, str)


@pytest.mark.parametrize("index", ["\u00b2", "-1", "9" * 5000, "1e3", "", None, 7, ["0"]])
def test_a_strange_index_is_no_index(index: object) -> None:
    """Annotations are anybody's: only a number as Kubernetes writes it counts."""
    strange = changed(pod(0, "running"), ("metadata", "annotations", "batch.kubernetes.io/job-completion-index"), index)
    with contextlib.suppress(fields.BadObject):
        assert views.owner_of(strange)[2] is None


def test_a_pod_that_only_refers_to_our_job_is_not_its_pod() -> None:
    """Anybody may write an owner reference; the Job controller's Pods have its label, and it is their controller."""
    real = pod(0, "running")
    assert views.owner_of(real)[0] == CALL
    for path, value in (
        (("metadata", "labels"), {}),
        (("metadata", "labels", views.CONTROLLER_UID), "another"),
        (("metadata", "ownerReferences", 0, "controller"), False),
        (("metadata", "ownerReferences", 0, "kind"), "ReplicaSet"),
    ):
        assert views.owner_of(changed(real, path, value)) == ("", "", None)


def test_a_forged_pod_does_not_end_the_call() -> None:
    """It has our labels and refers to our Job; it fails, and the real Pod's result still arrives."""
    following = Following(lead_of(Items(1), Layout(1, 1, range(1))))
    forged = pod(0, "terminated", "forged", exit_code=1)
    forged["metadata"].update(name="forged", uid="forged", labels={"kubefunc/call": CALL, "kubefunc/session": "s"})
    following.tell([("ADDED", forged), ("ADDED", pod(0, "terminated", inline(0, [0]))), ("DELETED", forged)])
    assert following.failed == []
    assert following.ended == [0]


@settings(max_examples=50, deadline=None)  # each has threads of its own
@given(st.data(), JSON, st.sampled_from(["ADDED", "MODIFIED", "DELETED"]))
def test_hostile_objects_reach_no_thread(data: st.DataObject, value: object, kind: Any) -> None:
    """A watch's thread goes on after any object, and the call's own result still ends it."""
    items = Items(1)
    following = Following(lead_of(items, Layout(1, 1, range(1))))
    tracker = following.tracker
    good, event = pod(0, "running"), {"involvedObject": {"name": f"{CALL}-0-x"}, "reason": "Started"}
    other = changed(good, ("metadata", "uid"), "other")
    other["metadata"]["name"] = "other"
    job = {"metadata": {"name": CALL, "uid": "another"}, "status": {"failedIndexes": "0"}}
    for listener, obj in ((tracker._on_pod, other), (tracker._on_job, job), (tracker._events.started, event)):
        path = data.draw(st.sampled_from([path for path in places(obj) if path]))
        listener(kind, changed(obj, path, value))
    following.tell([("MODIFIED", pod(0, "terminated", inline(0, [0])))])
    assert following.ended == [0] or following.failed


@given(st.lists(st.dictionaries(st.sampled_from(["reason", "message", "series", "type"]), JSON), max_size=4))
def test_events_are_read_strictly(events: list[dict[str, Any]]) -> None:
    """Events are written by many programs."""
    with contextlib.suppress(fields.BadObject):
        starting.event_trouble(events)


@given(st.binary() | st.text().map(str.encode))
@example("kubefunc:log:3\n\u00e4\u00f6\nkubefunc:end\n".encode())
@example("kubefunc:log:\u00b2\nAAAA\nkubefunc:end\n".encode())
def test_a_couriers_log_may_hold_anything(log: bytes) -> None:
    """It is an envelope, or it is not."""
    assert envelope_in_log(log) is None
    assert announced_size("kubefunc:size:" + log.decode("utf-8", "replace")) >= 0


@settings(max_examples=300, deadline=None)
@given(HEADERS, st.binary(max_size=20))
def test_a_signed_envelope_may_say_anything(header: dict[str, Any], body: bytes) -> None:
    """A function has the key and may write what it likes: its call ends, with a value or with an error of ours."""
    call, sink = made()
    try:
        envelope = verify(wire.seal({"call": CALL, **header}, body, KEY), KEY, CALL)
    except errors.ResultCorruptedError:
        return
    sink.deliver(envelope)
    error = call.exception(timeout=10)
    assert error is None or isinstance(error, errors.KubefuncError)


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_a_signed_header_may_be_anything(header: bytes) -> None:
    """Not even a mapping."""
    data = header + wire.LENGTH.pack(len(header)) + wire.mac(KEY, header) + wire.ENVELOPE_MAGIC
    for read in (lambda: verify(data, KEY, CALL), lambda: verify_chunk(data, KEY, CALL, 0, 0)):
        with pytest.raises(errors.ResultCorruptedError):
            read()


class Strange(Exception):
    """Its attributes are not what their names promise."""

    exceptions = 5

    def __setattr__(self, name: str, value: object) -> None:
        raise TypeError(f"{name} cannot be set")


class NoNotes(Exception):
    """Its notes are no list."""

    __notes__ = 7  # type: ignore[assignment]


class Furious(Exception):
    """It ends the process that looks at its notes."""

    @property
    def __notes__(self) -> list[str]:
        sys.exit(3)


@pytest.mark.parametrize("kind", [Strange, NoNotes, Furious])
def test_a_strange_exception_ends_its_call(kind: type[Exception]) -> None:
    """It is raised as itself: only a real ExceptionGroup has members, and links are set past its class."""
    error = kind("boom")
    nodes, body = exceptions.encode(error, pickle.dumps)
    header = {"outcome": RAISED, "call": CALL, "nodes": nodes, "traceback": "Traceback", "printed": 0}
    call, sink = made()
    sink.deliver(verify(wire.seal(header, body, KEY), KEY, CALL))
    raised = call.exception(timeout=10)
    assert isinstance(raised, kind)
    assert isinstance(raised.__cause__, errors.RemoteTraceback)


def test_an_exception_that_cannot_be_rebuilt_ends_its_call() -> None:
    """Whatever is raised while it is rebuilt becomes the cause of an error of ours."""
    node = {"type": "Furious", "message": "", "notes": ["a note"], "at": None, "cause": 7, "context": None}
    body = pickle.dumps(Furious("boom"))
    node.update(at=[0, len(body)], suppress=False, members=[])
    header = {"outcome": RAISED, "call": CALL, "nodes": [node], "traceback": "", "printed": 0}
    ended = outcome(Envelope(header, memoryview(body)), UNKNOWN)
    assert isinstance(ended, Raised)
    assert isinstance(ended.error, errors.ResultCorruptedError)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), HEADERS | st.none(), st.binary(max_size=9)), max_size=5))
def test_records_may_say_anything(hostile: list[tuple[int, dict[str, Any] | None, bytes]]) -> None:
    """Each item of a map ends, with a value or with an error of ours, whatever the other items' outcomes hold."""
    handle: MapCall[Any] = MapCall(MapItems(CALL, "f", HandBackend(), SESSION, return_exceptions=True, verbose=False))
    handle._items.outcomes.open(3)
    sink = View(handle._items.outcomes)
    sink.take([records.Record(index, 0.0, 1.0, 1, header, body) for index, header, body in hostile])
    sink.take([value_record(index, index) for index in range(3)])
    for call in handle.calls:
        error = call.exception(timeout=10)
        assert error is None or isinstance(error, errors.KubefuncError)


@given(st.binary(max_size=80))
def test_a_signed_block_may_hold_anything(content: bytes) -> None:
    """It is records, or the stream is damaged: nothing else is raised."""
    with contextlib.suppress(wire.WireError):
        list(records.split_records(content))


def test_a_value_that_is_a_value() -> None:
    """The plain case, for contrast."""
    call, sink = made()
    sink.deliver(verify(wire.seal({"outcome": "value", "call": CALL}, pickle.dumps(1), KEY), KEY, CALL))
    assert call.result(timeout=10) == 1
    assert isinstance(outcome(Envelope({"outcome": "value"}, memoryview(pickle.dumps(1))), UNKNOWN), Returned)
