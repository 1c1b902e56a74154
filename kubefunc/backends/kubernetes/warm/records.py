"""The warm workers that programs of this user have left: small files on this machine, which only the user can read.

A file holds a worker's token, so that another program can prove that it may use the worker, and check that a Pod is
that worker. Nothing in the cluster says so: labels can be written by others.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from kubefunc.packing.cache_files import is_private, remove, used_at, write_whole

log = logging.getLogger("kubefunc.kubernetes.pool")

FOLDER = "workers"
SLACK = 60.0  # seconds that a worker may live longer than its record was touched for
TOUCH_EVERY = 1.0  # seconds
FORGOTTEN_AFTER = 7 * 24 * 3600.0  # seconds after which nobody can have any use for a record


@dataclass(frozen=True)
class Record:
    """How a worker is reached.

    Attributes:
        call: the id of the worker's own call.
        token: what worker and client prove to each other that they know.
        namespace: of its Pod.
        pod: its Pod's name; empty while that is not known.
        node: its Pod's node, for people.
    """

    call: str
    token: str = field(repr=False)
    namespace: str
    pod: str = ""
    node: str | None = None


class Records(Protocol):
    """The workers of one kind."""

    def read(self) -> list[Record]:
        """Those that may be there, the one that was used last first."""
        ...

    def keep(self, record: Record) -> None:
        """Let other programs find this worker."""
        ...

    def touch(self, call: str) -> None:
        """It has been used just now."""
        ...

    def remove(self, call: str) -> None:
        """It is not there any more."""
        ...


class NoRecords:
    """Implements :class:`Records` for a pool that does not share its workers."""

    def read(self) -> list[Record]:
        return []

    def keep(self, record: Record) -> None:
        """Nobody is to find it."""

    def touch(self, call: str) -> None:
        """Nobody finds it."""

    def remove(self, call: str) -> None:
        """Nobody has found it."""


class RecordFiles:
    """Implements :class:`Records` in a directory of this user.

    A home that is read-only, full or another user's means that no worker is found again, and nothing else.
    """

    def __init__(self, cache: Path, kind: str, idle_timeout: float) -> None:
        """``kind``: what tells workers apart that cannot take each other's place."""
        self._directory = cache / FOLDER / kind
        self._lifetime = idle_timeout + SLACK
        self._touched: dict[str, float] = {}

    def read(self) -> list[Record]:
        if not is_private(self._directory):
            return []
        dated: list[tuple[float, Record]] = []
        for path in self._directory.glob("*.json"):
            used = used_at(path)
            record = _read(path)
            if record is not None and time.time() - used <= self._lifetime:
                dated.append((used, record))
            elif time.time() - used > self._lifetime:
                remove(path)
        return [record for _, record in sorted(dated, key=lambda each: each[0], reverse=True)]

    def keep(self, record: Record) -> None:
        try:
            is_new = not self._directory.exists()
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if is_new:
                _remove_old(self._directory.parent)
            if is_private(self._directory):
                write_whole(self._path(record.call), json.dumps(dataclasses.asdict(record)).encode())
        except OSError as error:
            log.info("workers are not shared with other programs: %s", error)

    def touch(self, call: str) -> None:
        now = time.monotonic()
        if now - self._touched.get(call, -TOUCH_EVERY) >= TOUCH_EVERY:
            self._touched[call] = now
            with contextlib.suppress(OSError):
                os.utime(self._path(call))

    def remove(self, call: str) -> None:
        remove(self._path(call))

    def _path(self, call: str) -> Path:
        return self._directory / f"{call}.json"


def _read(path: Path) -> Record | None:
    if not is_private(path):
        return None
    try:
        record = Record(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
    return record if all(isinstance(each, str) for each in (record.call, record.token, record.pod)) else None


def _remove_old(folder: Path) -> None:
    """What no program has used for a long time."""
    for path in folder.glob("*/*"):
        if time.time() - used_at(path) > FORGOTTEN_AFTER:
            remove(path)
    for directory in folder.iterdir():
        if time.time() - used_at(directory) > FORGOTTEN_AFTER:
            with contextlib.suppress(OSError):  # it is not empty
                directory.rmdir()
