"""What a worker keeps between calls: code and functions, by digest.

Client and worker follow the same rule, so the client knows what the worker has without asking.
"""

from __future__ import annotations

import hashlib
import os
import shutil

from kubefunc.runner.execution import child

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from kubefunc.runner.warm.request import WarmRequest

MOST = 16  # of them at once
LARGEST = 256 << 20  # bytes of all together, unless the newest alone is larger
CODE = "code"
FUNCTION = "function"


def digest_of(data: bytes) -> str:
    """What tells it from all else."""
    return hashlib.sha256(data).hexdigest()


def name_of(kind: str, digest: str) -> str:
    """The name under which something with this digest is kept."""
    return f"{kind}.{digest}"


class Kept:
    """The names and sizes of what is kept, the one that was used last at the end."""

    def __init__(self, entries: Iterable[tuple[str, int]] = ()) -> None:
        self._sizes = dict(entries)

    def __contains__(self, name: str) -> bool:
        return name in self._sizes

    def entries(self) -> list[tuple[str, int]]:
        """All of them."""
        return list(self._sizes.items())

    def use(self, name: str) -> bool:
        """Whether this is kept; it is the last one to go then."""
        size = self._sizes.pop(name, None)
        if size is not None:
            self._sizes[name] = size
        return size is not None

    def add(self, name: str, size: int) -> list[str]:
        """Keep this one too: the names of those that have to go for it.

        >>> kept = Kept((f"code.{number}", 1) for number in range(MOST))
        >>> kept.use("code.0"), kept.add("code.new", 1)
        (True, ['code.1'])
        """
        self._sizes.pop(name, None)
        gone = []
        while self._sizes and (len(self._sizes) >= MOST or sum(self._sizes.values()) + size > LARGEST):
            gone.append(next(iter(self._sizes)))
            del self._sizes[gone[-1]]
        self._sizes[name] = size
        return gone


class Store:
    """In the worker: code as directories of modules, functions as files."""

    def __init__(self, where: str) -> None:
        self._where = where
        self.kept = Kept()

    def path(self, name: str) -> str:
        return os.path.join(self._where, name)

    def use(self, request: WarmRequest) -> None:
        """What it needs is the last to go."""
        for name in (*request.header["code"], request.header["function"]):
            if name is not None:
                self.kept.use(name)

    def put(self, claimed: bytes, data: bytes) -> bool:
        """Keep it under this name. False if it is not what its name says: it has changed on its way."""
        kind = CODE if claimed.startswith(CODE.encode()) else FUNCTION
        name = name_of(kind, digest_of(data))
        if name.encode() != claimed:
            return False
        for each in self.kept.add(name, len(data)):
            self._remove(each)
        if kind == CODE:
            os.makedirs(self.path(name), exist_ok=True)
            child.unpack(data, self.path(name))
        else:
            with open(self.path(name), "wb") as file:
                file.write(data)
        return True

    def _remove(self, name: str) -> None:
        if name.startswith(CODE):
            shutil.rmtree(self.path(name), ignore_errors=True)
        else:
            os.unlink(self.path(name))
