"""The byte formats of the protocol, both ways: payload sections, envelopes, the termination message, frames."""

from __future__ import annotations

import binascii
import hashlib
import hmac
import json
import os
import zlib

from kubefunc.runner import (
    ENVELOPE_MAGIC,
    PAYLOAD_MAGIC,
    TERMINATION_ENVELOPE,
    TERMINATION_FILES,
    TERMINATION_SIZE,
    TERMINATION_TEXT_LIMIT,
)
from kubefunc.runner.protocol.pipes import LENGTH as LENGTH
from kubefunc.runner.protocol.pipes import write_all as write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from io import FileIO

MAC_SIZE = 32
COPIED = 1 << 16  # bytes up to which one piece costs less than several
FRAME_HEAD = 1 + LENGTH.size
FOOTER_SIZE = LENGTH.size + MAC_SIZE + len(ENVELOPE_MAGIC)


class WireError(Exception):
    """Bytes that are not what the protocol says; the message says which part."""


def join_payload(code: bytes, call: bytes, compression: str, code_digest: str | None = None) -> bytes:
    """A payload of these sections; ``compression`` says how ``call`` was compressed.

    ``code_digest`` is the sha256 of ``code``, where it is known.

    >>> split_payload(join_payload(b"code", b"call", ""))
    (b'code', b'call')
    """
    sections = {"code": _section(code, "", code_digest), "call": _section(call, compression)}
    header = json.dumps(sections, separators=(",", ":")).encode()
    return b"".join((PAYLOAD_MAGIC, LENGTH.pack(len(header)), header, code, call))


def join_files(files: Iterable[tuple[str, bool, bytes]], level: int = zlib.Z_DEFAULT_COMPRESSION) -> bytes:
    """The section ``code``, of paths, whether they are executable, and contents.

    Not a zip: the import of ``zipfile`` would cost each Pod 14 ms. ``level`` says how hard zlib tries.

    >>> list(split_files(join_files([("a.py", False, b"x = 1"), ("b/run.sh", True, b"")])))
    [('a.py', False, b'x = 1'), ('b/run.sh', True, b'')]
    """
    listed = list(files)
    table = json.dumps([(path, executable, len(content)) for path, executable, content in listed]).encode()
    return zlib.compress(b"".join((LENGTH.pack(len(table)), table, *(content for _, _, content in listed))), level)


def split_files(code: bytes) -> Iterator[tuple[str, bool, bytes]]:
    """The same, of that section."""
    data = zlib.decompress(code)
    (length,) = LENGTH.unpack_from(data)
    position = LENGTH.size + length
    for path, executable, size in json.loads(data[LENGTH.size : position]):
        yield path, executable, data[position : position + size]
        position += size


def _section(data: bytes, compression: str, digest: str | None = None) -> dict[str, object]:
    return {"size": len(data), "sha256": digest or hashlib.sha256(data).hexdigest(), "compression": compression}


def split_payload(data: bytes) -> tuple[bytes, bytes]:
    """The sections ``code`` and ``call`` of a payload, whole and unchanged.

    Raises:
        WireError: the bytes are no payload, or not a whole one, or some of them have changed.
    """
    start = len(PAYLOAD_MAGIC) + LENGTH.size
    if len(data) < start or data[: len(PAYLOAD_MAGIC)] != PAYLOAD_MAGIC:
        raise WireError("not a payload: the first bytes are not " + repr(PAYLOAD_MAGIC))
    (length,) = LENGTH.unpack_from(data, len(PAYLOAD_MAGIC))
    position = start + length
    sections = []
    for name, size, digest, compression in _payload_header(bytes(data[start:position])):
        raw = data[position : position + size]
        if len(raw) != size:
            raise WireError(f"the payload is cut: {len(data)} bytes, {position + size} expected at least")
        if hashlib.sha256(raw).hexdigest() != digest:
            raise WireError(f"the section {name!r} of the payload has changed on its way (sha256)")
        sections.append(_decompressed(raw, compression))
        position += size
    if position != len(data):
        raise WireError(f"the payload has {len(data) - position} bytes too many")
    return sections[0], sections[1]


def _payload_header(encoded: bytes) -> list[tuple[str, int, str, str]]:
    """Name, size, sha256 and compression of both sections."""
    try:
        header = json.loads(encoded.decode())
        sections = [
            (name, int(header[name]["size"]), str(header[name]["sha256"]), str(header[name]["compression"]))
            for name in ("code", "call")
        ]
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise WireError(f"not a payload: its header does not parse ({error})") from error
    if any(size < 0 for _, size, _, _ in sections):
        raise WireError("not a payload: its header has a negative size")
    return sections


def _decompressed(raw: bytes, compression: str) -> bytes:
    if not compression:
        return raw
    if compression != "zlib":
        raise WireError(f"unknown compression {compression!r}")
    try:
        return zlib.decompress(raw)
    except zlib.error as error:
        raise WireError(f"a section of the payload does not decompress ({error})") from error


def mac(key: bytes, header: bytes) -> bytes:
    """HMAC-SHA256 over the header's digest. The header holds the body's digest: one pass covers all."""
    return hmac.digest(key, hashlib.sha256(header).digest(), "sha256")


def tail(header: dict[str, object], key: bytes) -> bytes:
    """What follows the body in an envelope: header, its length, HMAC, magic."""
    encoded = json.dumps(header, separators=(",", ":")).encode("utf-8", "surrogatepass")
    return encoded + LENGTH.pack(len(encoded)) + mac(key, encoded) + ENVELOPE_MAGIC


def seal(header: dict[str, object], body: bytes, key: bytes) -> bytes:
    """A whole envelope in memory: for errors and for tests. A large body is written by the child instead."""
    return body + tail({**header, "size": len(body), "sha256": hashlib.sha256(body).hexdigest()}, key)


def termination_text(envelope: bytes) -> str | None:
    """The envelope as termination message, or None where it is too long for one."""
    text = TERMINATION_ENVELOPE + binascii.b2a_base64(zlib.compress(envelope, 6), newline=False).decode()
    return text if len(text) <= TERMINATION_TEXT_LIMIT else None


def termination_size(size: int, digest: str | None, *, has_files: bool = False) -> str:
    """The termination message for an envelope that does not fit in one. A chunk's has no digest of the whole."""
    files = TERMINATION_FILES if has_files else ""
    return f"{TERMINATION_SIZE}{size}" + ("" if digest is None else f":sha256:{digest}") + files


def from_termination_text(text: str) -> bytes | None:
    """The envelope that a termination message holds, or None where it holds none or is cut."""
    if not text.startswith(TERMINATION_ENVELOPE) or len(text) > TERMINATION_TEXT_LIMIT:
        return None  # the limit also bounds what a forged message can swell to: 1.5 MB
    try:
        return zlib.decompress(binascii.a2b_base64(text[len(TERMINATION_ENVELOPE) :]))
    except (binascii.Error, zlib.error, ValueError):
        return None


def new_file(path: str) -> FileIO:
    """A file that nobody reads yet, readable by the courier whatever the umask: what stood there before is cut off
    from its name, never written over, for it may be on its way to the client."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    file = open(path, "wb", buffering=0)
    os.chmod(path, 0o644)
    return file


def frame(letter: bytes, data: bytes | memoryview = b"") -> bytes:
    """A letter, the length and the data: how processes on one machine talk."""
    return frame_head(letter, len(data)) + data


def frame_head(letter: bytes, size: int) -> bytes:
    """What stands before the data of a frame."""
    return letter + LENGTH.pack(size)


def write_together(descriptor: int, *parts: bytes) -> None:
    """Write these parts: small ones at once, so that their reader wakes once; large ones without a copy."""
    for part in parts if sum(map(len, parts)) > COPIED else (b"".join(parts),):
        write_all(descriptor, part)


class Frames:
    """Takes frames apart that arrive in pieces."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes | memoryview, longest: int = 1 << 32) -> list[tuple[bytes, bytes]]:
        """The frames that are whole now, as letter and data.

        Raises:
            WireError: one says that it is longer than this.
        """
        self._data += data
        whole = []
        start, end = 0, len(self._data)
        with memoryview(self._data) as view:
            while end - start >= FRAME_HEAD:
                size = LENGTH.unpack_from(view, start + 1)[0]
                if size > longest:
                    raise WireError(f"a frame of {size} bytes")
                if end - start < FRAME_HEAD + size:
                    break
                content = start + FRAME_HEAD
                whole.append((bytes(view[start : start + 1]), bytes(view[content : content + size])))
                start = content + size
        del self._data[:start]
        return whole
