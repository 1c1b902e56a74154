"""Unpickle what a call left. Classes of the caller's ``__main__`` come back as that program's own."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

from kubefunc.runner.execution import pickling
from kubefunc.runner.protocol import file

if TYPE_CHECKING:
    from kubefunc.runner.protocol.file import Locate

Buffer = bytes | bytearray | memoryview
_SMALL = 16 * 1024  # bytes


def loads(data: Buffer, locate: Locate | None = None) -> Any:
    """Unpickle. A class that a by-value pickle brings from ``__main__`` becomes this ``__main__``'s class of that name,
    where it has one: so a result that another process asked for can be used with ``isinstance`` here.

    Args:
        data: the pickle.
        locate: gives the files that travel beside it.
    """
    if len(data) <= _SMALL and locate is None:
        copy = bytes(data)
        if b"cloudpickle" not in copy:  # then it brings no class by value, and C's unpickler is ten times as fast
            return pickle.loads(copy)
    return _Unpickler(memoryview(data), locate).load()


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: memoryview, locate: Locate | None) -> None:
        super().__init__(_Reader(data))
        self._locate = locate
        self._adopted: set[type] = set()

    def find_class(self, module: str, name: str) -> Any:
        if self._locate is not None and file.is_reference(module, name):
            return self._locate
        found = super().find_class(module, name)
        if module.startswith("cloudpickle") or module == pickling.__name__:
            if name == "_make_skeleton_class":
                return self._skeleton(found)
            if name == "_make_skeleton_enum":
                return self._enum_skeleton(found)
            if name in ("_class_setstate", "set_enum_state"):
                return self._setstate(found)
        return found

    def _skeleton(self, make: Any) -> Any:
        def adopt(kind: Any, name: str, bases: Any, kwargs: Any, *more: Any) -> type:
            mine = self._own(kwargs.get("__module__"), kwargs.get("__qualname__", name))
            return make(kind, name, bases, kwargs, *more) if mine is None else mine

        return adopt

    def _enum_skeleton(self, make: Any) -> Any:
        def adopt(bases: Any, name: str, qualname: str, members: Any, module: str, *more: Any) -> type:
            mine = self._own(module, qualname)
            return make(bases, name, qualname, members, module, *more) if mine is None else mine

        return adopt

    def _own(self, module: object, name: str) -> type | None:
        """This program's class of that name, which the pickle's one becomes."""
        mine = pickling.look_up("__main__", name) if module == "__main__" else None
        if not isinstance(mine, type) or mine.__module__ != "__main__":
            return None
        self._adopted.add(mine)
        return mine

    def _setstate(self, setstate: Any) -> Any:
        def keep_adopted(cls: type, state: Any) -> type:
            return cls if cls in self._adopted else setstate(cls, state)

        return keep_adopted


class _Reader:
    """A file for the unpickler over bytes that stay where they are: ``readinto`` saves a copy of large buffers."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._at = 0

    def read(self, size: int = -1) -> bytes:
        end = len(self._data) if size < 0 else self._at + size
        piece = bytes(self._data[self._at : end])
        self._at += len(piece)
        return piece

    def readinto(self, target: bytearray) -> int:
        piece = self._data[self._at : self._at + len(target)]
        target[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)

    def readline(self) -> bytes:
        start = self._at
        while self._at < len(self._data) and self._data[self._at] != 0x0A:
            self._at += 1
        self._at = min(self._at + 1, len(self._data))
        return bytes(self._data[start : self._at])
