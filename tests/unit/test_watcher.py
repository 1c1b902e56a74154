"""The watcher's decisions, without a network: lines, differences of lists, what follows an end."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubefunc.backends.kubernetes.api.streams import split_lines
from kubefunc.backends.kubernetes.api.watch_events import (
    End,
    Step,
    end_of_status,
    next_step,
    parse_line,
    relist_difference,
    skeleton,
    uid_of,
)


def thing(uid: str, version: str) -> dict[str, Any]:
    """An object as the API server shows it, as far as the watcher looks."""
    return {"metadata": {"uid": uid, "name": f"pod-{uid}", "resourceVersion": version}, "spec": {}}


def test_a_line_is_an_event_with_the_objects_version() -> None:
    """A watch line parses into its type, its object and the object's resourceVersion."""
    line = json.dumps({"type": "MODIFIED", "object": thing("1", "42")}).encode()
    event = parse_line(line)
    assert event is not None
    assert (event.kind, event.version, uid_of(event.object)) == ("MODIFIED", "42", "1")


def test_an_empty_line_is_no_event() -> None:
    """Blank lines between events mean nothing."""
    assert parse_line(b"\r") is None


@pytest.mark.parametrize("line", [b"{", b"[]", b"{}", b'{"type":"ADDED","object":3}', b"\xff\xfe"])
def test_what_is_no_event_is_refused(line: bytes) -> None:
    """Half a line, or another thing than an event, is an error and never half an event."""
    with pytest.raises(ValueError, match=r"\w"):
        parse_line(line)


@pytest.mark.parametrize(
    ("status", "end"),
    [
        (410, End.GONE),
        (504, End.GONE),
        (403, End.FORBIDDEN),
        (401, End.OVERLOADED),
        (429, End.OVERLOADED),
        (500, End.OVERLOADED),
        (503, End.OVERLOADED),
        (400, End.REFUSED),
        (404, End.REFUSED),
        (422, End.REFUSED),
    ],
)
def test_a_status_says_how_a_connection_ended(status: int, end: End) -> None:
    """The same statuses mean the same, as an HTTP answer and inside an ERROR event."""
    assert end_of_status(status) is end


@pytest.mark.parametrize(
    ("end", "failures", "step"),
    [
        (End.EOF, 0, Step.RESUME),
        (End.SILENT, 0, Step.RESUME),
        (End.EMPTY, 1, Step.RESUME_LATER),
        (End.CUT, 1, Step.RESUME_LATER),
        (End.CUT, 5, Step.RESUME_LATER),
        (End.OVERLOADED, 5, Step.RELIST_LATER),
        (End.OVERLOADED, 3, Step.RESUME_LATER),
        (End.GONE, 1, Step.RELIST),
        (End.GONE, 2, Step.RELIST_LATER),
        (End.GARBLED, 1, Step.RELIST_LATER),
        (End.FORBIDDEN, 1, Step.RESUME_LATER),
        (End.FORBIDDEN, 11, Step.STOP),
        (End.REFUSED, 1, Step.STOP),
    ],
)
def test_what_follows_the_end_of_a_connection(end: End, failures: int, step: Step) -> None:
    """Polite ends are resumed at once, trouble after a pause; 410 lists again; a refusal stops."""
    assert next_step(end, failures=failures) is step


@given(end=st.sampled_from(End), failures=st.integers(1, 1000))
def test_only_a_polite_end_is_resumed_without_a_pause(end: End, failures: int) -> None:
    """However often something fails, no loop without a pause comes of it."""
    without_pause = next_step(end, failures=failures) in (Step.RESUME, Step.RELIST)
    assert not without_pause or end in (End.EOF, End.SILENT) or (end is End.GONE and failures == 1)


objects = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 5))


@given(before=objects, after=objects)
def test_the_differences_lead_from_the_old_list_to_the_new_one(before: dict[str, int], after: dict[str, int]) -> None:
    """Applied to what was known, the synthetic events give what is there now; nothing is told twice."""
    known = {uid: thing(uid, str(version)) for uid, version in before.items()}
    state = dict(before)
    told = []
    for kind, obj in relist_difference(known, [thing(uid, str(version)) for uid, version in after.items()]):
        uid = uid_of(obj)
        told.append(uid)
        assert (kind == "ADDED") == (uid not in state)
        if kind == "DELETED":
            del state[uid]
        else:
            state[uid] = int(obj["metadata"]["resourceVersion"])
    assert state == after
    assert len(told) == len(set(told))
    assert not [uid for uid in told if before.get(uid) == after.get(uid)]


def test_an_object_that_was_replaced_under_its_name_is_deleted_and_added() -> None:
    """Same name, other UID: the old one is gone, the new one is another object."""
    events = list(relist_difference({"old": thing("old", "1")}, [thing("new", "2")]))
    assert [(kind, uid_of(obj)) for kind, obj in events] == [("DELETED", "old"), ("ADDED", "new")]


def test_a_skeleton_keeps_what_identifies_an_object_and_no_more() -> None:
    """Identity, labels and owners are remembered of each object: not its spec or managed fields."""
    obj = {
        "kind": "Pod",
        "metadata": {
            "uid": "1",
            "name": "a",
            "labels": {"x": "y"},
            "managedFields": [{}],
            "ownerReferences": [],
        },
        "spec": {"containers": [{}]},
    }
    kept = {"uid": "1", "name": "a", "labels": {"x": "y"}, "ownerReferences": []}
    assert skeleton(obj) == {"kind": "Pod", "metadata": kept}


@given(lines=st.lists(st.binary(max_size=20).filter(lambda line: b"\n" not in line)), data=st.data())
def test_lines_come_out_whole_however_they_were_cut(lines: list[bytes], data: st.DataObject) -> None:
    """The network cuts anywhere; the lines are the same."""
    text = b"".join(line + b"\n" for line in lines)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)))))
    edges = [0, *cuts, len(text)]
    pieces = [text[start:end] for start, end in itertools.pairwise(edges)]
    assert list(split_lines(pieces)) == lines


def test_a_line_is_handed_on_as_soon_as_its_end_is_there() -> None:
    """The event is reported before the next byte is asked for."""

    def network() -> Any:
        yield b"one\ntw"
        raise AssertionError("asked for more before handing on what was whole")

    assert next(split_lines(network())) == b"one"
