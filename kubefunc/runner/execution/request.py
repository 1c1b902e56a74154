"""What a client and a process that takes call after call say to each other: a call's request, and letters of frames.

The local backend's processes speak it (:mod:`kubefunc.runner.local.server`, :mod:`kubefunc.runner.local.oneshot`), and
warm workers in Pods (:mod:`kubefunc.runner.warm.worker`). Nothing here needs a Unix.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys

from kubefunc.runner import STREAM
from kubefunc.runner.execution import child
from kubefunc.runner.protocol import wire
from kubefunc.runner.protocol.spec import RunnerSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CALL = b"C"
TERMINATE = b"T"
OUTPUT = b"O"
RESULT = b"R"
LARGE_RESULT = b"L"
ENDED = b"E"
REFUSED = b"F"

RECEIVE = 1 << 18
END_GRACE = 5.0  # seconds between the polite and the forced end of a cancelled call


class Request:
    """A call as it comes from the client: the size of a JSON header (4 bytes, big endian), the header, the payload.

    Header::

        {"spec": as in spec.json, "key": hex, "payload": null or the path of a file that holds it,
         "directory": where the call's files go, "cwd": path or null, "path": sys.path, or null for the process's own,
         "set": {environment variables that differ from the process's own}, "unset": [...],
         "item": the size of what stands between header and payload: an item of a map. Not there for a call}
    """

    def __init__(self, data: bytes) -> None:
        self.data = data
        (size,) = wire.LENGTH.unpack_from(data)
        start = wire.LENGTH.size
        self.header: dict[str, Any] = json.loads(data[start : start + size])
        self.spec = RunnerSpec.from_json(self.header["spec"])
        end = start + size + self.header.get("item", 0)
        self.item = data[start + size : end] if "item" in self.header else None
        self.payload: bytes | str = self.header["payload"] or data[end:]

    @property
    def key(self) -> bytes:
        return bytes.fromhex(self.header["key"])

    def path(self, name: str) -> str:
        return os.path.join(self.header["directory"], f"{self.spec.call}.{name}")

    def job(self, attempt: int) -> child.Job:
        return child.Job(
            spec=self.spec,
            attempt=attempt,
            payload=self.payload,
            body=self.path("body"),
            stacks=self.path("stacks"),
            code=self.path("code"),
            files=self.path("file"),
            item=self.item,
            stream=self.path(STREAM),
            key=self.key,
        )

    def surround(self) -> None:
        """Make this process's surroundings those of the caller when it made the call."""
        header = self.header
        for name in header["unset"]:
            os.environ.pop(name, None)
        os.environ.update(header["set"])
        if header["cwd"] is not None:
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile: no reason to lose the call
                os.chdir(header["cwd"])
        if header["path"] is not None:
            sys.path[:] = header["path"]


def join_request(header: dict[str, Any], payload: bytes, item: bytes | None = None) -> bytes:
    """The request's bytes; no payload where the header names a file.

    Args:
        header: as above.
        payload: function and code, of a call with its arguments.
        item: of a map, the pickled positional arguments.
    """
    encoded = json.dumps(header if item is None else {**header, "item": len(item)}).encode()
    return b"".join((wire.LENGTH.pack(len(encoded)), encoded, item or b"", payload))


def read_request(path: str) -> Request:
    """The request in a file."""
    with open(path, "rb") as file:
        return Request(file.read())
