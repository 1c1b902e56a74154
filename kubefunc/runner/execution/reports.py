"""What a child reports to its supervisor: frames, and the body of its result."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle

from kubefunc.runner import (
    CODE_STORAGE,
)
from kubefunc.runner.execution import attempts
from kubefunc.runner.protocol import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from io import FileIO
    from typing import Any, TypeAlias

    NewBody: TypeAlias = Callable[[], "Body"]
    Outcome: TypeAlias = tuple[dict[str, Any], "Body"]  # an envelope's header, as far as it is known, and the body
    Form: TypeAlias = tuple[Callable[[Any, NewBody], Outcome], Callable[[BaseException, NewBody], Outcome]]

FRAME_START = b"S"
FRAME_BODY = b"B"
FRAME_FINISH = b"F"
FRAME_EXIT = b"E"
BODY_IN_MEMORY = 64 * 1024  # bytes: a larger body goes to its file


class FrameReader:
    """The supervisor's view of the child's frames."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._frames = wire.Frames()
        self.started = False
        self.ended = False
        self.body: bytes | None = None
        self.header: dict[str, Any] | None = None

    def read(self) -> bool:
        """Take in what there is; False at the end of the pipe."""
        data = os.read(self._descriptor, 65536)
        for letter, content in self._frames.feed(data):
            self.started = True
            if letter == FRAME_BODY:
                self.body = content
            elif letter == FRAME_FINISH:
                self.header = json.loads(content)
            elif letter == FRAME_EXIT:
                self.ended = True
        return bool(data)


class BodyNotWritten(BaseException):
    """What the function returned cannot be put where it is to be fetched from; no fault of the function's."""

    def __init__(self, path: str, cause: OSError) -> None:
        super().__init__(f"{type(cause).__name__}: {cause}")
        self.path = path
        self.cause = cause


class Settled(BaseException):
    """Raised inside a call to end it with this outcome."""

    def __init__(self, outcome: tuple[dict[str, Any], Body]) -> None:
        super().__init__()
        self.outcome = outcome


_KINDS = {errno.ENOSPC: "full", errno.EDQUOT: "full", errno.ENOENT: "removed", errno.EFBIG: "limited"}


def storage_error(path: str, error: OSError) -> dict[str, Any]:
    """The header of an envelope that says why there is no result."""
    kind = _KINDS.get(error.errno or 0, "")
    return attempts.error_header(CODE_STORAGE, {"path": path, "message": error.strerror or str(error), "kind": kind})


class Body:
    """A file for pickle to write to. It stands in memory while it is small, and then in its file.

    Attributes:
        path: of that file. What else belongs to the result has names that begin so.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._file: FileIO | None = None
        self._parts = bytearray()
        self.size = 0

    def write(self, data: bytes | memoryview | pickle.PickleBuffer) -> int:
        view = memoryview(data).cast("B")
        try:
            self._add(view)
        except OSError as error:
            raise BodyNotWritten(self.path, error) from error
        return len(view)

    def _add(self, view: memoryview) -> None:
        self.size += len(view)
        if self._file is None and self.size <= BODY_IN_MEMORY:
            self._parts += view
            return
        if self._file is None:
            self._file = self.open()
            wire.write_all(self._file.fileno(), self._parts)
        wire.write_all(self._file.fileno(), view)

    def open(self) -> FileIO:
        return wire.new_file(self.path)

    @property
    def in_memory(self) -> bool:
        """Whether it is small: it travels in the pipe then."""
        return self._file is None

    def content(self) -> bytes:
        """All of it, if it is still in memory; else nothing, and its file is whole."""
        if self._file is not None:
            self._file.close()
            return b""
        return bytes(self._parts)

    def discard(self) -> None:
        """Half of a pickle that could not be made."""
        if self._file is not None:
            self._file.close()

    @property
    def seal(self) -> dict[str, object]:
        """What the envelope's header says of it: nothing here, where records are signed in blocks, or not at all."""
        return {}


class SealedBody(Body):
    """A body that knows its size and digest, from the one pass in which it was written."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._digest = hashlib.sha256()

    def write(self, data: bytes | memoryview | pickle.PickleBuffer) -> int:
        size = super().write(data)  # first: a reader sends it on meanwhile
        self._digest.update(memoryview(data).cast("B"))
        return size

    @property
    def seal(self) -> dict[str, object]:
        return {"size": self.size, "sha256": self._digest.hexdigest()}
