"""Files in the user's cache directory: each is whole and this user's own, or as if it were not there."""

from __future__ import annotations

import contextlib
import hashlib
import os
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
        _write(file, hashlib.sha256(data).digest() + data)
        _forget_old(file.parent, file.suffix, keep)


def _write(file: Path, content: bytes) -> None:
    import tempfile

    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=file.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as opened:
            opened.write(content)
        os.replace(temporary, file)
    except BaseException:
        os.unlink(temporary)
        raise


def _forget_old(directory: Path, suffix: str, keep: int) -> None:
    files = sorted(directory.glob(f"*{suffix}"), key=lambda file: file.stat().st_mtime, reverse=True)
    for old in files[keep:]:
        old.unlink(missing_ok=True)
