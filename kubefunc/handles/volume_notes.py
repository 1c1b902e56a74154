"""Notes for exceptions of functions that could not write or read below ``volumes=``: which option is meant."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from typing import Final

from kubefunc.runner.execution.exceptions import add_note
from kubefunc.volumes import ConfigMap, EmptyDir, HostPath, PersistentVolumeClaim, Secret, Volume

_MOST_CAUSES: Final = 10
_MAIN_FIELDS: Final = ("name", "reference", "path", "size")  # each volume has one of them


def note_volume(error: BaseException, volumes: Mapping[str, Volume]) -> None:
    """Say in the exception which of ``volumes=`` it could not use."""
    note = note_for(error, volumes)
    if note is not None:
        add_note(error, note)


def note_for(error: BaseException, volumes: Mapping[str, Volume]) -> str | None:
    """What an OSError, or one that caused this exception, has to do with the volumes.

    >>> print(note_for(OSError(30, "Read-only file system", "/conf/x"), {"/conf": ConfigMap("app")}))
    volumes={"/conf": ConfigMap('app')} is read-only: write elsewhere, such as to /tmp.
    """
    if not volumes:
        return None
    for each in _chain(error):
        if isinstance(each, OSError):
            note = _of_os_error(each, volumes)
            if note is not None:
                return note
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(_MOST_CAUSES):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__


def _of_os_error(error: OSError, volumes: Mapping[str, Volume]) -> str | None:
    path = _path_of(error, volumes)
    if error.errno == errno.ENOSPC:
        return _full(path, volumes)
    if path is None:
        return None
    volume = volumes[path]
    if error.errno == errno.EROFS:
        return _read_only(path, volume)
    if error.errno in (errno.EACCES, errno.EPERM) and isinstance(volume, (ConfigMap, Secret)):
        return (
            f"{_option(path, volume)}: its files belong to root, with mode={volume.mode or 0o644:#o}. A function with "
            "run_as_user= can read them if mode= lets everybody read, such as 0o444."
        )
    return None


def _path_of(error: OSError, volumes: Mapping[str, Volume]) -> str | None:
    """The mount path of the volume that the exception's file is on."""
    file = error.filename
    if not isinstance(file, str):
        return None
    return next((path for path in volumes if file == path or file.startswith(f"{path}/")), None)


def _option(path: str, volume: Volume) -> str:
    value = next(getattr(volume, name) for name in _MAIN_FIELDS if hasattr(volume, name))
    return f'volumes={{"{path}": {type(volume).__name__}({"" if value is None else repr(value)})}}'


def _read_only(path: str, volume: Volume) -> str:
    if isinstance(volume, (PersistentVolumeClaim, HostPath)):
        return f"{_option(path, volume)} is mounted with read_only=True: leave it out to write there."
    return f"{_option(path, volume)} is read-only: write elsewhere, such as to /tmp."


def _full(path: str | None, volumes: Mapping[str, Volume]) -> str | None:
    """Only a volume in memory is full for the function; one on disk gets its Pod evicted. Such errors name no file."""
    full = {at: volume for at, volume in volumes.items() if isinstance(volume, EmptyDir) and volume.memory}
    if path is not None:
        full = {at: volume for at, volume in full.items() if at == path}
    if not full:
        return None
    return f"{' or '.join(_option(at, volume) for at, volume in full.items())} is full: raise its size."
