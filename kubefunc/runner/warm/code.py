"""Project code as warm workers keep it: a table of its files, which names it, and patches from one to another.

The table is what client and worker agree on. Whether the files came as one archive or as a patch to other code, they
have the same table, so the code has the same name.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib

from kubefunc.runner.protocol import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    File = tuple[bool, bytes]  # whether it is executable, and its content
    Entry = tuple[bool, int, str]  # whether it is executable, its size, and the sha256 of its content
    Table = dict[str, Entry]

HEAD = ""  # the path under which a patch says what is removed and copied; no file has it
NOT_CODE = (zlib.error, struct.error, ValueError, TypeError, KeyError, RecursionError)
"""What reading bytes that are neither an archive nor a patch may raise."""


def table_of(files: Mapping[str, File]) -> Table:
    """The table of these files, by their paths.

    >>> table_of({"a.py": (False, b"")})["a.py"][:2]
    (False, 0)
    """
    return {
        path: (executable, len(content), hashlib.sha256(content).hexdigest())
        for path, (executable, content) in files.items()
    }


def encode_table(table: Table) -> bytes:
    """The bytes whose sha256 is the table's digest.

    >>> encode_table({"b": (True, 1, "22"), "a": (False, 0, "11")})
    b'[["a",false,0,"11"],["b",true,1,"22"]]'
    """
    return json.dumps([(path, *entry) for path, entry in sorted(table.items())], separators=(",", ":")).encode()


def decode_table(data: bytes) -> Table:
    """The table in these bytes. Raises one of ``NOT_CODE`` where they hold none."""
    return {
        str(path): (bool(executable), int(size), str(digest)) for path, executable, size, digest in json.loads(data)
    }


def size_of(table: Table) -> int:
    """Bytes of all files together."""
    return sum(size for _, size, _ in table.values())


def read_archive(data: bytes) -> dict[str, File]:
    """The files of an archive, by their paths. Raises one of ``NOT_CODE`` where it is none."""
    return {path: (bool(executable), content) for path, executable, content in wire.split_files(data)}


def check_paths(files: Mapping[str, File]) -> None:
    """Raise one of ``NOT_CODE`` where a path is none, or leads out of the code's directory."""
    for path in files:
        if not path or path.startswith("/") or ".." in path.split("/"):
            raise ValueError(f"not a path of project code: {path!r}")


def join_patch(base: Table, table: Table, files: Mapping[str, File]) -> bytes:
    """What makes the code of ``table`` out of that of ``base``: an archive of the files that ``base`` does not have.

    A file that was renamed, or only became executable, is copied there.

    Args:
        base: what the worker has.
        table: what it is to have.
        files: the files of ``table``.
    """
    paths = {digest: path for path, (_, _, digest) in base.items()}
    changed = {path: entry for path, entry in table.items() if base.get(path) != entry}
    head = {
        "removed": [path for path in base if path not in table],
        "copied": [(path, entry[0], paths[entry[2]]) for path, entry in changed.items() if entry[2] in paths],
    }
    added = [(path, *files[path]) for path, entry in changed.items() if entry[2] not in paths]
    return wire.join_files([(HEAD, False, json.dumps(head).encode()), *added])


def apply_patch(base: Mapping[str, File], patch: bytes) -> dict[str, File]:
    """The files that come of these files and a patch.

    >>> before = {"a.py": (False, b"a"), "b.py": (False, b"b")}
    >>> after = {"b.py": (False, b"new"), "c.py": (True, b"a")}
    >>> apply_patch(before, join_patch(table_of(before), table_of(after), after)) == after
    True

    Raises:
        one of ``NOT_CODE``: it is no patch of this.
    """
    added = read_archive(patch)
    head = json.loads(added.pop(HEAD)[1])
    removed = frozenset(head["removed"])
    files = {path: file for path, file in base.items() if path not in removed}
    files.update({path: (bool(executable), base[source][1]) for path, executable, source in head["copied"]})
    return {**files, **added}
