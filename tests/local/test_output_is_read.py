"""The supervisor ends only once the container runtime has taken what was printed."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from kubefunc.runner.execution.process import wait_until_read


def test_it_waits_for_a_slow_reader() -> None:
    """What still stands in the pipe would be lost from the log when the first process ends."""
    read, write = os.pipe()
    os.write(write, b"x" * 1000)
    reader = threading.Timer(0.1, lambda: os.read(read, 1000))
    reader.start()
    begun = time.monotonic()
    assert wait_until_read(write, 5.0)
    assert time.monotonic() - begun >= 0.05
    reader.join()
    os.close(read)
    os.close(write)


def test_it_gives_up_on_a_reader_that_never_comes() -> None:
    """A stuck log must not keep a Pod alive."""
    read, write = os.pipe()
    os.write(write, b"x")
    assert not wait_until_read(write, 0.05)
    os.close(read)
    os.close(write)


def test_a_file_loses_nothing(tmp_path: Path) -> None:
    """Where output is not a pipe there is nothing to wait for."""
    with open(tmp_path / "output", "wb") as file:
        assert wait_until_read(file.fileno(), 5.0)
