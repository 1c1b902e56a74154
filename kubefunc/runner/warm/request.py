"""What a client asks of a warm worker: a call, or a batch of items of a map."""

from __future__ import annotations

import json
import os
import sys
import zlib

from kubefunc.runner.execution import child
from kubefunc.runner.protocol import records, wire
from kubefunc.runner.protocol.spec import RunnerSpec
from kubefunc.runner.warm.places import ARGUMENT, folder_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from dataclasses import dataclass
    from typing import Any

    from kubefunc.runner.execution.streaming import Outlet
    from kubefunc.runner.warm.outlet import PipedOutlet
else:
    from kubefunc.runner.protocol.record import dataclass

ALONE = ((0, b"\x80\x05)."),)  # the one item of a call: no arguments further to those of its function


class WarmRequest:
    """A request's bytes: the size of a JSON header (4 bytes, big endian), the header, and what it speaks of.

    Header::

        {"run": id of this request, "spec": what differs from a RunnerSpec's defaults, "key": hex,
         "code": the names of what is kept of its modules,
         "function": the name of what is kept of its function, or null: it follows the header, "compression": how,
         "stay": the name of the process that runs it, which stays; null: a new process,
         "items": whether it has items, which follow then (:func:`kubefunc.runner.protocol.records.join_items`),
         "files": of one with files among its arguments: "place": the name of their folder, "own": the numbers of those
         that go when it has ended, or null: all. Else not there}
    """

    def __init__(self, data: bytes | bytearray, where: str) -> None:
        """``where`` is the worker's directory."""
        self.data = bytes(data)
        self._where = where
        (size,) = wire.LENGTH.unpack_from(self.data)
        self._end = wire.LENGTH.size + size
        self.header: dict[str, Any] = json.loads(self.data[wire.LENGTH.size : self._end])
        self.spec = RunnerSpec.from_json(self.header["spec"])
        self.run = str(self.header["run"])
        self.stay: str | None = self.header["stay"]
        self.files: dict[str, Any] | None = self.header.get("files")
        self.key = bytes.fromhex(self.header["key"])

    def path(self, name: str) -> str:
        """Of a file of this call's."""
        if name == ARGUMENT and self.files is not None:
            return os.path.join(self._where, folder_of(self.files["place"]), name)
        return os.path.join(self._where, f"{self.spec.call}.{name}")

    def items(self) -> Iterator[tuple[int, bytes]]:
        """Index and pickled arguments of each item."""
        if not self.header["items"]:
            return iter(ALONE)
        return records.split_items(self.data[self._end :])

    def without_items(self) -> bytes:
        """Its bytes; the items travel apart."""
        return self.data[: self._end] if self.has_items else self.data

    @property
    def has_items(self) -> bool:
        return bool(self.header["items"])

    def load(self) -> child.Loaded:
        """In the process that runs it: what is to be called."""
        self.find_modules()
        function = self.header["function"]
        if function is None:
            return child.load_call(self._inline(), self._unpickle)
        with open(self._path_of(function), "rb") as file:
            return child.load_call(file.read(), self._unpickle)

    def _unpickle(self, data: bytes | memoryview) -> Any:
        return child.loads(data, self.path(ARGUMENT), self.spec)

    def outlet(self, form: child.Form) -> PipedOutlet:
        """In the process that runs it: where the values of a generator function go."""
        from kubefunc.runner.warm.outlet import PipedOutlet  # most functions are no generators

        return PipedOutlet(self.path, self.spec, self.key, form)

    def find_modules(self) -> None:
        """Let this process import its modules."""
        for code in self.header["code"]:
            if self._path_of(code) not in sys.path:
                sys.path.insert(0, self._path_of(code))

    def _path_of(self, kept: str) -> str:
        return os.path.join(self._where, kept)

    def _inline(self) -> bytes | memoryview:
        call = memoryview(self.data)[self._end :]
        return zlib.decompress(call) if self.header["compression"] else call


def join_request(header: dict[str, Any], content: bytes) -> bytes:
    """The request's bytes.

    >>> join_request({"run": "r"}, b"call")
    b'\\x00\\x00\\x00\\x0b{"run":"r"}call'
    """
    encoded = json.dumps(header, separators=(",", ":")).encode()
    return b"".join((wire.LENGTH.pack(len(encoded)), encoded, content))


@dataclass(frozen=True, kw_only=True)
class _Job(child.Job):
    """A call whose modules are unpacked already."""

    request: WarmRequest

    def load(self) -> child.Loaded:
        return self.request.load()

    def outlet(self, form: child.Form) -> Outlet:
        return self.request.outlet(form)


def run_request(where: str, data: bytes, attempt: int, frames: int) -> None:
    """Run the call in these bytes in this process, which was forked for it."""
    request = WarmRequest(data, where)
    job = _Job(
        spec=request.spec,
        attempt=attempt,
        payload=b"",
        body=request.path("body"),
        stacks=request.path("stacks"),
        code="",
        request=request,
    )
    child.run(job, frames)
