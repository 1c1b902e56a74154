"""Files into a Pod and out of it, over exec: piece by piece from disk to disk, and on from where a stream was cut."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from io import FileIO
from typing import TYPE_CHECKING

from kubefunc.backends.kubernetes.api.exec import SILENCE, ExecStream
from kubefunc.backends.kubernetes.api.exec_errors import StreamCut, StreamGarbled, TransportError
from kubefunc.backends.kubernetes.api.transfer import UPLOAD_CHUNK, ResultStream
from kubefunc.runner import COURIER, FILE_CHANGED, FILE_REFUSED, FILE_WANTED, UPLOAD_DONE
from kubefunc.runner.protocol import pipes

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from kubefunc.backends.kubernetes.api.requests import Api

_READ = 1 << 20


class FileRefused(TransportError):
    """The Pod cannot store a file; the text says why."""


class FileDamaged(TransportError):
    """The file that came is not the one that was sent."""


def send_file(
    api: Api,
    namespace: str,
    pod: str,
    command: Sequence[str],
    path: str,
    check: Callable[[os.stat_result], None],
    *,
    container: str = COURIER,
    silence: float = SILENCE,
) -> None:
    """Send a file to a receiver in a Pod, and return when that has all of it.

    Args:
        api: the API server.
        namespace: of the Pod.
        pod: its name.
        command: starts the receiver.
        path: of the file.
        check: raises where the file is not what it was; called before it is read and after.
        container: where the command runs.
        silence: seconds without an answer after which the stream counts as cut.

    Raises:
        FileRefused: there is no room for it, say.
        OSError: it cannot be read.
        TransportError: see its other subclasses. What the Pod has is kept: the next stream goes on from there.
    """
    with open(path, "rb", buffering=0) as file, ExecStream(api, namespace, pod, command, container, silence) as stream:
        status = os.fstat(file.fileno())
        check(status)
        answers = _Answers(stream)
        (have,) = pipes.UPLOAD_HEAD.unpack(answers.take(pipes.UPLOAD_HEAD.size))
        stream.send(pipes.UPLOAD_HEAD.pack(status.st_size))
        letter = answers.take(1)
        if letter == FILE_WANTED:
            digest = _send_content(stream, file, have, status.st_size)
            check(os.fstat(file.fileno()))
            stream.send(digest)
            letter = answers.take(1)
        if letter == FILE_REFUSED:
            (size,) = pipes.LENGTH.unpack(answers.take(pipes.LENGTH.size))
            raise FileRefused(answers.take(size).decode("utf-8", "replace"))
        _judge(letter)


class _Answers:
    """What the receiver says, in parts of known sizes: between them it waits for our word."""

    def __init__(self, stream: ExecStream) -> None:
        self._pieces = stream.stdout()
        self._said = b""

    def take(self, size: int) -> bytes:
        """The next bytes. Raises StreamCut."""
        while len(self._said) < size:
            piece = next(self._pieces, None)
            if piece is None:
                raise StreamCut("the receiver ended before it had the file")
            self._said += bytes(piece)
        taken, self._said = self._said[:size], self._said[size:]
        return taken


def _send_content(stream: ExecStream, file: FileIO, have: int, size: int) -> bytes:
    """Send what the Pod has not; the digest of the whole."""
    digest, position = hashlib.sha256(), 0
    while position < size:
        piece = file.read(min(_READ, (have if position < have else size) - position))
        if not piece:
            break  # it is shorter than it was: the check says so
        digest.update(piece)
        if position >= have:
            for start in range(0, len(piece), UPLOAD_CHUNK):
                stream.send(memoryview(piece)[start : start + UPLOAD_CHUNK])
        position += len(piece)
    return digest.digest()


def _judge(letter: bytes) -> None:
    """Return if the receiver has the file."""
    if letter == FILE_CHANGED:
        raise FileDamaged("the Pod has other bytes than were sent")
    if letter != UPLOAD_DONE:
        raise StreamGarbled(f"expected '.', 'K', 'N' or 'X', not {letter[:60]!r}")


class FileBuffer:
    """A file that comes, as much of it as there is; survives a cut stream and is given to the next one.

    Its context is open while bytes come.

    Takes the place of a :class:`kubefunc.backends.kubernetes.api.transfer.ResultBuffer`.
    """

    def __init__(self, path: str, size: int, sha256: str) -> None:
        """Empty. It takes so many bytes, with this digest, and writes them to this path."""
        self.total: int | None = size
        self.received = 0
        self._sha256 = sha256
        self._digest = hashlib.sha256()
        self._path = path
        self._file: FileIO | None = None

    @property
    def complete(self) -> bool:
        """Whether every byte is there."""
        return self.received == self.total

    def announce(self, total: int, offset: int) -> None:
        """The far end says what comes: bytes `offset` to `total`."""
        if offset != self.received or total != self.total:
            raise FileDamaged(f"bytes {offset} to {total} were announced, and {self.received} to {self.total} expected")

    def add(self, piece: memoryview) -> None:
        """The next bytes."""
        if self.received + len(piece) > (self.total or 0):
            raise StreamGarbled(f"more than the {self.total} bytes came that were announced")
        if self._file is None:
            raise RuntimeError("bytes for a file that is not open")
        self._digest.update(piece)
        pipes.write_all(self._file.fileno(), piece)
        self.received += len(piece)

    def __enter__(self) -> Self:
        self._file = open(self._path, "ab" if self.received else "wb", buffering=0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def check(self) -> None:
        """All of it has come.

        Raises:
            FileDamaged: it is not what the Pod has signed.
        """
        if self._digest.hexdigest() != self._sha256:
            raise FileDamaged("the sha256 of a returned file is not the one that was signed")


def fetch_file(stream: ResultStream, buffer: FileBuffer) -> None:
    """Read a file from a sender in a Pod.

    Raises:
        TransportError: see its subclasses; `buffer` keeps what has come.
        OSError: it cannot be stored here.
    """
    with buffer, stream:
        stream.receive(buffer)
    buffer.check()
