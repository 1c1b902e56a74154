"""Which of the caller's modules travel with a call, and the archive that they travel in.

The rule, in full:

- The standard library, everything below a ``site-packages`` or ``dist-packages`` directory, kubefunc and
  cloudpickle do **not** travel: the image has them, or the call fails with an error that names the module.
- Every other module is the caller's own and travels: src and flat layouts, modules beside a script, editable
  installs (a ``.pth`` file, a link or an import hook), namespace packages, modules loaded from a bare file.
- A regular package travels whole from its topmost ``__init__``, with its tests, data files and compiled
  extensions (which fit a Pod of the caller's own platform only), but without ``__pycache__``,
  ``node_modules``, virtual environments and names that begin with a dot (no ``.git`` or ``.env`` leaks).
  A single-file module travels alone. Of a namespace package only the parts that are needed travel.
- A module that was itself loaded from a zip has no files and stays behind.
- The start is what the pickle refers to; import statements in the source of what travels (also those inside
  functions, and ``import_module("constant")``) bring in the rest. Nothing is imported or run to find out.

What travels is what is on disk at the time of the call, not what was there when the module was imported.
The archive is deterministic: the same files give the same bytes. Extracted into a directory on ``sys.path``
it works, whatever number of directories the modules came from.
"""

from __future__ import annotations

import ast
import dis
import functools
import importlib.machinery
import os
import pkgutil
import re
import stat
import sys
import sysconfig
import threading
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from kubefunc.errors import SerializationError
from kubefunc.runner.protocol.wire import join_files

MAX_CODE = 50 * 2**20
"""The most that may travel, in bytes before compression."""

_NEVER = frozenset({"kubefunc", "cloudpickle", "__main__", "__mp_main__"})
_INSTALLED_PARTS = frozenset({"site-packages", "dist-packages"})
_SKIPPED_DIRECTORIES = frozenset({"__pycache__", "node_modules"})
_ENTRIES_KEPT = 16
# An escape that Python does not know. Parsing it warns, and fails under ``-W error``, though the code runs.
_ODD_ESCAPE = re.compile(rb"(\\[\r\n\\'\"abfnrtvxuUN0-7])|\\")


@dataclass(frozen=True)
class Unit:
    """What travels as one piece: a regular package (its directories), or a module (its one file)."""

    name: str
    directories: tuple[str, ...] = ()
    file: str = ""

    @property
    def place(self) -> str:
        """Where the unit was found."""
        return self.file or self.directories[0]


@dataclass(frozen=True)
class CodeArchive:
    """Project code as ``wire.join_files`` packs it (empty bytes when nothing travels), and the names of its units."""

    data: bytes
    modules: tuple[str, ...]


class _File(NamedTuple):
    """One file that travels; its tuple tells whether the file has changed."""

    name: str
    path: str
    size: int
    mtime_ns: int
    executable: bool


class _Entry(NamedTuple):
    """A finished archive, and all that has to be unchanged for it to be used again."""

    watched: tuple[tuple[str, int], ...]
    units: tuple[Unit, ...]
    files: tuple[_File, ...]
    archive: CodeArchive


class _Place(NamedTuple):
    """Where the import system has a module, or would have it: its file and a package's directories."""

    file: str | None
    directories: tuple[str, ...] | None


class ProjectCode:
    """Collects project code, and keeps finished archives for as long as the files behind them stay the same.

    Args:
        wanted: which of the caller's own units travel; all of them, or those that :func:`is_hidden` picks.
        limit: the most that may travel, in bytes before compression.
    """

    def __init__(self, wanted: Callable[[Unit], bool] | None = None, limit: int = MAX_CODE) -> None:
        self._wanted = wanted
        self._limit = limit
        self._lock = threading.Lock()
        self._entries: dict[frozenset[Unit], _Entry] = {}
        self._imports: dict[str, tuple[_File, frozenset[str]]] = {}

    def collect(self, names: Iterable[str]) -> CodeArchive:
        """The code behind these module names and all project code that it imports.

        When nothing has changed since the last time this costs one ``stat`` for each file.

        Raises:
            SerializationError: the code is larger than the limit, or cannot be read.
        """
        with self._lock:
            seeds = frozenset(self._units(names))
            if not seeds:
                return CodeArchive(b"", ())
            try:
                return self._archive(seeds)
            except OSError as error:
                raise SerializationError(
                    f"cannot read the project code that the function needs: {error}. "
                    "Make the file readable, or move it out of the package."
                ) from error

    def _archive(self, seeds: frozenset[Unit]) -> CodeArchive:
        entry = self._entries.pop(seeds, None)
        watched = _watched()
        if entry is None or entry.watched != watched or _files(entry.units) != entry.files:
            entry = self._fresh(seeds, watched, entry)
        self._entries[seeds] = entry  # the most recently used stands last
        if len(self._entries) > _ENTRIES_KEPT:
            del self._entries[next(iter(self._entries))]
        return entry.archive

    def _fresh(self, seeds: frozenset[Unit], watched: tuple[tuple[str, int], ...], old: _Entry | None) -> _Entry:
        units = self._close(seeds)
        files = _files(units)
        if old is not None and old.units == units and old.files == files:
            return old._replace(watched=watched)
        _check_size(files, self._limit)
        archive = CodeArchive(_packed(files), tuple(unit.name for unit in units))
        return _Entry(watched, units, files, archive)

    def _close(self, seeds: frozenset[Unit]) -> tuple[Unit, ...]:
        """The seeds and every unit that their import statements lead to."""
        found: dict[str, Unit] = {}
        pending = list(seeds)
        resolved: set[str] = set()
        while pending:
            unit = pending.pop()
            if unit.name in found:
                continue
            found[unit.name] = unit
            files = _files((unit,))
            _check_size(files, self._limit)  # before hours are spent on parsing a home directory
            names = {name for file in files for name in self._imported_by(file)} - resolved
            resolved |= names
            pending.extend(self._units(names))
        return tuple(found[name] for name in sorted(found))

    def _imported_by(self, file: _File) -> frozenset[str]:
        if not file.name.endswith(".py"):
            return frozenset()
        known = self._imports.get(file.name)
        if known is not None and known[0] == file:
            return known[1]
        source = _read(file.path)
        names = frozenset[str]() if source is None else imports_in_source(source, file.name)
        self._imports[file.name] = (file, names)
        return names

    def _units(self, names: Iterable[str]) -> Iterator[Unit]:
        for name in names:
            unit = unit_of(name)
            if unit is not None and (self._wanted is None or self._wanted(unit)):
                yield unit


def unit_of(name: str) -> Unit | None:
    """The unit of project code that the module belongs to, or None when the module does not travel.

    >>> unit_of("json.decoder") is None
    True
    """
    top = name.partition(".")[0]
    if top in _NEVER or (top in sys.stdlib_module_names and top not in sys.modules):
        return None
    search: tuple[str, ...] | None = None
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        prefix = ".".join(parts[:end])
        place = _loaded(prefix) or _findable(prefix, search)
        if place is not None and place.file is not None:
            return _unit(prefix, place.file, place.directories)
        # Go on inside a namespace package; also inside what nobody can find, as test runners load
        # tests/unit/test_it.py under the name tests.unit.test_it without any package of that name.
        search = (place and place.directories) or ()
    return None


def is_hidden(unit: Unit) -> bool:
    """Whether another interpreter with the same ``sys.path`` would not find the unit where it is here.

    True for what a test runner or ``spec_from_file_location`` has loaded from a bare file.
    """
    search: tuple[str, ...] | None = None
    parts = unit.name.split(".")
    for end in range(1, len(parts)):
        place = _findable(".".join(parts[:end]), search)
        if place is None or place.directories is None:
            return True
        search = place.directories
    place = _findable(unit.name, search)
    if place is None or place.file is None:
        return True
    return not _same_file(_unit_place(place.file), unit.place)


def has_source(name: str) -> bool:
    """Whether the loaded module came from something that another process can import too.

    False for a module that was made in memory, and for ``__main__``.
    """
    if name in ("__main__", "__mp_main__"):
        return False
    if name.partition(".")[0] in sys.stdlib_module_names:
        return True
    parts = name.split(".")
    # Any parent will do: importing a compiled package may create its submodules in memory.
    prefixes = (".".join(parts[:end]) for end in range(1, len(parts) + 1))
    return any(_loaded(prefix) is not None for prefix in prefixes)


def imports_in_source(source: bytes, file: str) -> frozenset[str]:
    """The absolute names of all modules that a source file may import; for ``from a import b`` also ``a.b``.

    Args:
        source: the file's content.
        file: its name below ``sys.path``, such as ``app/core/train.py``: what relative imports refer to.

    >>> sorted(imports_in_source(b"import os\\nfrom . import b\\nfrom ..c import d", "app/core/train.py"))
    ['app.c', 'app.c.d', 'app.core', 'app.core.b', 'os']
    """
    try:
        tree = ast.parse(_ODD_ESCAPE.sub(_known_escape, source))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return frozenset()  # what does not parse cannot be imported either: a template, or Python 2
    package = os.path.dirname(file).replace("/", ".")
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.update(_from_import(node.module or "", node.level, [a.name for a in node.names], package))
        elif isinstance(node, ast.Call):
            names.update(_import_call(node))
    return frozenset(names)


def imports_in_code(code: types.CodeType, package: str) -> frozenset[str]:
    """The absolute names of all modules that a function's code, or a function inside it, may import.

    >>> def f():
    ...     from json import decoder
    >>> sorted(imports_in_code(f.__code__, ""))
    ['json', 'json.decoder']
    """
    names: set[str] = set()
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            names |= imports_in_code(inner, package)
    if dis.opmap["IMPORT_NAME"] not in code.co_code[::2]:
        return frozenset(names)
    # The compiler pushes level and name list right before IMPORT_NAME.
    recent: list[object] = [0, None]
    for instruction in dis.get_instructions(code):
        if instruction.opname == "IMPORT_NAME":
            level, members = recent
            names.update(
                _from_import(
                    str(instruction.argval),
                    level if isinstance(level, int) else 0,
                    members if isinstance(members, tuple) else (),
                    package,
                )
            )
        elif instruction.opname.startswith("LOAD_"):
            recent = [recent[1], instruction.argval]
    return frozenset(names)


def _from_import(module: str, level: int, members: Sequence[str], package: str) -> Iterator[str]:
    if level:
        parts = package.split(".")
        if level > len(parts):
            return
        parts = parts[: len(parts) - level + 1]
        module = ".".join([*parts, module] if module else parts)
    if not module:
        return
    yield module
    for member in members:
        if member != "*":
            yield f"{module}.{member}"


def _import_call(node: ast.Call) -> Iterator[str]:
    """The module in ``importlib.import_module("x")`` and ``__import__("x")``."""
    called = node.func
    name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
    if name not in ("import_module", "__import__") or not node.args:
        return
    value = node.args[0].value if isinstance(node.args[0], ast.Constant) else None
    if isinstance(value, str) and value and not value.startswith("."):
        yield value


def _known_escape(match: re.Match[bytes]) -> bytes:
    return match.group(1) or b"/"


# --- where modules are ---


def _loaded(name: str) -> _Place | None:
    """Where the module that is already imported under this name came from; None if it came from nowhere."""
    module = sys.modules.get(name)
    if not isinstance(module, types.ModuleType):
        return None
    # Not getattr: it would make a lazily loaded module load itself.
    namespace = object.__getattribute__(module, "__dict__")
    file, path = namespace.get("__file__"), namespace.get("__path__")
    if isinstance(file, str):
        return _Place(os.path.abspath(file), None if path is None else tuple(path))
    return None if path is None else _Place(None, tuple(path))


def _findable(name: str, search: Sequence[str] | None) -> _Place | None:
    """Where the import system would find the module; finds, but never imports or executes.

    Asks each directory's finder, not PathFinder: in a namespace package that one wants the parent imported.
    """
    portions: list[str] = []
    for entry in list(sys.path) if search is None else search:
        finder = _importer(entry)
        spec = None if finder is None else finder.find_spec(name)
        if spec is not None and spec.loader is not None:
            return _place(spec)
        if spec is not None:
            portions += spec.submodule_search_locations or ()
    if portions:
        return _Place(None, tuple(portions))
    hooked = _hooked(name, search)
    return None if hooked is None else _place(hooked)


def _importer(entry: str) -> Any:
    """The finder for an entry of sys.path; none for a current directory that was removed, as for Python itself."""
    try:
        return pkgutil.get_importer(entry or os.getcwd())
    except FileNotFoundError:
        return None


def _place(spec: importlib.machinery.ModuleSpec) -> _Place:
    file = os.path.abspath(spec.origin) if spec.has_location and spec.origin else None
    places = spec.submodule_search_locations
    return _Place(file, None if places is None else tuple(places))


def _hooked(name: str, search: Sequence[str] | None) -> importlib.machinery.ModuleSpec | None:
    """Ask the import hooks: modern editable installs are such a hook."""
    for finder in sys.meta_path:
        if finder is importlib.machinery.PathFinder or not hasattr(finder, "find_spec"):
            continue
        if type(finder).__module__ == "_distutils_hack":  # asking it for distutils imports setuptools
            continue
        try:
            spec = finder.find_spec(name, search)
        except ImportError:  # a hook's way to forbid an import
            return None
        if spec is not None:
            return spec
    return None


def _unit(name: str, file: str, directories: tuple[str, ...] | None) -> Unit | None:
    directory = os.path.dirname(file)
    if _is_installed(directory) or not os.path.isfile(file):
        return None
    if directories is None or not os.path.basename(file).startswith("__init__."):
        return Unit(name, file=file)
    others = (entry for entry in directories if not _same_file(entry, directory) and not _is_installed(entry))
    return Unit(name, directories=(directory, *others))


def _unit_place(file: str) -> str:
    return os.path.dirname(file) if os.path.basename(file).startswith("__init__.") else file


def _same_file(one: str, other: str) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def _is_installed(directory: str) -> bool:
    """Whether modules in this directory are of the standard library or installed as packages are.

    Links are followed for directories only: an editable install may be a link from site-packages into a
    project, whereas uv and conda may link each single file of an installed package into a cache.
    """
    real = os.path.realpath(directory)
    if not _INSTALLED_PARTS.isdisjoint(real.split(os.sep)):
        return True
    return any(real == root or real.startswith(root + os.sep) for root in _installed_roots())


@functools.lru_cache(maxsize=1)
def _installed_roots() -> tuple[str, ...]:
    """The directories of the standard library and of installed packages: fixed while an interpreter lives."""
    paths = sysconfig.get_paths()
    roots = {paths[kind] for kind in ("stdlib", "platstdlib", "purelib", "platlib")}
    roots |= {os.path.dirname(os.__file__), os.path.join(sys.base_prefix, "DLLs")}
    return tuple(sorted(os.path.realpath(root) for root in roots))


def _watched() -> tuple[tuple[str, int], ...]:
    """``sys.path`` with the time of each directory of the caller's own: a new module changes the answer."""
    return tuple((str(entry), _changed(str(entry) or os.curdir)) for entry in list(sys.path))


def _changed(directory: str) -> int:
    if not _INSTALLED_PARTS.isdisjoint(directory.split(os.sep)):
        return 0
    try:
        return os.stat(directory).st_mtime_ns
    except OSError:  # sys.path may name what does not exist
        return 0


# --- files and their archive ---


def _files(units: Iterable[Unit]) -> tuple[_File, ...]:
    """All files of the units, by their names in the archive; of two with the same name the first one counts."""
    found: dict[str, _File] = {}
    for unit in units:
        base = unit.name.replace(".", "/")
        if unit.file and os.path.isfile(unit.file):
            name = base + _suffix(unit.file)
            found[name] = _file(name, unit.file, os.stat(unit.file))
        for directory in unit.directories:
            for file in _tree(base, directory):
                found.setdefault(file.name, file)
    return tuple(found[name] for name in sorted(found))


def _file(name: str, path: str, status: os.stat_result) -> _File:
    return _File(name, path, status.st_size, status.st_mtime_ns, bool(status.st_mode & stat.S_IXUSR))


def _suffix(file: str) -> str:
    """``.py``, or all of ``.cpython-311-x86_64-linux-gnu.so``."""
    suffixes = (end for end in importlib.machinery.all_suffixes() if file.endswith(end))
    return max(suffixes, key=len, default=os.path.splitext(file)[1])


def _tree(base: str, directory: str) -> Iterator[_File]:
    pending = [(base, directory)]
    visited: set[str] = set()
    while pending:
        base, directory = pending.pop()
        real = os.path.realpath(directory)
        if real in visited:  # links can go round in circles
            continue
        visited.add(real)
        for entry in _entries(directory):
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                if not _is_skipped(entry):
                    pending.append((f"{base}/{entry.name}", entry.path))
            elif entry.is_file():  # neither a socket nor a broken link
                yield _file(f"{base}/{entry.name}", entry.path, entry.stat())


def _entries(directory: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return list(entries)
    except FileNotFoundError:  # the package was deleted after it was imported
        return []


def _is_skipped(directory: os.DirEntry[str]) -> bool:
    if directory.name in _SKIPPED_DIRECTORIES:
        return True
    return os.path.exists(os.path.join(directory.path, "pyvenv.cfg"))


def _check_size(files: Sequence[_File], limit: int) -> None:
    total = sum(file.size for file in files)
    if total <= limit:
        return
    largest = sorted(files, key=lambda file: file.size, reverse=True)[:5]
    listed = "".join(f"\n  {_megabytes(file.size)}  {file.path}" for file in largest)
    raise SerializationError(
        f"the project code that the function needs has {_megabytes(total)}, "
        f"and at most {_megabytes(limit)} travel with a call. "
        f"The largest of its {len(files)} files:{listed}\n"
        "Move data out of the package and pass it as an argument or mount it as a volume; or install the "
        "package (not as an editable install) both here and in the image: installed packages do not travel."
    )


def _megabytes(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"


def _packed(files: Sequence[_File]) -> bytes:
    contents = ((file, _read(file.path)) for file in files)
    return join_files((file.name, file.executable, content) for file, content in contents if content is not None)


def _read(path: str) -> bytes | None:
    """The file's content, or None when it has vanished since it was listed, as temporary files do."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None
