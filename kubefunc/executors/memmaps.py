"""Arrays that processes of one machine share: files that each maps into its memory, instead of a copy in each call.

An array that lies in a file already (``numpy.memmap``, or a view of one) is named by its place in it. Any other that is
large is written to a file once, however many calls it goes into; the file stays until the array is gone and all calls
that use it have ended. Both are for this machine only: on a cluster arrays travel by value.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from kubefunc.packing.payload import Nested, Reducers, pickled

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]
    Mode = Literal["r", "r+", "w+", "c"]


@dataclass
class SharedFile:
    """A file that holds an array.

    Attributes:
        users: calls that have not ended.
        wanted: whether the array still exists, so that another call may use it.
    """

    path: str
    users: int = 0
    wanted: bool = True


class SharedArrays:
    """The files of one group of calls. Safe to use from several threads at once."""

    def __init__(self, larger_than: int | None, mode: Mode | None, folder: str | None) -> None:
        """Which arrays are shared, and how.

        Args:
            larger_than: bytes; None: only arrays that lie in files already are shared.
            mode: as for ``numpy.memmap``: how calls see an array that was written to a file. None: not at all.
            folder: where the files go; None: where the system has its temporary files.
        """
        self._larger_than = None if mode is None else larger_than
        self._mode = "r+" if mode == "w+" else mode
        self._folder = folder
        self._lock = threading.RLock()  # an array may be collected at any time, also while it is held here
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._files: dict[int, SharedFile] = {}

    def sharing(self, function: Callable[[], Any]) -> SharingCall:
        """The same call; the large arrays in it do not travel when it is pickled."""
        return SharingCall(function, self)

    def reducers(self, used: list[SharedFile]) -> Reducers:
        """How a pickler is to treat arrays; the files that it then refers to are added to ``used``."""
        import numpy as np

        def reduce(array: Array) -> tuple[Any, ...]:
            source = _mapped(array)
            if source is not None and array.nbytes:
                return _place(array, source)
            if self._larger_than is None or array.dtype.hasobject or array.nbytes <= self._larger_than:
                return _by_value(array)
            file = self._use(array)
            used.append(file)
            return np.load, (file.path, self._mode)

        return {np.ndarray: reduce, np.memmap: reduce}

    def release(self, used: list[SharedFile]) -> None:
        """A call that used these files has ended."""
        with self._lock:
            for file in used:
                file.users -= 1
                self._remove_if_useless(file)

    def close(self) -> None:
        """Remove all files. Processes that have mapped them keep what they have."""
        with self._lock:
            self._files.clear()
            if self._directory is not None:
                self._directory.cleanup()
                self._directory = None

    def _use(self, array: Array) -> SharedFile:
        with self._lock:
            file = self._files.get(id(array))
            if file is None:
                file = self._files[id(array)] = self._write(array)
                weakref.finalize(array, self._forget, id(array)).atexit = False
            file.users += 1
            return file

    def _write(self, array: Array) -> SharedFile:
        import numpy as np

        if self._directory is None:
            self._directory = tempfile.TemporaryDirectory(prefix="kubefunc-arrays-", dir=self._folder)
        descriptor, path = tempfile.mkstemp(suffix=".npy", dir=self._directory.name)
        with os.fdopen(descriptor, "wb") as opened:
            np.save(opened, array, allow_pickle=False)
        return SharedFile(path)

    def _forget(self, key: int) -> None:
        with self._lock:
            file = self._files.pop(key, None)
            if file is not None:
                file.wanted = False
                self._remove_if_useless(file)

    def _remove_if_useless(self, file: SharedFile) -> None:
        if file.users == 0 and not file.wanted:
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                os.unlink(file.path)


class SharingCall(Nested):
    """A call without arguments whose pickle refers to files of :class:`SharedArrays`."""

    def __init__(self, function: Callable[[], Any], arrays: SharedArrays) -> None:
        self._function = function
        self._arrays = arrays
        self._used: list[SharedFile] = []

    def __call__(self) -> Any:
        """What takes this object's place where it arrives does the same."""
        return self._function()

    def pickled(self) -> tuple[bytes, set[str]]:
        """The function, with large arrays as references to files."""
        return pickled(_Arrived(self._function), self._arrays.reducers(self._used))

    def release(self, _: object = None) -> None:
        """It has ended: its files may go."""
        used, self._used = self._used, []
        self._arrays.release(used)


class _Arrived:
    """A call that uses mapped arrays; they are not mapped any more in what it returns."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function

    def __call__(self) -> Any:
        result = self._function()
        return _Result(result) if "numpy" in sys.modules else result


class _Result:
    """A value whose pickle holds arrays where it holds mapped ones: the files may be gone when somebody reads it."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __reduce__(self) -> tuple[Any, ...]:
        import numpy as np

        return pickle.loads, (pickled(self._value, {np.memmap: _by_value})[0],)


def _by_value(array: Any) -> tuple[Any, ...]:
    """Of protocol 5: the older ones, which numpy takes for memmaps, lose the byte order."""
    import numpy as np

    return np.asarray(array).__reduce_ex__(5)  # type: ignore[no-any-return, unused-ignore]


def _mapped(array: Any) -> Any:
    """The ``numpy.memmap`` that holds this array's data, or None."""
    import numpy as np

    while isinstance(array, np.ndarray):
        if isinstance(array.base, mmap.mmap):
            return array if isinstance(array, np.memmap) and array.filename is not None else None
        array = array.base
    return None


def _place(array: Array, source: np.memmap[Any, Any]) -> tuple[Any, ...]:
    """How to find an array again in the file that holds it."""
    begin = array.__array_interface__["data"][0]
    reaches = [(count - 1) * stride for count, stride in zip(array.shape, array.strides, strict=True)]
    first = begin + sum(reach for reach in reaches if reach < 0)
    last = begin + sum(reach for reach in reaches if reach > 0) + array.itemsize
    offset = source.offset + first - source.__array_interface__["data"][0]
    mode = "r+" if source.mode == "w+" else source.mode
    return placed, (
        str(source.filename),
        mode,
        offset,
        last - first,
        array.dtype,
        array.shape,
        array.strides,
        begin - first,
    )


def placed(
    path: str,
    mode: Any,
    offset: int,
    size: int,
    dtype: Any,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    begin: int,
) -> Any:
    """An array in a file: ``size`` bytes from ``offset`` on, in which its first item lies at ``begin``."""
    import numpy as np

    data = np.memmap(path, np.uint8, mode, offset, size)
    return np.ndarray.__new__(np.memmap, shape, dtype, data, begin, strides)
