"""The files (:class:`kubefunc.File`) of a worker's calls: those of arguments, and those in what calls have returned.

A client sends files of arguments by exec into a folder, which is there as long as they may be needed: who comes too
late finds none, and leaves nothing behind. The folder of a call goes when the call ends. That of a map stays for the
next item; it goes when something else is to run, or with the client.
"""

from __future__ import annotations

import contextlib
import os
import shutil

from kubefunc.runner.warm.attach import FOLDER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from typing import Any, Protocol

    class Request(Protocol):
        """What is asked of a request."""

        @property
        def files(self) -> dict[str, Any] | None: ...  # its folder, and which files go with its end
        @property
        def stay(self) -> str | None: ...  # the process that runs it
        def items(self) -> Iterator[tuple[int, bytes]]: ...
        def path(self, name: str) -> str: ...


ARGUMENT = "file"  # the files of arguments are this, a dot and their number


def folder_of(place: str) -> str:
    """The name of a folder in the worker's directory."""
    return f"{place}.in"


def name_of_argument(place: str, number: int) -> str:
    """The name of a file of an argument in the output volume, as clients tell it."""
    return f"{FOLDER}/{folder_of(place)}/{ARGUMENT}.{number}"


def name_of_body(call: str, index: int | None) -> str:
    """What the names of returned files begin with in the output volume; ``index``: of an item that reports as such."""
    return f"{FOLDER}/{call}.{_body(index)}"


def _body(index: int | None) -> str:
    return "body" if index is None else f"item.{index}"


class Places:
    """Makes and removes the folders."""

    def __init__(self, where: str) -> None:
        """``where``: the worker's directory."""
        self._where = where
        self._made: set[str] = set()

    def make(self, request: Request) -> None:
        """Let the client send the files of this request."""
        if request.files is not None:
            os.makedirs(self._path(request.files["place"]), exist_ok=True)
            self._made.add(request.files["place"])

    def keep_only(self, requests: Collection[Request]) -> None:
        """Remove the folders that none of these need."""
        if self._made:
            needed = {request.files["place"] for request in requests if request.files is not None}
            for place in self._made - needed:
                self._remove(place)

    def clear_up(self, request: Request) -> None:
        """This one has ended: what only it needed goes."""
        files: dict[str, Any] | None = request.files
        if files is None:
            return
        if files["own"] is None:
            self._remove(files["place"])
            return
        for number in files["own"]:
            path = os.path.join(self._path(files["place"]), ARGUMENT)
            for each in (f"{path}.{number}", f"{path}.{number}.part"):
                with contextlib.suppress(OSError):
                    os.unlink(each)
            shutil.rmtree(f"{path}s/{number}", ignore_errors=True)

    def _path(self, place: str) -> str:
        return os.path.join(self._where, folder_of(place))

    def _remove(self, place: str) -> None:
        """First its name: a program that is about to write into it finds it no more."""
        self._made.discard(place)
        path = self._path(place)
        with contextlib.suppress(OSError):  # the function itself has removed it
            os.rename(path, f"{path}.gone")
        shutil.rmtree(f"{path}.gone", ignore_errors=True)


def returned_by(request: Request, where: str) -> list[str]:
    """The paths of the files that this request has left: in what it returned, or in an attempt that failed."""
    if request.stay is None:
        return list(_beside(request.path(_body(None))))
    if not any(".file." in name for name in os.listdir(where)):  # of a thousand items most have none
        return []
    return [path for index, _ in request.items() for path in _beside(request.path(_body(index)))]


def _beside(body: str) -> Iterator[str]:
    number = 0
    while os.path.lexists(f"{body}.file.{number}"):
        yield f"{body}.file.{number}"
        number += 1
