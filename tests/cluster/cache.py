"""Things that are dear to make are made once and kept outside the tree.

An entry's name carries a hash of what it is made from, so a changed source makes a new entry and an
unchanged one is never built twice. Entries appear by rename: a reader sees a whole one or none.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path


def cache_root() -> Path:
    """The directory of everything that is kept: ``$XDG_CACHE_HOME/kubefunc-tests``."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "kubefunc-tests"


def digest(parts: Iterable[bytes]) -> str:
    """A short name for the content of all parts, each set apart from the next by its length."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(len(part).to_bytes(8, "big"))
        sha.update(part)
    return sha.hexdigest()[:16]


def cached(name: str, made_from: Iterable[bytes], make: Callable[[Path], None]) -> Path:
    """The directory of one entry; ``make(directory)`` fills it when it is not there yet.

    Two processes that want the same entry at once wait for one another: a Go build takes both cores.
    """
    root = cache_root()
    root.mkdir(parents=True, exist_ok=True)
    entry = root / f"{name}-{digest(made_from)}"
    with open(root / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not entry.exists():
            _fill(entry, make)
    return entry


def _fill(entry: Path, make: Callable[[Path], None]) -> None:
    print(f"making {entry} (once)", file=sys.stderr, flush=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{entry.name}-", dir=entry.parent))
    try:
        make(fresh)
        fresh.chmod(0o755)
        fresh.rename(entry)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
