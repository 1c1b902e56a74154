"""``packages="sync"``: what is installed here of what a function's modules import, sent to the Pod as it lies on disk.

A distribution travels if its files are known (its RECORD) and fit Linux. Its compiled parts must fit the Pod's
processor and C library, which only the Pod knows: it installs all by name and version where they do not. What cannot
travel is installed by name and version in any case; so is all, where it would be too much to send.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import hashlib
import json
import os
import platform
import re
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import IO, Final, cast

from kubefunc.options.parsers.requirements import Requirement, Requirements, Sent, canonical, parse
from kubefunc.packing.packages.missing import Places, distributions_of, places, required_by
from kubefunc.sizes import size_text

_COMPILED = (".so", ".pyd", ".dylib", ".dll")
_GLIBC_OF_TAG = re.compile(r"manylinux_(\d+)_(\d+)_")
_OLD_TAGS = {"manylinux1_": (2, 5), "manylinux2010_": (2, 12), "manylinux2014_": (2, 17)}
_KEPT = 4  # archives in the user's cache
_LARGEST_RATIO = 8  # of what lies on disk to its archive; numpy's is 3, Python sources alone have 5
_TESTS: Final = "tests"


@dataclass(frozen=True)
class Traveller:
    """A distribution whose files can be sent.

    Attributes:
        name: of the distribution, in its canonical form.
        version: as installed here.
        files: place on this machine by name below ``site-packages``.
        record: the hash of its RECORD: what the archive is known by.
        glibc: the oldest C library that its compiled parts work with, or None if it has none.
    """

    name: str
    version: str
    files: tuple[tuple[str, Path], ...]
    record: str
    glibc: tuple[int, int] | None = None


@dataclass(frozen=True)
class _Found:
    """What is installed here of all that is needed.

    Attributes:
        travellers: what can be sent.
        pinned: name and version of all, by canonical name.
    """

    travellers: tuple[Traveller, ...]
    pinned: tuple[tuple[str, str], ...]

    @functools.cached_property
    def size(self) -> int:
        """Bytes on disk of what can be sent."""
        return sum(path.stat().st_size for each in self.travellers for _, path in each.files)

    @functools.cached_property
    def parsed(self) -> tuple[Requirement, ...]:
        """All as requirements."""
        return tuple(parse(line) for _, line in self.pinned)


def plan(
    modules: Iterable[str],
    cache: Path,
    limit: int | None = None,
    pods: int = 1,
    tell: Callable[[str], None] = lambda words: None,
) -> Requirements:
    """What a Pod needs for these modules: what is sent, and what it installs.

    Args:
        modules: of packages that are installed here; others are passed over.
        cache: where archives are kept.
        limit: the most that may be sent to all Pods together; None: any number of bytes.
        pods: how many they are.
        tell: is told what takes long.
    """
    found = _find(frozenset(modules), places())
    if limit is not None and found.size * pods > _LARGEST_RATIO * limit:  # do not pack it to find that out
        return _installed(found, f"{size_text(found.size)} on disk", pods)
    sent = _sent(found, cache, tell) if found.travellers else None
    if sent is not None and limit is not None and sent.size * pods > limit:
        return _installed(found, size_text(sent.size), pods)
    names = {each.name for each in found.travellers}
    rest = tuple(line for name, line in found.pinned if name not in names)
    return Requirements(rest, found.parsed, sent=sent)


def on_disk(modules: Iterable[str]) -> int:
    """Bytes of what can be sent for these modules, before it is compressed."""
    return _find(frozenset(modules), places()).size


def _installed(found: _Found, size: str, pods: int) -> Requirements:
    """All by name and version."""
    receivers = "a Pod" if pods == 1 else f"{pods} Pods"
    why = f"{size} for {receivers} is more than sync_limit= allows to send"
    return Requirements(tuple(line for _, line in found.pinned), found.parsed, why=why)


@functools.lru_cache(maxsize=8)  # a program makes many calls, and its packages mostly stay as they are
def _find(modules: frozenset[str], _: Places) -> _Found:
    tops = {module.partition(".")[0] for module in modules}
    tested = {module.partition(".")[0] for module in modules if _TESTS in module.split(".")}
    kept = {name for top in tested for name in distributions_of(top)}
    found = [metadata.distribution(name) for name in sorted(_closure(tops))]
    installed = {canonical(each.metadata["Name"]): each for each in found if not _is_editable(each)}
    travellers = [_traveller(each, () if name in kept else (_TESTS,)) for name, each in installed.items()]
    pinned = tuple((name, f"{each.metadata['Name']}=={each.version}") for name, each in installed.items())
    return _Found(tuple(each for each in travellers if each is not None), pinned)


def _closure(modules: Iterable[str]) -> set[str]:
    found: set[str] = set()
    pending: list[tuple[str, tuple[str, ...]]] = [(name, ()) for top in modules for name in distributions_of(top)]
    while pending:
        name, extras = pending.pop()
        if name in found:
            continue
        with contextlib.suppress(metadata.PackageNotFoundError):  # an optional part that is not there
            required = required_by(name, extras)
            found.add(name)
            pending += [(each.name, each.extras) for each in required]
    return found


def _is_editable(distribution: metadata.Distribution) -> bool:
    """Whether its modules lie in a project: they travel as all of the caller's own."""
    url = distribution.read_text("direct_url.json")
    return url is not None and bool(json.loads(url).get("dir_info", {}).get("editable"))


def _traveller(distribution: metadata.Distribution, without: Sequence[str]) -> Traveller | None:
    """The distribution as it can be sent; None if its files are not known, or do not fit Linux.

    Args:
        distribution: one that is installed here.
        without: names of directories in its packages that stay here.
    """
    record, wheel = distribution.read_text("RECORD"), distribution.read_text("WHEEL")
    if record is None or wheel is None:
        return None
    files = tuple(_files(distribution, without))
    glibc = None
    if any(name.endswith(_COMPILED) for name, _ in files):
        if sys.platform != "linux":
            return None
        glibc = _oldest_glibc(wheel)
    digest = hashlib.sha256(f"{record}{without}".encode()).hexdigest()
    return Traveller(canonical(distribution.metadata["Name"]), distribution.version, files, digest, glibc)


def _files(distribution: metadata.Distribution, without: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """Those below ``site-packages``. Commands name this machine's Python, and caches are made anew."""
    left_out = {"..", "__pycache__"}
    for file in distribution.files or ():
        path = Path(str(file.locate()))
        if left_out.isdisjoint(file.parts) and not set(without) & set(file.parts[1:-1]) and path.is_file():
            yield file.as_posix(), path


def _oldest_glibc(wheel: str) -> tuple[int, int]:
    """What the wheel's tags promise; else that of this machine, where it was built."""
    promised = [(int(one), int(two)) for one, two in _GLIBC_OF_TAG.findall(wheel)]
    promised += [version for tag, version in _OLD_TAGS.items() if tag in wheel]
    if promised:
        return min(promised)
    numbers = [int(part) for part in platform.libc_ver()[1].split(".")[:2] if part.isdigit()]
    return (numbers[0], numbers[1]) if len(numbers) == 2 else (99, 0)


def _sent(found: _Found, cache: Path, tell: Callable[[str], None]) -> Sent:
    travellers = found.travellers
    key = hashlib.sha256(json.dumps([(each.name, each.version, each.record) for each in travellers]).encode())
    file = cache / f"{key.hexdigest()[:32]}.tar.gz"
    if not file.exists():
        what = "1 package" if len(travellers) == 1 else f"{len(travellers)} packages"
        tell(f"compressing {what} of your Python for Pods, once: {size_text(found.size)}")
        _write(file, travellers)
    os.utime(file)  # what was used last is kept
    compiled = [each.glibc for each in travellers if each.glibc is not None]
    return Sent(
        path=str(file),
        size=file.stat().st_size,
        names=tuple(f"{each.name} {each.version}" for each in travellers),
        pinned=tuple(line for _, line in found.pinned),
        machine=platform.machine() if compiled else "",
        glibc=max(compiled) if compiled else None,
    )


def _write(file: Path, travellers: Sequence[Traveller]) -> None:
    """The archive, whole or not at all."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=file.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as raw, gzip.GzipFile("", "wb", 1, raw, 0) as packed:
            _add(cast("IO[bytes]", packed), travellers)
        os.replace(temporary, file)
    except BaseException:
        os.unlink(temporary)
        raise
    archives = sorted(file.parent.glob("*.tar.gz"), key=lambda each: each.stat().st_mtime, reverse=True)
    for old in archives[_KEPT:]:
        old.unlink(missing_ok=True)


def _add(packed: IO[bytes], travellers: Sequence[Traveller]) -> None:
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, path in (pair for each in travellers for pair in each.files):
            with path.open("rb") as content:
                status = os.fstat(content.fileno())
                info = tarfile.TarInfo(name)
                info.size, info.mode, info.mtime = status.st_size, status.st_mode & 0o755 | 0o444, 0
                archive.addfile(info, content)
