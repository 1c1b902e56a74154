"""What has come of a Pod's result: in whatever pieces it comes, it is taken once and only when it is right."""

from __future__ import annotations

import itertools
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubefunc.backends.kubernetes.api.exec_errors import StreamGarbled
from kubefunc.backends.kubernetes.attempts.receipt import ChunkReceipt, FollowIntake
from kubefunc.errors import ResultCorruptedError
from kubefunc.runner import CHUNK
from kubefunc.runner.execution.attempts import error_header
from kubefunc.runner.protocol import pipes, records, wire
from kubefunc.runner.protocol.records import Record

CALL = "train-x7k2p9qa"
KEY = b"k" * 32
CHUNK_NUMBER = 3


def record(index: int, value: object) -> bytes:
    """The record of a value."""
    body = pickle.dumps(value)
    return records.pack_record(index, 1.0, 2.0, 1, b"", len(body)) + body


def chunk_of(blocks: list[list[int]], /, **changes: object) -> bytes:
    """What a chunk leaves whose blocks have these items."""
    sealed = [
        records.seal_block(KEY, CALL, CHUNK_NUMBER, number, b"".join(record(index, index) for index in block))
        for number, block in enumerate(blocks)
    ]
    header = {"outcome": CHUNK, "call": CALL, "chunk": CHUNK_NUMBER, "blocks": len(blocks), "complete": True}
    return b"".join(sealed) + wire.tail({**header, **changes}, KEY)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """The data, cut there."""
    at = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[start:end] for start, end in itertools.pairwise(at)]


class Taken:
    """What was handed on."""

    def __init__(self) -> None:
        self.values: list[tuple[int, object]] = []
        self.receipt = ChunkReceipt(KEY, CALL, CHUNK_NUMBER, self.take)

    def take(self, outcomes: object) -> None:
        assert isinstance(outcomes, list)
        for each in outcomes:
            assert isinstance(each, Record)
            self.values.append((each.index, pickle.loads(each.body)))


BLOCKS = st.lists(st.lists(st.integers(0, 2**63), max_size=5), max_size=6)
CUTS = st.lists(st.integers(0, 10**6), max_size=12)


@given(BLOCKS, CUTS)
def test_blocks_that_are_cut_anywhere(blocks: list[list[int]], cuts: list[int]) -> None:
    """Each outcome is handed on once, in order, and the end is right, however the stream was cut."""
    taken = Taken()
    for piece in pieces(chunk_of(blocks), cuts):
        taken.receipt.add(piece)
    header = taken.receipt._end(taken.receipt.received).header
    assert header["blocks"] == len(blocks)
    assert taken.values == [(index, index) for block in blocks for index in block]


@given(BLOCKS, st.integers(0, 10**6), st.integers(1, 255))
def test_a_byte_that_was_changed(blocks: list[list[int]], where: int, change: int) -> None:
    """Nothing wrong is ever taken: what comes before the change may be, and then it is noticed."""
    data = bytearray(chunk_of(blocks))
    data[where % len(data)] ^= change
    taken = Taken()
    with pytest.raises(ResultCorruptedError):
        taken.receipt.whole(bytes(data))
    right = [(index, index) for block in blocks for index in block]
    assert taken.values == right[: len(taken.values)]


@given(BLOCKS, st.integers(1, 10**6))
def test_a_chunk_that_is_cut_short(blocks: list[list[int]], missing: int) -> None:
    """Whatever of it has come by blocks is taken; its end is missed."""
    data = chunk_of(blocks)
    with pytest.raises(ResultCorruptedError):
        Taken().receipt.whole(data[: max(0, len(data) - missing)])


@pytest.mark.parametrize("changes", [{"chunk": 4}, {"blocks": 1}, {"call": "train-zzzzzzzz"}])
def test_an_end_that_belongs_elsewhere(changes: dict[str, object]) -> None:
    """The tail says of which chunk it is, and after how many blocks it comes."""
    with pytest.raises(ResultCorruptedError):
        Taken().receipt.whole(chunk_of([[1], [2]], **changes))


def test_an_error_that_holds_for_all() -> None:
    """A chunk of which nothing could run leaves an ordinary envelope, of this chunk."""
    header = {**error_header("died", {"exit_code": 1}), "call": CALL, "chunk": CHUNK_NUMBER, "printed": 0}
    taken = Taken()
    assert taken.receipt.whole(wire.seal(header, b"", KEY)).header["code"] == "died"
    with pytest.raises(ResultCorruptedError):
        taken.receipt.whole(wire.seal({**header, "chunk": 1}, b"", KEY))


FRAMES = st.lists(st.one_of(st.just(None), st.binary(max_size=40)), max_size=10)


@given(FRAMES, CUTS)
def test_a_follower_whose_stream_is_cut_anywhere(frames: list[bytes | None], cuts: list[int]) -> None:
    """Heartbeats between the pieces are no data, and the end says how much there was."""
    wrote = [b"." if each is None else b"D" + wire.LENGTH.pack(len(each)) + each for each in frames]
    data = b"".join(each for each in frames if each is not None)
    intake = FollowIntake()
    came = b""
    for piece in pieces(b"".join(wrote) + b"E" + pipes.UPLOAD_HEAD.pack(len(data)), cuts):
        came += b"".join(intake.feed(memoryview(piece)))
    assert came == data
    assert intake.total == len(data)


@pytest.mark.parametrize("data", [b"x", b"R", b"N.", b"E" + bytes(8) + b"."])
def test_a_follower_that_says_something_else(data: bytes) -> None:
    """Garbage, and anything after the last word, is refused."""
    with pytest.raises(StreamGarbled):
        FollowIntake().feed(memoryview(data))
