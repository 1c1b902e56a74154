"""Where modules are, whose they are, and what they import. Nothing is imported or run to find out."""

from __future__ import annotations

import ast
import dis
import functools
import importlib.machinery
import os
import pkgutil
import re
import sys
import sysconfig
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from kubefunc.importable import Place, loaded, with_parents
from kubefunc.importable import has_source as has_source

_NEVER = frozenset({"kubefunc", "cloudpickle", "__main__", "__mp_main__"})
INSTALLED_PARTS = frozenset({"site-packages", "dist-packages"})
_BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")  # where statements have others
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


def unit_of(name: str) -> Unit | None:
    """The unit of project code that the module belongs to, or None when the module does not travel.

    >>> unit_of("json.decoder") is None
    True
    """
    return UnitFinder().find(name)


class UnitFinder:
    """Finds the units of many modules, and looks for each package once.

    Valid for as long as nothing is imported and no file moves: for one call.
    """

    def __init__(self) -> None:
        self._known: dict[str, Unit | None] = {}

    def find(self, name: str) -> Unit | None:
        """As :func:`unit_of`."""
        top = name.partition(".")[0]
        prefixes = [top] if top in self._known else with_parents(name)
        for prefix in prefixes:
            if prefix in self._known:
                return self._known[prefix]
        if top in _NEVER or top in sys.builtin_module_names:
            return None
        if top in sys.stdlib_module_names and top not in sys.modules:
            return None
        return self._search(prefixes)

    def _search(self, prefixes: Sequence[str]) -> Unit | None:
        search: tuple[str, ...] | None = None
        for prefix in prefixes:
            place = loaded(prefix) or _findable(prefix, search)
            if place is not None and place.file is not None:
                self._known[prefix] = _unit(prefix, place.file, place.directories)
                return self._known[prefix]
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


class ImportStatement(NamedTuple):
    """An import as it is written: the same wherever its file lies.

    Attributes:
        module: after ``import`` or ``from``, without the dots of a relative one.
        level: so many dots.
        members: what is taken from the module.
        line: where it stands.
    """

    module: str
    level: int
    members: tuple[str, ...]
    line: int

    def names(self, package: str) -> Iterator[str]:
        """The absolute names of all modules that it may import; for ``from a import b`` also ``a.b``."""
        return _from_import(self.module, self.level, self.members, package)


def package_of(file: str) -> str:
    """What relative imports in a file refer to, by its name below ``sys.path``.

    >>> package_of("app/core/train.py")
    'app.core'
    """
    return os.path.dirname(file).replace("/", ".")


def import_statements(tree: ast.Module, source: bytes) -> Iterator[ImportStatement]:
    """All of a file's imports, also those inside functions, and ``import_module("constant")``."""
    calls = b"import_module" in source or b"__import__" in source
    for node in ast.walk(tree) if calls else _statements(tree):
        yield from written_imports(node)
        if isinstance(node, ast.Call):
            yield from (ImportStatement(name, 0, (), node.lineno) for name in _import_call(node))


def written_imports(node: ast.AST) -> Iterator[ImportStatement]:
    """The imports that this statement is; none for most."""
    if isinstance(node, ast.Import):
        yield from (ImportStatement(alias.name, 0, (), node.lineno) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield ImportStatement(node.module or "", node.level, tuple(alias.name for alias in node.names), node.lineno)


def _statements(tree: ast.Module) -> Iterator[ast.AST]:
    """All statements, without the expressions in them, which are most of a tree: a project's files are read often."""
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        yield node
        for block in _BLOCKS:
            inner = getattr(node, block, None)
            if isinstance(inner, list):  # that of a lambda is an expression
                pending.extend(inner)


def parsed(source: bytes) -> ast.Module | None:
    """The syntax tree of a file; None for what cannot be imported either: a template, or Python 2.

    Raises RecursionError and MemoryError: another time it may be read.
    """
    try:
        return ast.parse(_ODD_ESCAPE.sub(_known_escape, source))
    except (SyntaxError, ValueError):
        return None


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
    module = resolved_import(module, level, package)
    if not module:
        return
    yield module
    for member in members:
        if member != "*":
            yield f"{module}.{member}"


def resolved_import(module: str, level: int, package: str) -> str:
    """The absolute name behind ``from ..module import x`` in a module of this package; empty if it leads nowhere.

    >>> resolved_import("core", 2, "app.models")
    'app.core'
    """
    if not level:
        return module
    parts = package.split(".")
    if level > len(parts):
        return ""
    parts = parts[: len(parts) - level + 1]
    return ".".join([*parts, module] if module else parts)


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


def search_path() -> list[str]:
    """``sys.path`` as Python reads it: it passes over what is not text, such as a ``pathlib.Path``."""
    return [entry for entry in cast("list[object]", sys.path) if isinstance(entry, str)]


def _findable(name: str, search: Sequence[str] | None) -> Place | None:
    """Where the import system would find the module; finds, but never imports or executes.

    Asks each directory's finder, not PathFinder: in a namespace package that one wants the parent imported.
    """
    portions: list[str] = []
    for entry in search_path() if search is None else search:
        spec = _asked(_importer(entry), name)
        if spec is not None and spec.loader is not None:
            return _place(spec)
        if spec is not None:
            portions += spec.submodule_search_locations or ()
    if portions:
        return Place(None, tuple(portions))
    hooked = _hooked(name, search)
    return None if hooked is None else _place(hooked)


def _importer(entry: str) -> Any:
    """The finder for an entry of sys.path; none for a current directory that was removed, as for Python itself."""
    try:
        return pkgutil.get_importer(entry or os.getcwd())
    except Exception:  # noqa: BLE001 - a path hook is anybody's code, and this only looks
        return None


def _asked(finder: Any, name: str, *search: Any) -> importlib.machinery.ModuleSpec | None:
    """What a finder says of the module; None if it raises: finders are anybody's code, and this only looks."""
    try:
        spec: importlib.machinery.ModuleSpec | None = finder.find_spec(name, *search)
    except Exception:  # noqa: BLE001 - as above; an ImportError is a hook's way to forbid an import
        return None
    return spec


def _place(spec: importlib.machinery.ModuleSpec) -> Place:
    file = os.path.abspath(spec.origin) if spec.has_location and spec.origin else None
    places = spec.submodule_search_locations
    return Place(file, None if places is None else tuple(places))


def _hooked(name: str, search: Sequence[str] | None) -> importlib.machinery.ModuleSpec | None:
    """Ask the import hooks: modern editable installs are such a hook."""
    for finder in sys.meta_path:
        if finder is importlib.machinery.PathFinder:
            continue
        if type(finder).__module__ == "_distutils_hack":  # asking it for distutils imports setuptools
            continue
        spec = _asked(finder, name, search)
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
    if not INSTALLED_PARTS.isdisjoint(real.split(os.sep)):
        return True
    return any(real == root or real.startswith(root + os.sep) for root in _installed_roots())


@functools.lru_cache(maxsize=64)
def is_installed_by_name(directory: str) -> bool:
    """The same, as far as the path itself says it: no link is followed."""
    if not INSTALLED_PARTS.isdisjoint(directory.split(os.sep)):
        return True
    return any(directory == root or directory.startswith(root + os.sep) for root in _installed_roots())


@functools.lru_cache(maxsize=1)
def _installed_roots() -> tuple[str, ...]:
    """The directories of the standard library and of installed packages: fixed while an interpreter lives."""
    paths = sysconfig.get_paths()
    roots = {paths[kind] for kind in ("stdlib", "platstdlib", "purelib", "platlib")}
    roots |= {os.path.dirname(os.__file__), os.path.join(sys.base_prefix, "DLLs")}
    return tuple(sorted(os.path.realpath(root) for root in roots))
