"""``kubefunc.File``, and how a pickle refers to a file that travels beside it.

A file has a number. Its place in the pickle is taken by :func:`travelled` with number and name, and the program that
loads the pickle says where that file is (:class:`Unpickler`). A pickle of arguments that refers to files ends in
their numbers (4 bytes each, big endian), how many there are (4 bytes), and ``KFF1``: one without files ends in ``.``.
"""

from __future__ import annotations

import io
import os
import pickle

from kubefunc.runner.protocol.pipes import LENGTH

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from mmap import mmap
    from pathlib import Path
    from typing import IO, Any, BinaryIO, Literal, Protocol, TextIO, TypeAlias, overload

    from typing_extensions import Self

    Locate: TypeAlias = Callable[[int, str], "File"]

    class Keeper(Protocol):
        """The temporary folder that a file came in."""

        def keep(self) -> None:
            """Remove it no sooner than this program ends."""
            ...


TRAILER = b"KFF1"
_COPY = 1 << 20


class File:
    """A file whose content travels with a call, from disk to disk, however large it is.

    As an argument, or anywhere inside one, the function gets it as a file of its own machine. Returned by a function,
    or anywhere inside what it returns, its content is here when the call has ended. Takes the place of a path
    wherever Python takes one: ``open(file)``, ``pandas.read_csv(file)``.

    >>> import pathlib, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> data = pathlib.Path(folder.name, "data.csv")
    >>> data.write_text("x,y\\n1,2\\n")
    8
    >>> file = File(data)
    >>> file.name, file.size
    ('data.csv', 8)
    >>> with file.open() as lines:
    ...     lines.readline()
    'x,y\\n'
    >>> folder.cleanup()
    """

    __slots__ = ("__weakref__", "_keeper", "_path")

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Name a file.

        Args:
            path: where it is, or will be by the time it is sent. A relative path is one of the working directory now.

        Raises:
            TypeError: it is no path.
        """
        text = os.fspath(path)
        if not isinstance(text, str):
            raise TypeError(f"File() takes a path as text or a pathlib.Path, not {path!r}")
        self._path = os.path.abspath(text)
        self._keeper: Keeper | None = None

    @classmethod
    def received(cls, path: str, keeper: Keeper) -> Self:
        """A file that came with a result, in a temporary folder that goes with it."""
        file = cls(path)
        file._keeper = keeper
        return file

    @property
    def path(self) -> Path:
        """Where the file is on this machine.

        A file that came with a result is in a temporary folder, which is removed with the ``File``; once you have asked
        for the path it stays until the program ends.
        """
        from pathlib import Path  # in a Pod each import counts

        if self._keeper is not None:
            self._keeper.keep()
        return Path(self._path)

    @property
    def name(self) -> str:
        """The last part of the path. It is the same on both sides."""
        return os.path.basename(self._path)

    @property
    def size(self) -> int:
        """How many bytes the file has now."""
        return os.stat(self._path).st_size

    if TYPE_CHECKING:

        @overload
        def open(
            self, mode: Literal["r", "rt", "w", "wt"] = "r", *, encoding: str | None = None, newline: str | None = None
        ) -> TextIO: ...

        @overload
        def open(self, mode: Literal["rb", "wb", "br", "bw"]) -> BinaryIO: ...

        @overload
        def open(self, mode: str, *, encoding: str | None = None, newline: str | None = None) -> IO[Any]: ...

    def open(self, mode: str = "r", *, encoding: str | None = None, newline: str | None = None) -> IO[Any]:
        """Open it, as the built-in :func:`open` does."""
        return open(self._path, mode, encoding=encoding, newline=newline)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Store the content under this path, whatever stood there before.

        A file that came with a result is moved there if it can be, and stands for that file afterwards. Any other is
        copied.

        Args:
            path: of the new file, or of a folder, which gets it under its own name.

        Returns:
            The path of the new file.
        """
        from pathlib import Path

        target = os.path.abspath(os.fspath(path))
        if os.path.isdir(target):
            target = os.path.join(target, self.name)
        if self._keeper is None or not _moved(self._path, target):
            _replace_by_copy(self._path, target)
        if self._keeper is not None:
            self._path, self._keeper = target, None
        return Path(target)

    def __fspath__(self) -> str:
        return self._path

    def __repr__(self) -> str:
        return f"File({self._path!r})"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> tuple[object, ...]:
        """For pickles that stay on this machine: those of calls refer to it by its number."""
        return File, (self._path,)


def _moved(source: str, target: str) -> bool:
    """Whether the file could be moved: its folder may be on another file system."""
    try:
        os.replace(source, target)
    except OSError:
        return False
    return True


def _replace_by_copy(source: str, target: str) -> None:
    """Copy to beside the target first: nobody sees half a file there."""
    part = f"{target}.{os.getpid()}.part"
    try:
        copy(source, part)
        os.replace(part, target)
    except BaseException:
        try:
            os.unlink(part)
        except FileNotFoundError:
            pass
        raise


def copy(source: str, target: str) -> None:
    """Copy a file, by a clone of its blocks where the file system has such."""
    with open(source, "rb", buffering=0) as there, open(target, "wb", buffering=0) as here:
        try:
            while os.copy_file_range(there.fileno(), here.fileno(), _COPY << 10):
                pass
        except (AttributeError, OSError):  # another system than Linux, or file systems that cannot
            there.seek(here.seek(0, os.SEEK_END))
            while piece := there.read(_COPY):
                view = memoryview(piece)
                while view:
                    view = view[here.write(view) :]


# -- in pickles


def travelled(number: int, name: str) -> File:
    """Stands in a pickle for a file that travels beside it; :class:`Unpickler` puts the file there."""
    raise pickle.UnpicklingError(f"the file {name!r} (number {number}) travels beside this pickle, and is not here")


def is_reference(module: str, name: str) -> bool:
    """Whether a global of a pickle is :func:`travelled`."""
    return name == travelled.__name__ and module == __name__


class Unpickler(pickle.Unpickler):
    """Loads a pickle that refers to files."""

    def __init__(self, data: bytes | memoryview | mmap, locate: Locate) -> None:
        """``locate``: gives the file with this number and name."""
        super().__init__(io.BytesIO(data))
        self._locate = locate

    def find_class(self, module: str, name: str) -> Any:
        return self._locate if is_reference(module, name) else super().find_class(module, name)


def with_numbers(data: bytes, numbers: Sequence[int]) -> bytes:
    """A pickle, and the files that it refers to.

    >>> numbers_in(with_numbers(pickle.dumps("x"), [0, 7]))
    [0, 7]
    """
    return b"".join((data, *map(LENGTH.pack, numbers), LENGTH.pack(len(numbers)), TRAILER)) if numbers else data


def numbers_in(data: bytes | mmap | memoryview) -> list[int]:
    """The files that a pickle refers to.

    >>> numbers_in(pickle.dumps("x"))
    []
    """
    end = len(data) - len(TRAILER) - LENGTH.size
    if end < 0 or bytes(data[-len(TRAILER) :]) != TRAILER:
        return []
    (count,) = LENGTH.unpack(bytes(data[end : end + LENGTH.size]))
    numbers = bytes(data[max(0, end - count * LENGTH.size) : end])
    return [number for (number,) in LENGTH.iter_unpack(numbers)]
