"""The byte formats of the protocol against everything that can happen to bytes on their way."""

from __future__ import annotations

import base64
import json
import random
import zlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kubefunc.runner import PAYLOAD_MAGIC, TERMINATION_ENVELOPE, TERMINATION_TEXT_LIMIT
from kubefunc.runner.protocol.wire import (
    Frames,
    WireError,
    frame,
    from_termination_text,
    join_payload,
    split_payload,
    termination_text,
)

SECTIONS = st.binary(max_size=80)
WHOLE = join_payload(b"PK code", b"a pickle", "")
PACKED = join_payload(b"", zlib.compress(b"a pickle"), "zlib")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["code", "call", "size", "sha256", "compression"]), inner, max_size=3)
    ),
    max_leaves=8,
)


# -- payloads


@given(SECTIONS, SECTIONS, st.booleans())
def test_sections_come_out_as_they_went_in(code: bytes, call: bytes, compressed: bool) -> None:
    """Whatever they hold, compressed or not."""
    stored = zlib.compress(call) if compressed else call
    assert split_payload(join_payload(code, stored, "zlib" if compressed else "")) == (code, call)


@pytest.mark.parametrize("whole", [WHOLE, PACKED], ids=["plain", "compressed"])
def test_a_payload_cut_at_any_byte_is_refused(whole: bytes) -> None:
    """No beginning of a payload passes for one, and neither does one with something behind it."""
    for size in range(len(whole)):
        with pytest.raises(WireError):
            split_payload(whole[:size])
    with pytest.raises(WireError, match="1 bytes too many"):
        split_payload(whole + b"x")


@pytest.mark.parametrize("whole", [WHOLE, PACKED], ids=["plain", "compressed"])
def test_a_payload_with_any_bit_changed_is_refused(whole: bytes) -> None:
    """Each single bit of it is covered, by the sections' digests or by the header's form."""
    for place in range(8 * len(whole)):
        changed = bytearray(whole)
        changed[place // 8] ^= 1 << place % 8
        with pytest.raises(WireError):
            split_payload(bytes(changed))


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
@example(b"[" * 100_000)
@example(json.dumps({"code": {"size": -1, "sha256": "", "compression": ""}, "call": {}}).encode())
@example(json.dumps({each: {"size": -5, "sha256": "", "compression": ""} for each in ("code", "call")}).encode())
@example(b'{"code": {"size": 1e999, "sha256": "", "compression": ""}, "call": {}}')
def test_no_header_breaks_the_reader(header: bytes) -> None:
    """Whatever stands where the header should be, the answer is the typed error."""
    data = PAYLOAD_MAGIC + len(header).to_bytes(4, "big") + header
    with pytest.raises(WireError):
        split_payload(data)


def test_an_unknown_compression_is_named() -> None:
    """The message says which one, for whoever mixes versions."""
    with pytest.raises(WireError, match="unknown compression 'zstd'"):
        split_payload(join_payload(b"", b"", "zstd"))


def test_a_section_that_does_not_decompress() -> None:
    """Bytes that only claim to be compressed are told as such."""
    with pytest.raises(WireError, match="does not decompress"):
        split_payload(join_payload(b"", b"not zlib", "zlib"))


# -- the termination message


@given(st.binary(max_size=1200))
def test_a_message_holds_the_whole_envelope_or_none(envelope: bytes) -> None:
    """What fits comes back as it was; what does not fit has no message."""
    text = termination_text(envelope)
    assert text is None or from_termination_text(text) == envelope
    assert text is not None or len(envelope) > 1000


def test_the_limit_is_exact() -> None:
    """A message of up to 2,000 bytes is used, one of more is not: the kubelet might cut it."""
    noise = random.Random(1).randbytes(1600)
    sizes = {len(text) for size in range(1300, 1600) if (text := termination_text(noise[:size])) is not None}
    assert TERMINATION_TEXT_LIMIT - 4 < max(sizes) <= TERMINATION_TEXT_LIMIT
    assert termination_text(noise[:1600]) is None


@given(st.data())
def test_a_message_cut_or_changed_is_never_more_than_no_news(data: st.DataObject) -> None:
    """Cut or changed anywhere, it gives other bytes, which the HMAC refuses, or nothing; it never raises."""
    text = termination_text(b"an envelope " * 10) or ""
    place = data.draw(st.integers(0, len(text) - 1))
    assert from_termination_text(text[:place]) != b"an envelope " * 10
    from_termination_text(text[:place] + data.draw(st.characters()) + text[place + 1 :])


@given(st.text(max_size=60))
@example("OOMKilled")
@example("ä" * 30)
def test_any_other_text_is_no_envelope(text: str) -> None:
    """What a function or the kubelet writes there is not mistaken for ours."""
    assert from_termination_text(text) is None
    assert from_termination_text(TERMINATION_ENVELOPE + text) is None


def test_a_forged_message_cannot_swell() -> None:
    """The most that a message of the allowed length can decompress to is 1.5 MB; a longer one is not looked at."""
    bomb = zlib.compress(bytes(10_000_000), 9)
    assert from_termination_text(TERMINATION_ENVELOPE + base64.b64encode(bomb).decode()) is None
    small = zlib.compress(bytes(1_400_000), 9)
    text = TERMINATION_ENVELOPE + base64.b64encode(small).decode()
    assert len(text) <= TERMINATION_TEXT_LIMIT
    assert len(from_termination_text(text) or b"") == 1_400_000


# -- frames


@given(st.lists(st.tuples(st.sampled_from([b"O", b"R", b"E"]), st.binary(max_size=30)), max_size=6), st.data())
def test_frames_come_out_whole_however_they_were_cut(sent: list[tuple[bytes, bytes]], data: st.DataObject) -> None:
    """Pipes deliver pieces: no frame is lost, doubled or given early."""
    stream = b"".join(frame(letter, content) for letter, content in sent)
    frames, got = Frames(), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        got += frames.feed(stream[:size])
        stream = stream[size:]
    assert got == sent
