"""Where the files of a result are kept on this machine until they are saved."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from typing import Any

from kubefunc.runner.protocol.file import File

_LONGEST = 255  # bytes of a name


class Landing:
    """A temporary folder with the files of one outcome. It is removed when nothing refers to them any more."""

    def __init__(self) -> None:
        """Make the folder.

        Raises:
            OSError: it cannot be made.
        """
        self.folder = tempfile.mkdtemp(prefix="kubefunc-files-")
        self._remove = weakref.finalize(self, _removed, self.folder, os.getpid())

    @classmethod
    def of_record(cls, header: Mapping[str, Any] | None, body: str) -> Landing | None:
        """The files of an outcome of this machine; None where it has none.

        Args:
            header: of the outcome.
            body: what the paths of its files begin with.

        Raises:
            OSError: one of them cannot be moved.
        """
        if header is None or not header.get("files"):
            return None
        landing = cls()
        for number in range(len(header["files"])):
            shutil.move(f"{body}.file.{number}", landing.place(number))
        return landing

    def place(self, number: int) -> str:
        """Where the file with this number goes."""
        return os.path.join(self.folder, str(number))

    def locate(self, number: int, name: str) -> File:
        """The file with this number, under the name that it has in its pickle.

        Raises:
            FileNotFoundError: there is none with this number.
        """
        folder = os.path.join(self.folder, f"of-{number}")
        path = os.path.join(folder, safe_name(name))
        if not os.path.exists(path):
            os.makedirs(folder, exist_ok=True)
            os.rename(self.place(number), path)
        return File.received(path, self)

    def keep(self) -> None:
        """Remove the folder no sooner than this program ends."""
        if self._remove.detach() is not None:
            atexit.register(_removed, self.folder, os.getpid())


def safe_name(name: object) -> str:
    """A name for a file that cannot lead out of its folder: a function may have written anything there.

    >>> safe_name("model.bin"), safe_name("../../etc/passwd"), safe_name("..")
    ('model.bin', 'passwd', 'file')
    """
    last = str(name).replace("\\", "/").rpartition("/")[2].replace("\0", "")
    short = os.fsdecode(os.fsencode(last.encode("utf-8", "replace").decode())[-_LONGEST:])
    return short if short not in ("", ".", "..") else "file"


def _removed(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # in a fork, the folder is the parent's
        shutil.rmtree(folder, ignore_errors=True)
