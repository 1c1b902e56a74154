"""The files of the caller's packages: which of them travel, what is said of those that do not, and their contents."""

from __future__ import annotations

import enum
import importlib.machinery
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

from kubefunc.errors import SerializationError
from kubefunc.packing.ignored import IGNORE_FILE, Rules, is_key_like, read_rules
from kubefunc.packing.modules import Unit
from kubefunc.sizes import size_text

LARGE: Final = 5 * 10**6
"""Bytes of project code from which on its largest files are named."""

_SKIPPED_DIRECTORIES: Final = frozenset({"__pycache__", "node_modules"})
_NAMED: Final = 5  # so many files are named in a message
_CODE_SUFFIXES: Final = tuple(importlib.machinery.all_suffixes())
_LOOKS: Final = 3  # so often files are listed anew when a module vanishes between being listed and being read


class ProjectFile(NamedTuple):
    """One file that travels; its tuple tells whether the file has changed."""

    name: str
    path: str
    size: int
    mtime_ns: int
    executable: bool

    @property
    def is_code(self) -> bool:
        """Whether Python imports it."""
        return self.name.endswith(_CODE_SUFFIXES)


class Reason(enum.Enum):
    """Why a file or directory does not travel."""

    KEY = "key"
    LINK = "link"
    UNREADABLE = "unreadable"
    HIDDEN = "hidden"
    CACHE = "cache"
    ENVIRONMENT = "environment"
    IGNORED = "ignored"


TOLD: Final = frozenset({Reason.KEY, Reason.LINK, Reason.UNREADABLE})
"""Reasons that nobody has asked for: the person is told without asking."""


class LeftOut(NamedTuple):
    """A file or directory that stays on this machine.

    Attributes:
        path: where it is.
        reason: why.
        project: the directory of its project.
        detail: where a link leads, what the system says, or the line of the ignore file.
    """

    path: str
    reason: Reason
    project: str = ""
    detail: str = ""


class Note(NamedTuple):
    """What a person is told, once for each ``about``."""

    about: str
    text: str


@dataclass(frozen=True)
class Listing:
    """The files that travel, by their names in the archive, and those that were left out."""

    files: tuple[ProjectFile, ...]
    left_out: tuple[LeftOut, ...]


class _Vanished(Exception):
    """A module was listed, and is not there any more."""


def list_files(units: Iterable[Unit], reasons: frozenset[Reason] = TOLD) -> Listing:
    """All files of the units; of two with the same name the first one counts.

    Args:
        units: packages and modules.
        reasons: what is left out for others of them is not listed.

    Raises:
        SerializationError: a module cannot be read.
    """
    return merged((unit, Listing(*_files_of(unit, reasons))) for unit in units)


def merged(listings: Iterable[tuple[Unit, Listing]]) -> Listing:
    """The listing of several units, from those of each."""
    found: dict[str, ProjectFile] = {}
    left_out: list[LeftOut] = []
    for unit, listing in listings:
        for file in listing.files:
            if unit.file or file.name not in found:
                found[file.name] = file
        left_out += listing.left_out
    return Listing(tuple(found[name] for name in sorted(found)), tuple(sorted(left_out, key=lambda each: each.path)))


def _files_of(unit: Unit, reasons: frozenset[Reason]) -> tuple[tuple[ProjectFile, ...], tuple[LeftOut, ...]]:
    base = unit.name.replace(".", "/")
    if unit.file:
        module = _module(base, unit.file)
        return () if module is None else (module,), ()
    found: list[ProjectFile] = []
    left_out: list[LeftOut] = []
    for directory in unit.directories:
        for each in _tree(base, directory):
            if isinstance(each, ProjectFile):
                found.append(each)
            elif each.reason in reasons:
                left_out.append(each)
    return tuple(found), tuple(left_out)


def _module(base: str, path: str) -> ProjectFile | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:  # deleted after it was imported
        return None
    return _file(base + _suffix(path), path, status) if stat.S_ISREG(status.st_mode) else None


def _file(name: str, path: str, status: os.stat_result) -> ProjectFile:
    return ProjectFile(name, path, status.st_size, status.st_mtime_ns, bool(status.st_mode & stat.S_IXUSR))


def _suffix(file: str) -> str:
    """``.py``, or all of ``.cpython-311-x86_64-linux-gnu.so``."""
    suffixes = (end for end in _CODE_SUFFIXES if file.endswith(end))
    return max(suffixes, key=len, default=os.path.splitext(file)[1])


def _tree(base: str, directory: str) -> Iterator[ProjectFile | LeftOut]:
    try:
        rules = read_rules(directory)
    except (OSError, UnicodeDecodeError) as error:
        raise SerializationError(f"cannot read the {IGNORE_FILE} of {directory}: {error}") from error
    pending = [("", directory)]
    visited: set[str] = set()
    while pending:
        below, directory = pending.pop()
        real = os.path.realpath(directory)
        if real in visited:  # links can go round in circles
            continue
        visited.add(real)
        try:
            entries = _entries(directory)
        except OSError as error:
            yield LeftOut(directory, Reason.UNREADABLE, detail=error.strerror or str(error))
            continue
        for entry in entries:
            try:
                found = _entry(base, f"{below}{entry.name}", entry, rules)
            except FileNotFoundError:  # as if it had never been there
                continue
            except OSError as error:
                found = _unreadable(entry.path, error)
            if isinstance(found, str):
                pending.append((f"{found}/", entry.path))
            elif found is not None:
                yield found


def _entry(base: str, path: str, entry: os.DirEntry[str], rules: Rules) -> ProjectFile | LeftOut | str | None:
    """The file, why it is left out, the path of a directory to go into, or None for what stays here in silence."""
    is_directory = entry.is_dir()
    if not is_directory and not entry.is_file():  # a socket, or a broken link
        return None
    said = rules.decides(path, is_directory=is_directory)
    if said is not None and not said.negated:
        return LeftOut(entry.path, Reason.IGNORED, rules.project, said.where)
    if said is None and (stays := _stays(entry, rules, is_directory=is_directory)) is not None:
        return stays
    return path if is_directory else _file(f"{base}/{path}", entry.path, entry.stat())


def _stays(entry: os.DirEntry[str], rules: Rules, *, is_directory: bool) -> LeftOut | None:
    """Why an entry should not travel unasked. Code mostly may: who imports it here wants it there."""
    skipped = _skipped(entry, is_directory=is_directory)
    if skipped is not None:
        return LeftOut(entry.path, skipped, rules.project)
    if _is_code(entry, is_directory=is_directory):
        return None
    if entry.is_symlink() and not rules.contains(target := os.path.realpath(entry.path)):
        return LeftOut(entry.path, Reason.LINK, rules.project, target)
    if not is_directory and is_key_like(entry.name):
        return LeftOut(entry.path, Reason.KEY, rules.project)
    return None


def _is_code(entry: os.DirEntry[str], *, is_directory: bool) -> bool:
    if not is_directory:
        return entry.name.endswith(_CODE_SUFFIXES)
    return entry.is_symlink() and os.path.isfile(os.path.join(entry.path, "__init__.py"))


def _entries(directory: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return list(entries)
    except FileNotFoundError:  # the package was deleted after it was imported
        return []


def _skipped(entry: os.DirEntry[str], *, is_directory: bool) -> Reason | None:
    if entry.name.startswith("."):
        return Reason.HIDDEN
    if not is_directory:
        return None
    if entry.name in _SKIPPED_DIRECTORIES:
        return Reason.CACHE
    return Reason.ENVIRONMENT if os.path.exists(os.path.join(entry.path, "pyvenv.cfg")) else None


def _unreadable(path: str, error: OSError) -> LeftOut:
    """A data file is left out.

    Raises:
        SerializationError: it is a module.
    """
    if path.endswith(_CODE_SUFFIXES):
        raise SerializationError(
            f"cannot read the project code that the function needs: {path} ({error.strerror or error}). "
            f"Make the file readable, move it out of the package, or name it in {IGNORE_FILE}."
        ) from error
    return LeftOut(path, Reason.UNREADABLE, detail=error.strerror or str(error))


# --- reading and packing


Read: TypeAlias = Callable[[str], "bytes | None"]
ReadFiles: TypeAlias = Sequence[tuple[str, bool, bytes]]
"""Names in the archive, whether each is executable, and contents."""


def read_file(path: str) -> bytes | None:
    """The file's content, or None when it has vanished since it was listed, as temporary files do."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def read_files(units: Sequence[Unit], listing: Listing, read: Read = read_file) -> tuple[ReadFiles, Listing]:
    """The content of these files, and what was listed for it.

    A data file that has vanished since is left out, and named; where a module has vanished, all is listed and read
    anew.

    Args:
        units: packages and modules.
        listing: their files.
        read: gives the content of a file, by its path, as it was when it was listed, or later.

    Raises:
        SerializationError: a module cannot be read.
    """
    missing = ""
    for _ in range(_LOOKS):
        try:
            return _read(listing, read)
        except _Vanished as vanished:
            missing = str(vanished)
            listing, read = list_files(units), read_file
    raise SerializationError(
        f"cannot read the project code that the function needs: {missing} vanished while it was packed, "
        f"{_LOOKS} times. Call again when nothing rewrites it, or name it in {IGNORE_FILE}."
    )


def _read(listing: Listing, read: Read) -> tuple[ReadFiles, Listing]:
    contents: list[tuple[str, bool, bytes]] = []
    left_out = list(listing.left_out)
    for file in listing.files:
        try:
            content = read(file.path)
        except OSError as error:
            left_out.append(_unreadable(file.path, error))
            continue
        if content is not None:
            contents.append((file.name, file.executable, content))
        elif file.is_code:
            raise _Vanished(file.path)
        else:
            left_out.append(LeftOut(file.path, Reason.UNREADABLE, detail="it vanished while it was packed"))
    return contents, Listing(listing.files, tuple(left_out))


# --- what people are told


def check_size(files: Sequence[ProjectFile], limit: int) -> None:
    """Refuse what is too large to travel with each call.

    Raises:
        SerializationError: with the largest files.
    """
    total = sum(file.size for file in files)
    if total <= limit:
        return
    raise SerializationError(
        f"the project code that the function needs has {size_text(total)}, "
        f"and at most {size_text(limit)} can be sent with a call. "
        f"The largest of its {len(files)} files:{_largest(files)}\n"
        f"Move data out of the package, or name it in {IGNORE_FILE}, and pass it as an argument or mount it as a "
        "volume; or install the package (not as an editable install) both here and in the image: installed packages "
        "are not sent."
    )


def notes_on(units: Sequence[Unit], listing: Listing) -> tuple[Note, ...]:
    """What the person should know of an archive: what stays here, and that it is large."""
    notes = [*_notes_on_keys(listing), *_notes_on_links(listing), *_notes_on_unreadable(listing)]
    total = sum(file.size for file in listing.files)
    if total >= LARGE:
        names = ", ".join(sorted({unit.name.partition(".")[0] for unit in units}))
        notes.append(
            Note(
                f"size of {names}",
                f"{size_text(total)} of project code are sent with each call ({names}). The largest of its "
                f"{len(listing.files)} files:{_largest(listing.files)}\n"
                f"Name what the function does not need in {IGNORE_FILE}, as in .gitignore, to leave it out.",
            )
        )
    return tuple(notes)


def _notes_on_keys(listing: Listing) -> Iterator[Note]:
    keys = [each for each in listing.left_out if each.reason is Reason.KEY]
    if not keys:
        return
    lines = _listed([each.path for each in keys])
    name = os.path.basename(keys[0].path)
    yield Note(
        f"keys {[each.path for each in keys]}",
        f"files whose names look like keys or passwords are not sent:{lines}\n"
        f"To hand a secret to the function use env={{'NAME': SecretKey(...)}} or an argument. To send such a file all "
        f"the same, write !{name} into {os.path.join(keys[0].project, IGNORE_FILE)}.",
    )


def _notes_on_links(listing: Listing) -> Iterator[Note]:
    links = [each for each in listing.left_out if each.reason is Reason.LINK]
    if not links:
        return
    lines = _listed([f"{each.path} -> {each.detail}" for each in links])
    name = os.path.basename(links[0].path)
    yield Note(
        f"links {[each.path for each in links]}",
        f"links to hidden files, or to files outside of {links[0].project}, are not followed. Not sent:{lines}\n"
        f"To send one anyway, write !{name} into {os.path.join(links[0].project, IGNORE_FILE)}.",
    )


def _notes_on_unreadable(listing: Listing) -> Iterator[Note]:
    for each in listing.left_out:
        if each.reason is Reason.UNREADABLE:
            yield Note(f"unreadable {each.path}", f"{each.path} is not sent: {each.detail}.")


def _largest(files: Sequence[ProjectFile]) -> str:
    largest = sorted(files, key=lambda file: file.size, reverse=True)[:_NAMED]
    return _listed([f"{size_text(file.size)}  {file.path}" for file in largest])


def _listed(lines: Sequence[str]) -> str:
    more = f"\n  and {len(lines) - _NAMED} more" if len(lines) > _NAMED else ""
    return "".join(f"\n  {line}" for line in lines[:_NAMED]) + more
