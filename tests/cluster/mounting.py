# ruff: noqa: D103 - what they do is in their names and bodies
"""Functions that use volumes. They travel with this module: standard library only."""

from __future__ import annotations

import os
import time
from pathlib import Path

from kubefunc import remote


@remote
def contents(*paths: str) -> dict[str, str | list[str]]:
    """Of a file its text, of a directory its names."""
    return {path: _content(Path(path)) for path in paths}


def _content(path: Path) -> str | list[str]:
    return path.read_text() if path.is_file() else sorted(name for name in os.listdir(path) if name[0] != ".")


@remote
def write(path: str, text: str) -> str:
    """Write it there, and give back what is there then."""
    Path(path).write_text(text)
    return Path(path).read_text()


@remote
def fill(path: str, size: int) -> None:
    """Write so many bytes, and stay until the kubelet has seen that."""
    Path(path).write_bytes(bytes(size))
    time.sleep(300)


@remote
def mode_of(path: str) -> str:
    return oct(os.stat(path).st_mode & 0o777)


@remote
def give(value: object) -> object:
    return value
