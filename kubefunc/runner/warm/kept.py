"""What a worker keeps between calls: code and functions, by digest.

Client and worker follow the same rule, so the client knows what the worker has without asking.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time

from kubefunc.runner.execution import child
from kubefunc.runner.protocol import wire
from kubefunc.runner.warm import code
from kubefunc.runner.warm.compiled import link_compiled

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from kubefunc.runner.warm.request import WarmRequest

MOST = 16  # of them at once
LARGEST = 256 << 20  # bytes of all together, unless those that one request needs are larger
CODE = "code"
FUNCTION = "function"
FILES = ".files"  # ends the name of the archive of code: calls may change what is in the directory
UNFINISHED = ".new"  # ends the name of a directory that is being filled


def digest_of(data: bytes) -> str:
    """What tells it from all else."""
    return hashlib.sha256(data).hexdigest()


def name_of(kind: str, digest: str) -> str:
    """The name under which something with this digest is kept."""
    return f"{kind}.{digest}"


def name_of_code(table: code.Table) -> str:
    """The name under which code with this table is kept."""
    return name_of(CODE, digest_of(code.encode_table(table)))


class Kept:
    """The names and sizes of what is kept, the one that was used last at the end."""

    def __init__(self, entries: Iterable[tuple[str, int]] = ()) -> None:
        self._sizes = dict(entries)
        self._needed: set[str] = set()  # by the request that comes next

    def __contains__(self, name: str) -> bool:
        return name in self._sizes

    def entries(self) -> list[tuple[str, int]]:
        """All of them."""
        return list(self._sizes.items())

    def use(self, name: str) -> bool:
        """Whether this is kept; it is the last one to go then, and does not go before :meth:`release`."""
        size = self._sizes.pop(name, None)
        if size is not None:
            self._sizes[name] = size
            self._needed.add(name)
        return size is not None

    def add(self, name: str, size: int) -> list[str]:
        """Keep this one too, and use it: the names of those that have to go for it.

        >>> kept = Kept((f"code.{number}", 1) for number in range(MOST))
        >>> kept.use("code.0"), kept.add("code.new", 1)
        (True, ['code.1'])
        """
        self._sizes.pop(name, None)
        gone = []
        for each in [each for each in self._sizes if each not in self._needed]:
            if len(self._sizes) < MOST and sum(self._sizes.values()) + size <= LARGEST:
                break
            gone.append(each)
            del self._sizes[each]
        self._sizes[name] = size
        self._needed.add(name)
        return gone

    def release(self) -> None:
        """The request has come, or never comes."""
        self._needed.clear()

    def drop(self, name: str) -> None:
        """It is of no use."""
        self._sizes.pop(name, None)


class Store:
    """In the worker: code as directories of modules, functions as files."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._written_at = int(time.time()) - 2  # before any call could change a file, whatever clocks round
        self._settled: dict[str, int] = {}  # when the last file of each code was written (nanoseconds)
        self.kept = Kept()

    def path(self, name: str) -> str:
        return os.path.join(self._where, name)

    def use(self, request: WarmRequest) -> None:
        """What it needs is the last to go."""
        for name in (*request.header["code"], request.header["function"]):
            if name is not None:
                self.kept.use(name)
        self.kept.release()

    def put(self, claimed: bytes, data: bytes) -> bool:
        """Keep it under its name.

        Args:
            claimed: its name; behind a space, the name of the code that the data is a patch of.
            data: it, or a patch. Nothing: what is kept under the name stays until the next request has come.

        Returns:
            Whether it is what its name says. If not, it has changed on its way, or calls have changed what is here.
        """
        name, _, base = claimed.decode("ascii", "replace").partition(" ")
        if name in self.kept or not data:
            return self.kept.use(name)
        if name.startswith(CODE):
            return self._put_code(name, base, data)
        return self._put_function(name, data)

    def _put_function(self, name: str, data: bytes) -> bool:
        if name != name_of(FUNCTION, digest_of(data)):
            return False
        self._add(name, len(data))
        with open(self.path(name), "wb") as file:
            file.write(data)
        return True

    def _put_code(self, name: str, base: str, data: bytes) -> bool:
        try:
            before = self._read(base) if base else {}
            files = code.apply_patch(before, data) if base else code.read_archive(data)
            code.check_paths(files)
        except (*code.NOT_CODE, OSError):
            self._check(base)
            return False
        table = code.table_of(files)
        if name != name_of_code(table):
            self._check(base)
            return False
        self._write(name, files, data if not base else wire.join_files(_listed(files), level=0))
        same = [path for path, file in files.items() if before.get(path) == file]
        unchanged = [path for path in same if self._is_as_written(base, path)]
        link_compiled(self.path(base), self.path(name + UNFINISHED), unchanged)
        self._add(name, code.size_of(table))  # from here on the base may be gone
        os.rename(self.path(name + UNFINISHED), self.path(name))
        return True

    def _read(self, name: str) -> dict[str, code.File]:
        """The files of code that is kept, as they came. Raises what reading it raises."""
        if name not in self.kept:
            raise KeyError(name)
        with open(self.path(name + FILES), "rb") as file:
            return code.read_archive(file.read())

    def _check(self, name: str) -> None:
        """Keep this code no longer, if calls have changed it: the client sends all of the next one then."""
        try:
            is_whole = name_of_code(code.table_of(self._read(name))) == name
        except (*code.NOT_CODE, OSError):
            is_whole = False
        if name in self.kept and not is_whole:
            self.kept.drop(name)
            self._remove(name)

    def _write(self, name: str, files: Mapping[str, code.File], archive: bytes) -> None:
        """Write these files into a directory that is not finished, and their archive."""
        place = self.path(name + UNFINISHED)
        for left in (place, self.path(name)):
            shutil.rmtree(left, ignore_errors=True)
            if os.path.lexists(left):  # a call has taken away the permission to remove what is in it
                os.rename(left, f"{left}.{os.urandom(4).hex()}")
        os.mkdir(place)
        with open(self.path(name + FILES), "wb") as file:
            file.write(archive)
        # One time for all: what Python has compiled of a file that a call has changed never fits this one.
        child.write_files(_listed(files), place, self._written_at)
        self._settled[name] = max((os.stat(os.path.join(place, path)).st_ctime_ns for path in files), default=0)

    def _is_as_written(self, name: str, path: str) -> bool:
        """Whether nothing has changed this file of kept code since. The time that tells so cannot be set."""
        try:
            changed = os.stat(os.path.join(self.path(name), path)).st_ctime_ns
        except OSError:
            return False
        return changed <= self._settled.get(name, -1)

    def _add(self, name: str, size: int) -> None:
        for each in self.kept.add(name, size):
            self._remove(each)

    def _remove(self, name: str) -> None:
        self._settled.pop(name, None)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path(name + FILES if name.startswith(CODE) else name))
        shutil.rmtree(self.path(name), ignore_errors=True)


def _listed(files: Mapping[str, code.File]) -> Iterable[tuple[str, bool, bytes]]:
    return ((path, *file) for path, file in files.items())
