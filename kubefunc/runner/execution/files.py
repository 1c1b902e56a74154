"""Files that travel with a call (:class:`kubefunc.runner.protocol.file.File`), where the function runs.

Those of the arguments are brought by the client, each under its number: the function waits for its own. Those in what
the function returns are copied to beside the body of its result, where the client finds them.
"""

from __future__ import annotations

import copyreg
import hashlib
import io
import os
import pickle
import stat
import time

from kubefunc.runner.execution.reports import BodyNotWritten
from kubefunc.runner.protocol import file, wire
from kubefunc.runner.protocol.file import File

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from mmap import mmap
    from typing import Any, TypeAlias

    from kubefunc.runner.execution.reports import Body

    Keep: TypeAlias = Callable[[str, str], "tuple[int, str]"]

POLL = 0.05
_COPY = 1 << 20


# -- of the arguments


class NotBrought(Exception):
    """The client has not sent a file.

    Attributes:
        waited_for_file: what the envelope's error says of it.
    """

    def __init__(self, name: str, waited: float) -> None:
        super().__init__(f"the file {name!r} has not arrived")
        self.waited_for_file = {"waited": waited, "file": name}


def wait(data: bytes | memoryview | mmap, place: str, seconds: float) -> None:
    """Return when the files of these arguments are there, or none of them has grown for so long.

    Args:
        data: the arguments, pickled.
        place: the path of a file is this, a dot and its number.
    """
    for number in file.numbers_in(data):
        path = f"{place}.{number}"
        size, until = -1, time.monotonic() + seconds
        while not os.path.exists(path):
            now = _size(f"{path}.part")
            if now != size:
                size, until = now, time.monotonic() + seconds
            if time.monotonic() > until:
                return
            time.sleep(POLL)


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return -1


def loads(data: bytes | memoryview | mmap, place: str, waited: float) -> Any:
    """Arguments with files, which have come.

    Raises:
        NotBrought: one of them has not.
    """

    def locate(number: int, name: str) -> File:
        source = f"{place}.{number}"
        if not os.path.exists(source):
            raise NotBrought(name, waited)
        return File(_named(source, f"{place}s/{number}", name))

    return file.Unpickler(data, locate).load()


def _named(source: str, folder: str, name: str) -> str:
    """The path of the same file under the name that it has at home: programs look at its suffix."""
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, name)
    if not os.path.lexists(path):
        try:
            os.link(source, path)
        except OSError:  # the kernel may allow links to one's own files only
            os.symlink(source, path)
    return path


# -- of the result


class CannotReturn(pickle.PicklingError):
    """A file that the function returns cannot be read.

    Attributes:
        culprit: the file.
        file: its path.
    """

    def __init__(self, culprit: File, path: str, why: str) -> None:
        super().__init__(why)
        self.culprit = culprit
        self.file = path


class Returned:
    """The files in a value that is being pickled, each kept once beside the value's body.

    Attributes:
        kept: size and sha256 of each, by number.
    """

    def __init__(self, keep: Keep) -> None:
        self._keep = keep
        self._numbers: dict[str, int] = {}
        self._beside = ""
        self.kept: list[tuple[int, str]] = []

    def pickler(self, kind: Any, body: Body) -> Any:
        """A pickler of this class that writes to this body."""
        self._beside = body.path
        return self._made(kind, body)

    def _made(self, kind: Any, target: Any) -> Any:
        made = kind.__new__(kind)
        table = {**(copyreg if kind is pickle.Pickler else kind).dispatch_table, File: self._reduce}
        if kind is pickle.Pickler:  # written in C: it forgets what was set before, and others look only then
            made.__init__(target, protocol=5)
            made.dispatch_table = table
        else:
            made.dispatch_table = table
            made.__init__(target, protocol=5)
        return made

    def dumps(self, value: object) -> bytes:
        """A part's pickle: which of them fails?"""
        from kubefunc.runner.execution import pickling  # with cloudpickle, which most results do not need

        buffer = io.BytesIO()
        self._made(pickling.Pickler, buffer).dump(value)
        return buffer.getvalue()

    def _reduce(self, returned: File) -> tuple[object, ...]:
        path = os.fspath(returned)
        if path not in self._numbers:
            target = f"{self._beside}.file.{len(self.kept)}"
            _check(returned, path)
            self.kept.append(self._keep(path, target))
            self._numbers[path] = len(self.kept) - 1
        return file.travelled, (self._numbers[path], returned.name)


def _check(returned: File, path: str) -> None:
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            raise CannotReturn(returned, path, "it is a folder" if stat.S_ISDIR(mode) else "it is no ordinary file")
        os.close(os.open(path, os.O_RDONLY))
    except OSError as error:
        raise CannotReturn(returned, path, error.strerror or str(error)) from error


def keep_here(path: str, target: str) -> tuple[int, str]:
    """Keep a file for a client on this machine."""
    try:
        with wire.new_file(target):
            file.copy(path, target)
    except OSError as error:
        _give_up(target, error)
    return os.stat(target).st_size, ""


def keep_sealed(path: str, target: str) -> tuple[int, str]:
    """Keep a file for a client elsewhere, which checks its digest."""
    digest, size = hashlib.sha256(), 0
    try:
        with open(path, "rb", buffering=0) as source, wire.new_file(target) as kept:
            while piece := source.read(_COPY):
                wire.write_all(kept.fileno(), piece)
                digest.update(piece)
                size += len(piece)
    except OSError as error:
        _give_up(target, error)
    return size, digest.hexdigest()


def refuse_yielded(path: str, target: str) -> tuple[int, str]:
    """A generator function has no files."""
    raise CannotReturn(File(path), path, "a generator function cannot yield files")


def _give_up(target: str, error: OSError) -> None:
    try:
        os.unlink(target)
    except OSError:
        pass
    raise BodyNotWritten(target, error) from error
