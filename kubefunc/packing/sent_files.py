"""The files (:class:`kubefunc.File`) among the arguments of a call: found while these are pickled, and checked."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass

from kubefunc.errors import FileError
from kubefunc.runner.protocol.file import File, travelled

CHANGED = "Leave a file alone until the call has ended, or pass a copy of it."


@dataclass(frozen=True)
class SentFile:
    """A file that is sent, as it was when the call was made.

    Attributes:
        file: what the caller has passed. A file that came with a result exists as long as this does.
        path: where it is.
        size: in bytes.
        version: changes when the file does.
    """

    file: File
    path: str
    size: int
    version: tuple[int, ...]

    def check(self, status: os.stat_result) -> None:
        """Raise FileError if the file is another one by now, or has another content."""
        if version_of(status) != self.version:
            raise FileError(f"{self.file!r} has changed since the call was made. {CHANGED}")


def version_of(status: os.stat_result) -> tuple[int, ...]:
    """What a file's status says of its identity and content."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


class FilesSent:
    """For a place that has none of this machine's files: each travels beside the pickles, once.

    Attributes:
        sent: the files, by number.
    """

    def __init__(self) -> None:
        self.sent: list[SentFile] = []
        self._numbers: dict[str, int] = {}
        self._used: list[int] = []

    def reduce(self, file: File) -> tuple[object, ...]:
        """What stands in a pickle for a file.

        Raises:
            FileError: it is not there, no file, or cannot be read.
        """
        path = os.fspath(file)
        number = self._numbers.get(path)
        if number is None:
            number = self._numbers[path] = len(self.sent)
            self.sent.append(_sent(file))
        if number not in self._used:
            self._used.append(number)
        return travelled, (number, file.name)

    def take_used(self) -> Sequence[int]:
        """The files of the pickle that has just been made."""
        used, self._used = self._used, []
        return used


class FilesHere:
    """For a process of this machine: it finds each file under its own path.

    Attributes:
        sent: the files, which must exist as long as the call may need them.
    """

    def __init__(self) -> None:
        self.sent: list[SentFile] = []

    def reduce(self, file: File) -> tuple[object, ...]:
        """As :meth:`FilesSent.reduce`."""
        self.sent.append(_sent(file))
        return File, (os.fspath(file),)

    def take_used(self) -> Sequence[int]:
        """None: nothing travels beside the pickle."""
        return ()


def _sent(file: File) -> SentFile:
    status = checked(file)
    return SentFile(file, os.fspath(file), status.st_size, version_of(status))


def checked(file: File) -> os.stat_result:
    """The status of a file that can be sent.

    Raises:
        FileError: it is not there, no file, or cannot be read.
    """
    path = os.fspath(file)
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise _not_sent(file, "is a folder. Pack it into one file first, for example with shutil.make_archive()")
        if not stat.S_ISREG(status.st_mode):
            raise _not_sent(file, "is no ordinary file. Copy its content into one first")
        os.close(os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0)))
    except FileNotFoundError:
        raise _not_sent(file, f"does not exist. (The working directory is {_working_directory()}.)") from None
    except OSError as error:
        raise _not_sent(file, f"cannot be read: {error.strerror}") from error
    return status


class _NotSent(FileError):
    """Names the file as what cannot be pickled: see :func:`kubefunc.runner.execution.culprit.find_unpicklable`."""

    def __init__(self, culprit: File, message: str) -> None:
        super().__init__(message)
        self.culprit = culprit


def _not_sent(file: File, why: str) -> FileError:
    return _NotSent(file, f"{file!r}, which {why}" + ("" if why.endswith(")") else "."))


def _working_directory() -> str:
    try:
        return os.getcwd()
    except OSError:
        return "a folder that was removed"
