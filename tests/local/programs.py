"""A caller's program as a process of its own: what Ctrl-C, exit, signals and odd ways to start do to it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.conftest import ROOT

WITHIN = 60  # seconds

WORK = """
import os, subprocess, sys, time
from pathlib import Path
from kubefunc import remote

@remote
def double(x):
    return 2 * x

@remote(verbose=False)
def tree(where):
    "Start a child, and a grandchild in a session of its own; all of them sleep."
    sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
    child = subprocess.Popen(sleeper)
    other = subprocess.Popen(sleeper, start_new_session=True)
    Path(where + ".part").write_text(f"{os.getpid()} {child.pid} {other.pid}")
    os.rename(where + ".part", where)
    time.sleep(600)
"""


class Program:
    """A running program; its calls' files lie in a directory of its own."""

    def __init__(self, env: dict[str, str], tmp_path: Path, *arguments: str, text: str | None = None) -> None:
        self.temporary = tmp_path / "temporary"
        self.temporary.mkdir(exist_ok=True)
        self.output = tempfile.TemporaryFile()  # noqa: SIM115 - closed in end()
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            env={
                **env,
                "KUBEFUNC_BACKEND": "local",
                "PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), str(ROOT)]),
                "TMPDIR": str(self.temporary),
            },
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=self.output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        if self.process.stdin is None:
            raise RuntimeError("no stdin")
        self.stdin = self.process.stdin
        if text is not None:
            self.stdin.write(text.encode())
            self.stdin.close()

    def end(self) -> str:
        """What it has printed, once it has ended."""
        self.process.wait(WITHIN)
        self.stdin.close()
        self.output.seek(0)
        printed = self.output.read().decode()
        self.output.close()
        return printed

    def left_files(self) -> list[str]:
        """What of its temporary files is still there."""
        return sorted(path.name for path in self.temporary.iterdir())


def until(true: Callable[[], bool], what: str) -> None:
    """Wait until it is so."""
    end = time.monotonic() + WITHIN
    while not true():
        assert time.monotonic() < end, f"in vain: {what}"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether the process lives: a zombie does not."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return bool(state) and not state.startswith("Z")


def family(where: Path) -> list[int]:
    """The processes that :data:`WORK`'s ``tree`` has started, once they run."""
    until(where.exists, "the function to start")
    return [int(pid) for pid in where.read_text().split()]


def all_end(pids: list[int]) -> None:
    """Wait until none of them lives. On macOS, one in another session may stay."""
    watched = pids if sys.platform == "linux" else pids[:2]
    until(lambda: not any(alive(pid) for pid in watched), f"the end of {watched}")
    for pid in set(pids) - set(watched):
        os.kill(pid, 9)
