"""Frames and the reader's protocol, without a network: whatever the cuts, the bytes are right."""

from __future__ import annotations

import hashlib
import itertools
import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubefunc.backends.kubernetes.api.exec_errors import StreamGarbled
from kubefunc.backends.kubernetes.api.frames import CLOSE, PING, FrameParser, masked_frame
from kubefunc.backends.kubernetes.api.transfer import Intake, Outcome, ResultBuffer
from tests.local.api_server import frame


def parse(pieces: list[bytes]) -> dict[int, bytes]:
    """What comes on each channel."""
    parser = FrameParser()
    got: dict[int, bytes] = {}
    for piece in pieces:
        for channel, view in parser.feed(memoryview(piece)):
            got[channel] = got.get(channel, b"") + bytes(view)
    return got


def pieces_of(data: st.DataObject, text: bytes) -> list[bytes]:
    """`text`, cut anywhere."""
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=12)))
    return [text[start:end] for start, end in itertools.pairwise([0, *cuts, len(text)])]


messages = st.lists(
    st.tuples(st.sampled_from([1, 2, 3]), st.binary(max_size=300), st.integers(0, 3), st.booleans()),
    max_size=8,
)


@given(messages=messages, data=st.data())
def test_channels_come_out_whole_however_frames_and_packets_are_cut(
    messages: list[tuple[int, bytes, int, bool]], data: st.DataObject
) -> None:
    """Messages in one frame or many, pings in between, packets cut anywhere: every channel has its bytes."""
    wire = b""
    expected: dict[int, bytes] = {}
    for channel, body, parts, ping in messages:
        payload = bytes([channel]) + body
        size = len(payload) // (parts + 1) + 1
        frames = [payload[start : start + size] for start in range(0, len(payload), size)]
        for number, part in enumerate(frames):
            wire += frame(0 if number else 2, part, fin=number == len(frames) - 1)
            if ping:
                wire += frame(9, b"hi")
                expected[PING] = expected.get(PING, b"") + b"hi"
        if body:
            expected[channel] = expected.get(channel, b"") + body
    wire += frame(8, b"\x03\xe8")
    expected[CLOSE] = b"\x03\xe8"
    assert parse(pieces_of(data, wire)) == expected


@pytest.mark.parametrize("size", [0, 1, 124, 125, 126, 65534, 65535, 65536, 200_000])
def test_frames_of_every_length_encoding(size: int) -> None:
    """Lengths are written in 7 bits, 16 bits or 64 bits."""
    body = bytes(size)
    assert parse([frame(2, b"\x01" + body)]) == ({1: body} if size else {})


def test_empty_frames_of_control_and_data() -> None:
    """A ping without payload, a message without a byte: kubelet opens its channels with such."""
    wire = frame(9, b"") + frame(2, b"") + frame(2, b"\x01") + frame(2, b"\x01a")
    assert parse([wire]) == {PING: b"", 1: b"a"}


@pytest.mark.parametrize(
    "wire",
    [b"\x82\x81\0\0\0\0a", b"\xc2\x01a", b"\x89\x7e\x00\xff"],
    ids=["masked", "extension", "long ping"],
)
def test_what_is_no_frame_of_a_server_is_refused(wire: bytes) -> None:
    """A masked frame, a reserved bit or an oversized control frame is an error, never data."""
    with pytest.raises(StreamGarbled):
        parse([wire])


@given(payload=st.binary(max_size=400))
def test_a_clients_frame_is_masked(payload: bytes) -> None:
    """Taking the mask off again gives the payload."""
    wire = masked_frame(2, payload)
    start = 2 if len(payload) < 126 else 4
    mask, hidden = wire[start : start + 4], wire[start + 4 :]
    assert wire[1] & 0x80
    assert bytes(byte ^ mask[place % 4] for place, byte in enumerate(hidden)) == payload


@pytest.mark.parametrize("size", [16383, 16384, 16385, 40000, 1 << 16, 100_001])
def test_a_large_frame_is_masked_from_its_first_byte_to_its_last(size: int) -> None:
    """It is masked in blocks; the mask goes on over their borders."""
    payload = os.urandom(size)
    wire = masked_frame(2, memoryview(payload))
    start = 4 if size < 1 << 16 else 10
    mask, hidden = wire[start : start + 4], wire[start + 4 :]
    assert bytes(byte ^ mask[place % 4] for place, byte in enumerate(hidden)) == payload


def said(result: bytes, offset: int = 0, heartbeats: int = 0) -> bytes:
    """What the reader writes."""
    return b"." * heartbeats + b"R" + struct.pack("!QQ", len(result), offset) + result[offset:]


def said_while_written(result: bytes, offset: int, sizes: list[int]) -> bytes:
    """What the reader writes of a result that grows by these sizes."""
    text = b""
    for size in sizes:
        part = result[offset : offset + size]
        text += b"D" + struct.pack("!I", len(part)) + part + b"."
        offset += len(part)
    rest = result[offset:]
    return text + b"D" + struct.pack("!I", len(rest)) + rest + b"E" + struct.pack("!Q", len(result))


def take_in(buffer: ResultBuffer, pieces: list[bytes]) -> Intake:
    """Feed all of it."""
    intake = Intake(buffer)
    for piece in pieces:
        if piece:
            intake.feed(memoryview(piece))
    return intake


@given(result=st.binary(max_size=200), heartbeats=st.integers(0, 5), data=st.data())
def test_a_result_comes_whole_however_it_is_cut(result: bytes, heartbeats: int, data: st.DataObject) -> None:
    """Heartbeats, header and bytes may arrive in any pieces."""
    buffer = ResultBuffer()
    intake = take_in(buffer, pieces_of(data, said(result, 0, heartbeats)))
    assert intake.outcome is Outcome.RESULT
    assert buffer.complete
    assert bytes(buffer.data) == result


@given(result=st.binary(min_size=1, max_size=200), data=st.data())
def test_a_result_is_resumed_wherever_the_stream_was_cut(result: bytes, data: st.DataObject) -> None:
    """Any number of cuts at any byte; each next stream begins where the last one ended."""
    buffer = ResultBuffer()
    for _ in range(data.draw(st.integers(0, 4))):
        text = said(result, buffer.received, 1)
        take_in(buffer, pieces_of(data, text[: data.draw(st.integers(0, len(text) - 1))]))
        assert not buffer.complete or not result
        assert bytes(buffer.data[: buffer.received]) == result[: buffer.received]
    take_in(buffer, [said(result, buffer.received)])
    assert buffer.complete
    assert bytes(buffer.data) == result


@given(result=st.binary(min_size=1, max_size=200), sizes=st.lists(st.integers(0, 50)), data=st.data())
def test_a_result_comes_while_it_is_written(result: bytes, sizes: list[int], data: st.DataObject) -> None:
    """In parts of any size, with heartbeats between them; a stream that was cut is resumed, by either way."""
    buffer = ResultBuffer()
    text = said_while_written(result, 0, sizes)
    take_in(buffer, pieces_of(data, text[: data.draw(st.integers(0, len(text) - 1))]))
    assert bytes(buffer.data) == result[: buffer.received]
    resumed = data.draw(
        st.sampled_from([said_while_written(result, buffer.received, sizes), said(result, buffer.received)])
    )
    assert take_in(buffer, pieces_of(data, resumed)).outcome is Outcome.RESULT
    assert bytes(buffer.data) == result


@pytest.mark.parametrize("header", [100, 200_000, 900_000])
def test_the_digest_of_a_body_is_taken_while_it_comes(header: int) -> None:
    """Whatever the size of what follows it, it is that of the body alone."""
    result = os.urandom(1_000_000)
    buffer = ResultBuffer()
    take_in(buffer, [said(result)[start : start + 30_000] for start in range(0, len(result) + 17, 30_000)])
    assert buffer.sha256(len(result) - header) == hashlib.sha256(result[:-header]).hexdigest()


def test_no_result_is_an_answer_too() -> None:
    """N after any heartbeats."""
    assert take_in(ResultBuffer(), [b"..", b".N"]).outcome is Outcome.NO_RESULT


def test_waiting_is_told_from_a_beginning() -> None:
    """Heartbeats and half a header are no beginning; the whole header is."""
    text = said(b"abc", 0, 2)
    intakes = [take_in(ResultBuffer(), [text[:size]]) for size in (2, 10, 19)]
    assert [intake.begun for intake in intakes] == [False, False, True]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"bash: not found", "bash: not found"),
        (b".x", "not b'x'"),
        (b"Nx", "1 bytes came after the end"),
        (said(b"abc") + b"d", "1 bytes came after the end"),
        (b"R" + struct.pack("!QQ", 3, 4), "bytes 4 to 3"),
        (b"R" + struct.pack("!QQ", 3, 1) + b"bc", "after 0 of None"),
        (b"D" + struct.pack("!I", 3) + b"abcE" + struct.pack("!Q", 4), "3 bytes came, and 4"),
    ],
)
def test_what_breaks_the_protocol_is_refused(text: bytes, words: str) -> None:
    """Noise on stdout, bytes after the end, a wrong offset or size are errors that say so."""
    with pytest.raises(StreamGarbled, match=words):
        take_in(ResultBuffer(), [text])


def test_another_result_cannot_be_continued_with() -> None:
    """A resumed stream that announces another length is another result."""
    buffer = ResultBuffer()
    take_in(buffer, [said(b"abcdef")[:19]])
    with pytest.raises(StreamGarbled, match="of 6"):
        take_in(buffer, [b"R" + struct.pack("!QQ", 9, 2)])


def test_pieces_are_views_and_not_copies() -> None:
    """Data is handed on in place: nothing is joined or copied on the way to the buffer."""
    wire = memoryview(bytearray(frame(2, b"\x01abc")))
    ((_, piece),) = FrameParser().feed(wire)
    assert piece.obj is wire.obj
