"""One attempt in a process that was started for it: the local backend's way where there is no fork (Windows).

The client starts the program ``oneshot DIRECTORY`` ahead of time and watches it itself; there is no supervisor between.

stdin
    the attempt's number and the request's size (4 bytes each, big endian), then the request
    (:class:`kubefunc.runner.execution.request.Request`). It stays open: its end is the client's end, and then this
    process's.
stdout
    the frames of :mod:`kubefunc.runner.execution.child`.
stderr
    what the function prints.
"""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import struct
import threading

from kubefunc.runner.execution import child
from kubefunc.runner.execution.request import Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO

HEAD = struct.Struct(">II")


def run_one(arguments: list[str]) -> int:
    """The program ``oneshot``: the directory goes when the client goes."""
    importlib.import_module("cloudpickle")  # while nobody waits yet
    if hasattr(signal, "pthread_sigmask"):  # not on Windows
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
    calls, frames = _take_pipes()
    directory = arguments[0]
    head = calls.read(HEAD.size)
    if len(head) < HEAD.size:
        _leave(directory)
    attempt, size = HEAD.unpack(head)
    data = calls.read(size)
    if len(data) < size:
        _leave(directory)
    threading.Thread(target=_leave_with_client, args=(calls, directory), name="kubefunc-client", daemon=True).start()
    request = Request(data)
    request.surround()
    child.run(request.job(attempt), frames)
    os._exit(0)  # its exit handlers have run; a thread that the function left behind does not keep it


def _take_pipes() -> tuple[BinaryIO, int]:
    """The pipes that this process was given, away from 0-2: there the function finds nothing to read and its output."""
    calls, frames = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    child.renew_streams()
    return open(calls, "rb"), frames


def _leave_with_client(calls: BinaryIO, directory: str) -> None:
    calls.read(1)
    _leave(directory)


def _leave(directory: str) -> None:
    """The client has gone, and cannot tidy up any more."""
    shutil.rmtree(directory, ignore_errors=True)
    os._exit(1)
