"""A Pod of one call as processes of this machine: the runner's programs, with directories for its volumes."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kubefunc.envelope import Envelope, verify
from kubefunc.packing.payload import Packer
from kubefunc.runner.protocol.spec import RunnerSpec
from tests.conftest import ROOT

CALL = "f-abcdefgh"
KEY = b"k" * 32
WITHIN = 60  # seconds


class Pod:
    """The files of one Pod, and its programs."""

    def __init__(self, directory: Path, function: Callable[[], object], **spec: Any) -> None:
        self.in_dir = directory / "in"
        self.out_dir = directory / "out"
        self.message = directory / "termination-log"
        for each in (self.in_dir, self.out_dir):
            each.mkdir()
        self.payload = Packer.for_local().pack(function, retry_exceptions=(Exception,)).data
        self.write("spec.json", RunnerSpec(call=CALL, function="f").replace(**spec).encoded())
        self.write("key", KEY)
        self.environ = {
            **os.environ,
            "KUBEFUNC_IN": str(self.in_dir),
            "KUBEFUNC_OUT": str(self.out_dir),
            "KUBEFUNC_TERMINATION_LOG": str(self.message),
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(directory),
        }
        if not spec.get("upload"):
            self.write("payload", self.payload)

    def write(self, name: str, data: bytes) -> None:
        """Into the volume that the Secret is."""
        (self.in_dir / name).write_bytes(data)

    def start(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        """One of its programs, with pipes."""
        return subprocess.Popen(
            [sys.executable, "-m", "kubefunc.runner", program, *arguments],
            env=self.environ,
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )

    def run(self, program: str, *arguments: str, given: bytes = b"") -> tuple[int, bytes]:
        """The same to its end: exit code and output."""
        with self.start(program, *arguments) as process:
            printed, _ = process.communicate(given, WITHIN)
            return process.returncode, printed

    def has(self, name: str) -> bool:
        return (self.out_dir / name).exists()

    def result(self) -> Envelope:
        """What main has left in its file."""
        return verify((self.out_dir / "result").read_bytes(), KEY, CALL)

    def is_locked(self, name: str = "lock") -> bool:
        """Whether somebody holds the lock exclusively."""
        with (self.out_dir / name).open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False


_ENDED_WHILE_LOADED = """
import os, signal, sys
def look(event, details):
    if event == "import" and details[0] in ("kubefunc.runner.pod.supervisor", "kubefunc.runner.pod.courier"):
        os.kill(os.getpid(), signal.SIGTERM)
    elif event == "os.fork":
        open({forked!r}, "w").close()
sys.addaudithook(look)
"""


def ended_while_loaded(directory: Path) -> dict[str, str]:
    """Environment for a program that gets SIGTERM while it is imported; it leaves the file ``forked`` if it forks."""
    site = directory / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(_ENDED_WHILE_LOADED.format(forked=str(directory / "forked")))
    return {"PYTHONPATH": os.pathsep.join([str(site), str(ROOT)])}


def written(path: Path) -> Callable[[], bool]:
    """Whether a file has text: its name is there a moment before."""
    return lambda: path.exists() and path.stat().st_size > 0


def until(true: Callable[[], bool], what: str) -> None:
    """Wait until it is so."""
    end = time.monotonic() + WITHIN
    while not true():
        assert time.monotonic() < end, f"in vain: {what}"
        time.sleep(0.01)
