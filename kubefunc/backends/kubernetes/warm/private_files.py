"""Small files in the user's cache directory that nobody else may read or write."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
import time
from pathlib import Path


def is_private(path: Path) -> bool:
    """Whether nobody else can have written or read it. On Windows the user's profile is private already."""
    try:
        status = os.lstat(path)
    except (OSError, ValueError):  # the name is none that a file may have
        return False
    if not hasattr(os, "getuid"):
        return True
    is_link = stat.S_ISLNK(status.st_mode)
    return not is_link and status.st_uid == os.getuid() and not status.st_mode & (stat.S_IRWXG | stat.S_IRWXO)


def write_private(path: Path, data: bytes) -> None:
    """Whole or not at all; from its first byte on nobody else can read it."""
    descriptor, name = tempfile.mkstemp(dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def used_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # another program has removed it just now
        return time.time()
