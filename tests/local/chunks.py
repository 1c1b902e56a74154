"""A chunk of a map as a process of this machine: the runner as it stands in a Pod, with directories for its volumes."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kubefunc.backends.kubernetes.attempts.receipt import ChunkReceipt
from kubefunc.envelope import Envelope
from kubefunc.packing.payload import Packer
from kubefunc.runner import ENV_FAILURES, ENV_POD_INDEX
from kubefunc.runner.protocol import records, wire
from kubefunc.runner.protocol.records import Record
from kubefunc.runner.protocol.spec import RunnerSpec
from tests.conftest import ROOT

CALL = "f-abcdefgh"
KEY = b"k" * 32
TIMEOUT = 60


class Chunk:
    """The files of one Pod of a map, and its programs."""

    def __init__(
        self,
        directory: Path,
        function: Callable[..., Any],
        arguments: Sequence[tuple[Any, ...]],
        *,
        number: int = 0,
        failures: int = 0,
        retry_exceptions: Sequence[type[BaseException]] = (),
        kwargs: dict[str, Any] | None = None,
        **spec: Any,
    ) -> None:
        self.in_dir = directory / "in"
        self.out_dir = directory / "out"
        self.note = directory / "termination-log"
        self.number = number
        self.records: list[Record] = []
        self.environ = {
            **os.environ,
            "KUBEFUNC_IN": str(self.in_dir),
            "KUBEFUNC_OUT": str(self.out_dir),
            "KUBEFUNC_TERMINATION_LOG": str(self.note),
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(directory),
            ENV_POD_INDEX: str(number),
            ENV_FAILURES: str(failures),
        }
        for each in (self.in_dir, self.out_dir):
            each.mkdir(parents=True)
        self.note.touch()
        payload = Packer.for_local().pack(function, (), kwargs or {}, retry_exceptions)
        items = records.join_items([(index, pickle.dumps(args)) for index, args in enumerate(arguments)])
        known = {"map": {}, "skip_wait": 10.0, "upload_items": False}
        self.spec = RunnerSpec(call=CALL, function="f", backoff=(0.01, 2.0, 1.0)).replace(**{**known, **spec})
        self._write("spec.json", self.spec.encoded())
        self._write("key", KEY)
        self._write("payload", payload.data)
        if not self.spec.upload_items:
            self._write("items", records.join_chunks([b""] * number + [items]))
        self.items = items

    def _write(self, name: str, data: bytes) -> None:
        (self.in_dir / name).write_bytes(data)

    def start(self, program: str = "main", *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        """One of its programs, as Kubernetes or exec starts it."""
        command = [sys.executable, "-m", "kubefunc.runner", program, *arguments]
        return subprocess.Popen(command, env=self.environ, cwd="/", **options)

    def run(self) -> int:
        """``main`` from its beginning to its end; the exit code."""
        with self.start() as main:
            return main.wait(TIMEOUT)

    def receipt(self) -> ChunkReceipt:
        return ChunkReceipt(KEY, CALL, self.number, self.records.extend)

    def read(self) -> Envelope:
        """What it left; its records are in ``records`` then."""
        self.records.clear()
        return self.receipt().whole((self.out_dir / "result").read_bytes())

    def values(self) -> dict[int, Any]:
        """The values that are among the records, by index."""
        return {each.index: pickle.loads(each.body) for each in self.records if each.header is None}

    def errors(self) -> dict[int, Any]:
        """The headers of all other records, by index."""
        return {each.index: each.header for each in self.records if each.header is not None}

    def message(self) -> str:
        """The termination message."""
        return self.note.read_text()

    def inline(self) -> bytes | None:
        """The envelope in the termination message."""
        return wire.from_termination_text(self.message())
