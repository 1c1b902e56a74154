"""``python -m tests.bench.fork_server CALLS``: local calls, in turn with the least that a call in a new process can be.

That is a server with cloudpickle loaded, which forks for each call: the child unpickles the function and its arguments,
calls it, pickles the result and ends. No output, no timeout, no supervision, no check of what comes back. Prints both
medians, in seconds.
"""

from __future__ import annotations

import json
import os
import pickle
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from typing import IO, Any

import cloudpickle

from kubefunc import remote

SIZE = struct.Struct(">I")
IN_A_ROW = 20


def add(a: int, b: int) -> int:
    """The function of all these calls."""
    return a + b


add.__module__ = "__main__"  # sent by value, as a script's


def read(file: IO[bytes]) -> bytes:
    """One message; nothing at the end."""
    head = file.read(SIZE.size)
    return file.read(*SIZE.unpack(head)) if head else b""


def write(file: IO[bytes], message: bytes) -> None:
    """One message."""
    file.write(SIZE.pack(len(message)) + message)
    file.flush()


def serve() -> None:
    """The server, until its caller ends."""
    while request := read(sys.stdin.buffer):
        pid = os.fork()
        if pid == 0:
            function, arguments = pickle.loads(request)
            write(sys.stdout.buffer, pickle.dumps(function(*arguments)))
            os._exit(0)
        os.waitpid(pid, 0)


def raw_call(requests: IO[bytes], results: IO[bytes], *arguments: Any) -> Any:
    """A call there."""
    write(requests, cloudpickle.dumps((add, arguments)))
    return pickle.loads(read(results))


def seconds_of(call: Callable[[], int], count: int) -> list[float]:
    """Of so many calls."""
    times = []
    for _ in range(count):
        begun = time.perf_counter()
        if call() != 3:
            raise RuntimeError("not the sum")
        times.append(time.perf_counter() - begun)
    return times


def main() -> None:
    """Server and caller."""
    if sys.argv[1] == "serve":
        serve()
        return
    command = [sys.executable, "-m", "tests.bench.fork_server", "serve"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        requests, results = server.stdin, server.stdout
        if requests is None or results is None:
            raise RuntimeError("no pipes")
        function = remote(verbose=False)(add)
        ways = {
            "ours": lambda: function.remote(1, 2).result(),
            "raw": lambda: raw_call(requests, results, 1, 2),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(1 + int(sys.argv[1]) // IN_A_ROW):
            for name, call in ways.items():
                times[name] += seconds_of(call, IN_A_ROW)
        print(json.dumps({name: statistics.median(each[IN_A_ROW:]) for name, each in times.items()}))
        requests.close()


if __name__ == "__main__":
    main()
