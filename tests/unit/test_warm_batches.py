"""What a worker is given at once, and what is read of its answer."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from kubefunc import File, Pool, errors
from kubefunc.backends.base import Sink, Submission
from kubefunc.backends.kubernetes.warm.backlog import Backlog
from kubefunc.backends.kubernetes.warm.batch import Batch
from kubefunc.backends.kubernetes.warm.given import Given
from kubefunc.backends.kubernetes.warm.known_code import KnownCode
from kubefunc.backends.kubernetes.warm.parcel import Parcel
from kubefunc.backends.kubernetes.warm.run import Run
from kubefunc.options import Options
from kubefunc.packing.payload import Packer
from kubefunc.runner import VALUE
from kubefunc.runner.protocol import records, wire
from kubefunc.runner.warm.kept import Kept
from kubefunc.runner.warm.request import WarmRequest

KEY = b"k" * 32


class Heard:
    """A sink: what it was told."""

    def __init__(self) -> None:
        self.taken: list[int] = []
        self.failed: list[Exception] = []

    def missing(self, indexes: Sequence[int]) -> list[int]:
        """Nothing has come yet."""
        return list(indexes)

    def take(self, outcomes: Sequence[records.Record]) -> None:
        """Outcomes came."""
        self.taken += [each.index for each in outcomes]

    def fail(self, indexes: Sequence[int], error: Exception) -> None:
        """None will come."""
        self.failed.append(error)


def runs_of(count: int, sink: Heard, size: int = 1) -> list[Run]:
    """The items of a map."""
    items = dict.fromkeys(range(count), b"x" * size)
    payload = Packer.for_local().pack(abs)
    sent = Submission(
        call="map-x", function="f", options=Options(), payload=payload, key=KEY, shape="map", items=items, count=count
    )
    parcel, changed = Parcel(sent, fresh=True), threading.Condition()
    return [Run(parcel, index, cast(Sink, sink), changed) for index in items]


def test_workers_sign_returned_files() -> None:
    """They leave the worker's machine: the client checks their digests."""
    payload = Packer.for_local().pack(abs)
    sent = Submission(call="call-x", function="f", options=Options(), payload=payload, key=KEY)
    request = WarmRequest(b"".join(Parcel(sent, fresh=True).request("run-1", [0])), "")
    assert request.spec.seals_files
    assert request.files is None


def test_a_map_with_files_is_given_item_by_item(tmp_path: Path) -> None:
    """Nothing is sent ahead. The file that only one item needs goes when that has ended."""
    for name in ("own", "shared"):
        (tmp_path / name).write_text(name)
    own, shared = (File(tmp_path / name) for name in ("own", "shared"))
    payload, packed = Packer.for_cluster().pack_map(print, [(own, shared), (shared,)])
    items = dict(enumerate(packed))
    sent = Submission(
        call="map-x", function="f", options=Options(), payload=payload, key=KEY, shape="map", items=items, count=2
    )
    parcel, backlog = Parcel(sent, fresh=True), Backlog()
    backlog.add([Run(parcel, index, cast(Sink, Heard()), threading.Condition()) for index in items])
    batch = backlog.next_batch(0.0001, 1)
    assert batch is not None
    assert batch.indexes == [0]
    assert not parcel.may_wait
    request = WarmRequest(b"".join(parcel.request("run-1", [0])), "")
    assert request.files == {"place": "map-x", "own": [0]}
    assert [file.path for file in parcel.arguments.of([0]).values()] == [os.fspath(own), os.fspath(shared)]
    assert [file.path for file in parcel.arguments.of([1]).values()] == [os.fspath(shared)]


def record(index: int) -> bytes:
    """An item has returned."""
    return records.pack_record(index, 1.0, 2.0, 1, b"", 2) + b"N."


def test_a_worker_gets_items_of_one_map_at_once() -> None:
    """So many as last for a while, of large ones few; what comes back goes first."""
    backlog, sink = Backlog(), Heard()
    backlog.add(runs_of(100, sink))
    backlog.add(runs_of(3, sink))
    first = backlog.next_batch(None, 1)
    assert first is not None
    assert [run.index for run in first.runs] == [0]
    second = backlog.next_batch(0.01, 1)
    assert second is not None
    assert [run.index for run in second.runs] == list(range(1, 11))
    backlog.put_back(list(second.runs))
    third = backlog.next_batch(0.0001, 1)
    assert third is not None
    assert third.runs[0].index == 1
    large = Backlog()
    large.add(runs_of(10, sink, size=600_000))
    few = large.next_batch(0.0001, 1)
    assert few is not None
    assert len(few.runs) == 2


def test_what_waited_on_a_worker_is_not_lost_with_it() -> None:
    """It has not begun, and is the first to go to another worker; what ran is another matter."""
    backlog, given = Backlog(), Given()
    backlog.add(runs_of(10, Heard()))
    batches = [backlog.next_batch(0.05, 1) for _ in range(3)]
    assert all(batches)
    given.assign(cast(Batch, batches[0]))
    given.assign(cast(Batch, batches[1]))
    assert backlog.take_back(given) is batches[0]
    assert given.batches == []
    following = backlog.next_batch(0.05, 1)
    assert following is not None
    assert following.runs == cast(Batch, batches[1]).runs


def test_what_waits_follows_what_runs() -> None:
    """Or is given back; what is over does not come again."""
    runs, given = runs_of(3, Heard()), Given()
    first, second, third = (Batch(run.parcel, [run]) for run in runs)
    given.assign(first)
    given.assign(second)
    assert given.batches == [first, second]
    assert given.take_waiting(first.id) == ()
    assert given.remove(first) is second
    assert given.remove(first) is None
    given.assign(third)
    assert given.take_waiting(third.id) == [runs[2]]
    assert given.batches == [second]


def test_batches_are_sent_in_the_order_in_which_they_run() -> None:
    """Whichever thread is first to send; what was taken back is not sent at all."""
    runs, given = runs_of(3, Heard()), Given()
    first, second, third = (Batch(run.parcel, [run]) for run in runs)
    given.assign(first)
    given.assign(second)
    assert given.take_unsent() == [first, second]
    assert given.take_unsent() == []
    given.remove(first)
    given.assign(third)
    given.take_back()
    assert given.take_unsent() == []


def test_what_must_never_run_twice_waits_at_no_worker() -> None:
    """If that worker is lost, nobody knows whether it has begun."""
    payload = Packer.for_local().pack(abs)
    for most in (0, 1):
        options = Options(max_disruptions=most)
        sent = Submission(call="call-x", function="f", options=options, payload=payload, key=KEY)
        assert Parcel(sent, fresh=True).may_wait == bool(most)


def test_code_and_function_are_sent_once() -> None:
    """The second batch only names what the worker keeps."""
    kept, runs = Kept(), runs_of(2, Heard())
    first, second = (b"".join(Batch(runs[0].parcel, [run]).frames(kept, KEY, KnownCode())) for run in runs)
    assert b"builtins" in first
    assert b"builtins" not in second
    assert b"function." in second


@pytest.mark.parametrize("place", range(0, 200, 7))
def test_a_block_that_was_changed_is_not_taken(place: int) -> None:
    """Whichever byte: nothing of it is unpickled, and the items get an error."""
    sink = Heard()
    runs = runs_of(2, sink)
    batch = Batch(runs[0].parcel, runs)
    block = bytearray(records.seal_block(KEY, "map-x", 0, 0, record(0) + record(1)))
    batch.hear_answer(bytes(block))
    assert sink.taken == [0, 1]
    sink.taken.clear()
    again = Batch(runs[0].parcel, runs)
    block[place % len(block)] ^= 0x20
    again.hear_answer(bytes(block))
    again.settle()
    assert sink.taken == []
    assert all(isinstance(each, errors.ResultCorruptedError) for each in sink.failed)


def large_outcome() -> tuple[Batch, Heard, bytes, bytes]:
    """A call, the body that comes of it in pieces, and what follows that."""
    sink = Heard()
    payload = Packer.for_local().pack(abs)
    sent = Submission(call="call-x", function="f", options=Options(), payload=payload, key=KEY)
    run = Run(Parcel(sent, fresh=True), 0, cast(Sink, sink), threading.Condition())
    body = bytes(range(256)) * 40
    header = {"outcome": VALUE, "call": "call-x", "size": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    return Batch(run.parcel, [run]), sink, body, wire.tail(header, KEY)


@pytest.mark.parametrize("sizes", [[10_240], [1, 10_239], [4096, 4096, 2048]])
def test_a_large_outcome_is_whole_however_it_is_cut(sizes: list[int]) -> None:
    """It is hashed piece by piece."""
    batch, sink, body, end = large_outcome()
    for size in sizes:
        batch.hear_body(body[:size])
        body = body[size:]
    batch.hear_answer(end)
    batch.settle()
    assert (sink.taken, sink.failed) == ([0], [])


@pytest.mark.parametrize("change", ["a byte", "cut", "longer", "moved"])
def test_a_large_outcome_that_was_changed_is_not_taken(change: str) -> None:
    """Also where bytes of the body stand in the frame that ends it, which is not hashed with the pieces."""
    batch, sink, body, end = large_outcome()
    pieces = {
        "a byte": (body[:5000] + b"?" + body[5001:], end),
        "cut": (body[:-1], end),
        "longer": (body, b"more" + end),
        "moved": (body[:-4], body[-4:] + end),
    }
    batch.hear_body(pieces[change][0])
    batch.hear_answer(pieces[change][1])
    batch.settle()
    assert sink.taken == []
    assert isinstance(sink.failed[0], errors.ResultCorruptedError)


def test_an_outcome_of_a_broken_stream_begins_anew_on_the_next_one() -> None:
    """Pieces that came before the stream broke do not count."""
    batch, sink, body, end = large_outcome()
    batch.hear_body(body[:5000])
    batch.forget_answer()
    batch.hear_body(body)
    batch.hear_answer(end)
    batch.settle()
    assert (sink.taken, sink.failed) == ([0], [])


def test_only_items_of_the_batch_are_taken() -> None:
    """A worker that answers for others, or twice, changes nothing."""
    sink = Heard()
    runs = runs_of(3, sink)
    batch = Batch(runs[0].parcel, runs[:2])
    batch.hear_answer(records.seal_block(KEY, "map-x", 0, 0, record(0) + record(2) + record(0)))
    assert sink.taken == [0]
    assert [run.index for run in batch.left] == [1]
    assert not batch.is_answered


@pytest.mark.parametrize("fresh", [None, 1, "no"])
def test_fresh_is_a_bool(fresh: Any) -> None:
    """The error names the value."""
    with pytest.raises(errors.ConfigurationError, match=f"fresh={fresh!r}"):
        Pool(fresh=fresh)
