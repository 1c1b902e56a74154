"""Functions with files that the tests of pools run in workers. They travel with this module."""

from __future__ import annotations

import os
from pathlib import Path

from kubefunc import File


def content(file: File) -> tuple[str, bytes]:
    """Name and content."""
    return file.name, file.path.read_bytes()


def doubled(file: File) -> dict[str, File]:
    """Another file, with the content twice."""
    path = Path(os.environ["TMPDIR"], "doubled.bin")
    path.write_bytes(2 * file.path.read_bytes())
    return {"file": File(path)}


def inode(file: File, _: int) -> int:
    """Tells whether it is the same file as before."""
    return os.stat(file).st_ino


def left_behind() -> list[str]:
    """The files of calls on the worker's disk."""
    place = Path(os.environ["KUBEFUNC_OUT"], "warm")
    return [each.name for each in place.iterdir() if ".file." in each.name or ".in" in each.name]
