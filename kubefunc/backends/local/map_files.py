"""The files of one map on this machine."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kubefunc.backends.base import Submission
from kubefunc.backends.local.run import INLINE, request_header, write_file
from kubefunc.landing import Landing
from kubefunc.runner.execution.request import join_request


class MapFiles:
    """A directory for what workers are told, and for what is too large for their sockets.

    Attributes:
        request: what workers are told; their surroundings are the caller's at this moment.
    """

    def __init__(self, submission: Submission, directory: Path, environ: Mapping[str, str]) -> None:
        """Write what workers need. ``environ``: what they begin with."""
        self._call = submission.call
        self._directory = directory / f"{submission.call}.{submission.attempt}"
        self._directory.mkdir()
        header = request_header(submission, self._directory, environ)
        header["payload"] = str(self._file("payload"))
        write_file(self._file("payload"), submission.payload.data)
        self.request = self._file("request")
        write_file(self.request, join_request(header, b""))

    def code_of(self, index: int) -> Path:
        """Where modules go that travel with this item alone."""
        return self._file(f"code.of.{index}")

    def arguments(self, index: int) -> Path:
        """Where an item's arguments are, if they are large."""
        return self._file(f"args.{index}")

    def remove_arguments(self, index: int, data: bytes) -> None:
        """Nobody needs them any more."""
        if len(data) > INLINE:
            self.arguments(index).unlink(missing_ok=True)

    def take_outcome(self, index: int) -> memoryview:
        """What a worker has written for an item."""
        path = self._file(f"item.{index}")
        body = path.read_bytes()
        path.unlink()
        return memoryview(body)

    def take_files(self, index: int, header: Mapping[str, Any] | None) -> Landing | None:
        """The files of an item's value.

        Raises:
            OSError: they cannot be moved to where they are kept.
        """
        return Landing.of_record(header, str(self._file(f"item.{index}")))

    def remove(self) -> None:
        """All of them."""
        shutil.rmtree(self._directory, ignore_errors=True)

    def _file(self, name: str) -> Path:
        return self._directory / f"{self._call}.{name}"
