"""Files in the user's cache directory: each is whole and this user's own, or as if it were not there."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import time
from collections.abc import Mapping
from pathlib import Path

_DIGEST_SIZE = 32


def cache_directory(environ: Mapping[str, str], platform: str) -> Path:
    """Where this user's caches lie.

    >>> cache_directory({"XDG_CACHE_HOME": "/home/ada/.cache"}, "linux").as_posix()
    '/home/ada/.cache/kubefunc'
    """
    if environ.get("XDG_CACHE_HOME"):
        return Path(environ["XDG_CACHE_HOME"]) / "kubefunc"
    if platform == "win32" and environ.get("LOCALAPPDATA"):
        return Path(environ["LOCALAPPDATA"]) / "kubefunc" / "cache"
    if platform == "darwin":
        return Path(os.path.expanduser("~/Library/Caches/kubefunc"))
    return Path(os.path.expanduser("~/.cache/kubefunc"))


def read_cached(file: Path) -> bytes | None:
    """The content of the file; None if it is damaged, or not this user's own: others must not decide what we do."""
    try:
        with file.open("rb") as opened:
            if hasattr(os, "getuid") and os.fstat(opened.fileno()).st_uid != os.getuid():
                return None
            content = opened.read()
    except OSError:
        return None
    digest, data = content[:_DIGEST_SIZE], content[_DIGEST_SIZE:]
    return data if hashlib.sha256(data).digest() == digest else None


def write_cached(file: Path, data: bytes, keep: int) -> None:
    """Put the content where :func:`read_cached` finds it. A home that is read-only or full only costs time.

    Args:
        file: its suffix says of what kind it is.
        data: the content.
        keep: so many files of this kind stay in the directory, the newest ones.
    """
    with contextlib.suppress(OSError):
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(file, hashlib.sha256(data).digest() + data)
        forget_old(file.parent, f"*{file.suffix}", keep)


def write_whole(file: Path, content: bytes) -> None:
    """Whole or not at all; from its first byte on nobody else can read it."""
    import tempfile

    handle, temporary = tempfile.mkstemp(dir=file.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as opened:
            opened.write(content)
        os.replace(temporary, file)
    except BaseException:
        os.unlink(temporary)
        raise


def forget_old(directory: Path, pattern: str, keep: int) -> None:
    """Remove those of these files that were used longest ago."""
    files = sorted(directory.glob(pattern), key=used_at, reverse=True)
    for old in files[keep:]:
        remove(old)


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


def remove(path: Path) -> None:
    """If it is there and may be removed."""
    with contextlib.suppress(OSError):
        path.unlink()


def used_at(path: Path) -> float:
    """When it was written or touched last: seconds since the epoch."""
    try:
        return path.stat().st_mtime
    except OSError:  # another program has removed it just now
        return time.time()
