"""The files of a warm worker's calls, in the worker: where they are, and when they go."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kubefunc import File
from kubefunc.packing.payload import Packer
from kubefunc.runner import FILE_WANTED, UPLOAD_DONE
from kubefunc.runner.execution.request import ENDED, TERMINATE
from kubefunc.runner.protocol import pipes
from kubefunc.runner.warm.frames import ACKNOWLEDGE
from kubefunc.runner.warm.places import name_of_argument, name_of_body
from tests.conftest import ROOT
from tests.local.warm import WITHIN, WarmClient

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Pods are Linux")

NOISE = os.urandom(300_000)
ARGUMENT = name_of_argument("call-x", 0)


@pytest.fixture
def data(tmp_path: Path) -> File:
    """A file of the caller's."""
    path = tmp_path / "data.bin"
    path.write_bytes(NOISE)
    return File(path)


def program(client: WarmClient, *words: str) -> subprocess.Popen[bytes]:
    """One that a client execs beside the worker."""
    return subprocess.Popen(
        [sys.executable, "-m", "kubefunc.runner", *words],
        env=client.worker.environ,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def call(client: WarmClient, function: Callable[[File], Any], file: File, run: str = "run-1") -> None:
    """Send a call with a file, which is still to be brought."""
    payload = Packer.for_cluster().pack(function, (file,))
    header = {"run": run, "stay": None, "code": [], "function": None, "items": False}
    client.request({**header, "files": {"place": "call-x", "own": None}}, payload.call, pull_allowance=WITHIN)


def eventually(holds: Callable[[], bool]) -> None:
    """Return once it holds."""
    until = time.monotonic() + WITHIN
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.01)


def left(client: WarmClient) -> list[str]:
    """What calls have in the worker's directory."""
    return [each.name for each in client.worker.place.glob("warm/call-x*")]


def folder(client: WarmClient) -> Path:
    """Where files of the call are brought."""
    return client.worker.place / ARGUMENT.rpartition("/")[0]


def test_a_call_waits_for_its_file(client: WarmClient, data: File) -> None:
    """It is brought by a program of its own, and goes with the call's end."""
    call(client, os.path.getsize, data)
    eventually(folder(client).exists)
    size = pipes.UPLOAD_HEAD.pack(len(NOISE))
    with program(client, "receiver", ARGUMENT) as receiver:
        said, _ = receiver.communicate(size + NOISE + hashlib.sha256(NOISE).digest(), timeout=WITHIN)
    assert said.endswith(FILE_WANTED + UPLOAD_DONE)
    assert pickle.loads(client.outcome().body) == len(NOISE)
    assert left(client) == []


def test_a_cancelled_call_takes_no_file(client: WarmClient, data: File) -> None:
    """One that is on its way ends early; one that comes later finds no place."""
    call(client, os.path.getsize, data)
    eventually(folder(client).exists)
    with program(client, "receiver", ARGUMENT) as receiver:
        assert receiver.stdin is not None
        receiver.stdin.write(pipes.UPLOAD_HEAD.pack(len(NOISE)) + NOISE[:1000])
        receiver.stdin.flush()
        part = client.worker.place / f"{ARGUMENT}.part"
        eventually(lambda: part.exists() and part.stat().st_size == 1000)
        client.send(TERMINATE, b"run-1")
        client.receive(ENDED)
        assert left(client) == []
        receiver.stdin.write(b"x")  # the next bytes find that nobody wants them
        receiver.stdin.flush()
        assert receiver.wait(WITHIN) == 1
    with program(client, "receiver", ARGUMENT) as late:
        assert late.wait(WITHIN) != 0
    assert left(client) == []


def test_a_returned_file_stays_until_the_client_has_it(client: WarmClient, data: File) -> None:
    """The next call begins then, and not before: the worker's disk holds the files of one."""
    client.call(File, os.fspath(data))
    client.receive(ENDED)
    client.call(os.path.exists, str(client.worker.place / f"{name_of_body('call-x', None)}.file.0"), run="run-2")
    with program(client, "sender", f"{name_of_body('call-x', None)}.file.0", "0") as sender:
        sent, _ = sender.communicate(timeout=WITHIN)
    assert sent.endswith(NOISE)
    client.heard.clear()
    client.send(ACKNOWLEDGE, b"run-1")
    assert pickle.loads(client.outcome("run-2").body) is False
    assert left(client) == []


def test_the_returned_files_of_items(client: WarmClient, data: File) -> None:
    """Each stands beside its item's outcome, and all go with the acknowledgement of the batch."""
    client.batch(File, {index: (os.fspath(data),) for index in (3, 7)})
    assert all(record.header is not None for record in client.outcomes().values())
    client.call(abs, -1, run="run-2")
    assert pickle.loads(client.outcome("run-2").body) == 1
    assert left(client) == []


def test_a_client_that_goes_takes_its_files_along(client: WarmClient, data: File) -> None:
    """Those that it has not fetched are dropped for the next one."""
    client.call(File, os.fspath(data))
    client.receive(ENDED)
    assert left(client) == ["call-x.body.file.0"]
    client.cut()
    other = client.worker.attach()
    other.hello(client="one")
    other.welcome()
    other.call(abs, -1, run="run-2")
    assert pickle.loads(other.outcome("run-2").body) == 1
    assert left(client) == []
