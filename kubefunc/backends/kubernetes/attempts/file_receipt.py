"""The files of returned values, fetched before the values count as received."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kubefunc.backends.kubernetes.api.file_transfer import FileBuffer, FileDamaged, fetch_file
from kubefunc.backends.kubernetes.api.transfer import ResultStream
from kubefunc.envelope import corrupted
from kubefunc.landing import Landing

OpenSender = Callable[[str, int], ResultStream]  # of a file of this name, from this byte on


class NotStoredHere(Exception):
    """A file of a result cannot be written on this machine."""


class FileReceipts:
    """The files of one Pod's results: what has come of them is kept when a stream is cut.

    Attributes:
        received: bytes that have come.
        any: whether there was a file.
    """

    def __init__(self, call: str) -> None:
        self.received = 0
        self.any = False
        self._call = call
        self._landings: dict[str, Landing] = {}
        self._buffers: dict[str, FileBuffer] = {}
        self._done: set[str] = set()

    def fetch(self, header: Mapping[str, Any] | None, body: str, open_sender: OpenSender | None) -> Landing | None:
        """The files of a value with this header; None where it has none.

        Args:
            header: signed, and so written by the runner, or by a function that has taken the key.
            body: what the names of the files begin with.
            open_sender: opens a stream of one of them; None where the value has come by another way than a stream.

        Raises:
            TransportError: a stream was cut.
            ResultCorruptedError: a file is not what the Pod has signed.
            NotStoredHere: there is no room for them here, say.
        """
        listed = header.get("files") if header is not None else None
        if not listed:
            return None
        self.any = True
        if open_sender is None:
            raise corrupted(self._call, "it came without the files that belong to it")
        try:
            landing = self._landings.get(body)
            if landing is None:
                landing = self._landings[body] = Landing()
            for number, (size, sha256) in enumerate(listed):
                self._fetch_one(landing, number, int(size), str(sha256), f"{body}.file.{number}", open_sender)
        except OSError as error:
            raise NotStoredHere(str(error)) from error
        except (TypeError, ValueError) as error:
            raise corrupted(self._call, f"its list of files does not parse ({error})") from error
        self._done.difference_update(f"{body}.file.{number}" for number in range(len(listed)))
        del self._landings[body]
        return landing

    def _fetch_one(
        self, landing: Landing, number: int, size: int, sha256: str, name: str, open_sender: OpenSender
    ) -> None:
        if name in self._done:
            return
        buffer = self._buffers.get(name)
        if buffer is None:
            buffer = self._buffers[name] = FileBuffer(landing.place(number), size, sha256)
        before = buffer.received
        try:
            fetch_file(open_sender(name, before), buffer)
        except FileDamaged as error:
            del self._buffers[name]
            raise corrupted(self._call, str(error)) from error
        finally:
            self.received += buffer.received - before
        del self._buffers[name]
        self._done.add(name)
