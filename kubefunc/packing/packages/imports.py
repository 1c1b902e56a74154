"""Which modules loading a function surely imports: what a Pod must have. Nothing is imported or run to find out.

Only statements that run in any case count: those of a module's own level, and those of the function's own body. What
stands in ``if``, ``try``, a loop or another function may never run.
"""

from __future__ import annotations

import ast
import functools
import inspect
import io
import linecache
import os
import pickle
import pickletools
import sys
import textwrap
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import CodeType
from typing import Any, NamedTuple

from kubefunc.packing.modules import (
    ImportStatement,
    import_statements,
    package_of,
    parsed,
    resolved_import,
    written_imports,
)

# What a stock image has beside the standard library: python:3.12 and later have lost setuptools and wheel.
_SETUPTOOLS = frozenset({"setuptools", "pkg_resources", "_distutils_hack", "wheel"})
_IN_STOCK_IMAGES = frozenset({"pip"}) | (_SETUPTOOLS if sys.version_info < (3, 12) else frozenset())
_OURS = frozenset({"kubefunc", "cloudpickle", "__main__", "__mp_main__"})


@dataclass(frozen=True)
class Need:
    """A module that the Pod must have, and who says so.

    Attributes:
        module: its full name.
        why: ``imported by train.py, line 3``.
    """

    module: str
    why: str

    @property
    def top(self) -> str:
        """The name of its topmost package."""
        return self.module.partition(".")[0]


class Import(NamedTuple):
    """One import statement: the module, names taken from it that may be modules too, and its line."""

    module: str
    members: tuple[str, ...]
    line: int


def is_foreign(module: str) -> bool:
    """Whether the module is of neither the standard library, kubefunc, nor a stock image.

    >>> is_foreign("numpy.linalg"), is_foreign("json.decoder")
    (True, False)
    """
    top = module.partition(".")[0]
    return bool(top) and top not in sys.stdlib_module_names and top not in _OURS and top not in _IN_STOCK_IMAGES


def sure_imports(body: Sequence[ast.stmt], package: str) -> Iterator[Import]:
    """The imports among these statements that run whenever the first of them does.

    Args:
        body: of a module or function.
        package: what relative imports refer to.
    """
    return (_resolved(each, package) for each in _sure_statements(body))


def _resolved(written: ImportStatement, package: str) -> Import:
    return Import(resolved_import(written.module, written.level, package), written.members, written.line)


def _sure_statements(body: Sequence[ast.stmt]) -> Iterator[ImportStatement]:
    for statement in body[: _end_of_imports(body)]:
        yield from written_imports(statement)
        if isinstance(statement, (ast.With, ast.AsyncWith)) and not _suppresses(statement):
            yield from _sure_statements(statement.body)
        if _may_leave(statement):
            return


def _end_of_imports(body: Sequence[ast.stmt]) -> int:
    """What follows the last import is not looked at: it is most of a file."""
    kinds = (ast.Import, ast.ImportFrom, ast.With, ast.AsyncWith)
    return next((end for end in range(len(body), 0, -1) if isinstance(body[end - 1], kinds)), 0)


class SourceImports(NamedTuple):
    """What a source file imports, as it is written there: it follows from the content alone.

    Attributes:
        sure: what runs whenever the file is loaded, in this order.
        others: what may run: inside functions, and on conditions.
    """

    sure: tuple[ImportStatement, ...] = ()
    others: tuple[ImportStatement, ...] = ()

    def names(self, package: str) -> frozenset[str]:
        """The absolute names of all modules that a file of this package may import."""
        return frozenset(name for each in (*self.sure, *self.others) for name in each.names(package))


def read_imports(source: bytes) -> SourceImports:
    """What a file of this content imports; nothing if it is not Python.

    >>> found = read_imports(b"import os\\nfrom . import b\\nfrom ..c import d")
    >>> sorted(found.names("app.core"))
    ['app.c', 'app.c.d', 'app.core', 'app.core.b', 'os']

    Raises RecursionError and MemoryError: another time it may be read.
    """
    tree = parsed(source) if b"import" in source else None
    if tree is None:
        return SourceImports()
    sure = dict.fromkeys(_sure_statements(tree.body))
    others = dict.fromkeys(each for each in import_statements(tree, source) if each not in sure)
    return SourceImports(tuple(sure), tuple(others))


def _suppresses(statement: ast.With | ast.AsyncWith) -> bool:
    """Whether it may pass over an ImportError: ``contextlib.suppress``, or anything else that is called so."""
    return any("suppress" in ast.dump(item.context_expr) or "raises" in ast.dump(item) for item in statement.items)


def _may_leave(statement: ast.stmt) -> bool:
    """Whether what follows may not run. A definition leaves nothing."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return False
    return any(isinstance(node, (ast.Return, ast.Raise, ast.Yield, ast.YieldFrom)) for node in ast.walk(statement))


class LoadGraph:
    """What importing the caller's own modules imports.

    Args:
        files: the names below ``sys.path``, such as ``app/train.py``, of all that travel.
        imports: what each source among them imports.
    """

    def __init__(self, files: Collection[str], imports: Mapping[str, SourceImports]) -> None:
        self._files = files
        self._imports = imports
        self._needs: dict[frozenset[str], Mapping[str, Need]] = {}
        self._reached: dict[frozenset[str], frozenset[str]] = {}

    def needs(self, modules: frozenset[str]) -> Mapping[str, Need]:
        """What importing these modules needs beside what travels, by topmost name."""
        if modules not in self._needs:
            self._needs[modules] = self._find(modules)
        return self._needs[modules]

    def _find(self, modules: frozenset[str]) -> dict[str, Need]:
        found: dict[str, Need] = {}
        pending = [part for module in sorted(modules) for part in _with_parents(module)]
        seen: set[str] = set()
        while pending:
            module = pending.pop()
            file = self._file_of(module)
            if file is None or file in seen:
                continue
            seen.add(file)
            package = package_of(file)
            for written in self._imports_of(file).sure:
                each = _resolved(written, package)
                named = [each.module, *(f"{each.module}.{member}" for member in each.members)]
                if self.travels(each.module):
                    pending += [part for name in named for part in _with_parents(name)]
                elif is_foreign(each.module):
                    need = Need(each.module, f"imported by {file}, line {each.line}")
                    found.setdefault(need.top, need)
        return found

    def reached(self, modules: Iterable[str]) -> frozenset[str]:
        """All modules that these may import, through those that travel: also inside functions, and on conditions."""
        seeds = frozenset(modules)
        if seeds not in self._reached:
            self._reached[seeds] = self._reach(seeds)
        return self._reached[seeds]

    def _reach(self, modules: frozenset[str]) -> frozenset[str]:
        found: set[str] = set()
        pending = [part for module in modules for part in _with_parents(module)]
        while pending:
            module = pending.pop()
            if module in found:
                continue
            found.add(module)
            file = self._file_of(module)
            if file is not None:
                names = self._imports_of(file).names(package_of(file))
                pending += [part for name in names for part in _with_parents(name)]
        return frozenset(found)

    def travels(self, module: str) -> bool:
        """Whether it is among the files, or in a package that is."""
        top = module.partition(".")[0]
        return any(name == f"{top}.py" or name.startswith((f"{top}/", f"{top}.")) for name in self._files)

    def _file_of(self, module: str) -> str | None:
        base = module.replace(".", "/")
        return next((name for name in (f"{base}/__init__.py", f"{base}.py") if name in self._files), None)

    def _imports_of(self, file: str) -> SourceImports:
        return self._imports.get(file, SourceImports())


def _with_parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)]


def _source_of(code: CodeType) -> tuple[list[str], int]:
    """As inspect.getsourcelines(), which first looks through all modules that are loaded: that takes 30 ms."""
    linecache.checkcache(code.co_filename)
    lines = linecache.getlines(code.co_filename)
    if not lines:  # of a module in an archive, perhaps
        return inspect.getsourcelines(code)
    return inspect.getblock(lines[code.co_firstlineno - 1 :]), code.co_firstlineno


@functools.lru_cache(maxsize=128)  # finding the source takes milliseconds
def needs_of_body(code: CodeType) -> tuple[Need, ...]:
    """What the body of a function surely imports when it runs; nothing without its source."""
    try:
        lines, first = _source_of(code)
        tree = parsed(textwrap.dedent("".join(lines)).encode())
    except (OSError, TypeError, SyntaxError, RecursionError, MemoryError):
        return ()
    statement = tree.body[0] if tree is not None and tree.body else None
    if not isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return ()
    name = os.path.basename(code.co_filename)
    return tuple(
        Need(each.module, f"imported by {name}, line {first + each.line - 1}")
        for each in sure_imports(statement.body, "")
        if is_foreign(each.module)
    )


# --- what unpickling imports


def globals_in(pickled: bytes) -> frozenset[str]:
    """The modules that unpickling imports: those of its references to functions and classes.

    >>> import collections, pickle
    >>> sorted(globals_in(pickle.dumps([collections.OrderedDict(), 1], 5)))
    ['collections']
    """
    looker = _Looker(io.BytesIO(pickled))
    try:
        looker.load()
    except Exception:  # noqa: BLE001 - it has what an _Anything cannot stand for, such as a class that travels by value
        return _globals_read_in(pickled)
    return frozenset(looker.found)


class _Anything:
    """Stands for whatever a pickle makes: nothing of it is imported or run."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __call__(self, *args: object, **kwargs: object) -> _Anything:
        return self

    def _take(self, *what: object) -> None:
        pass

    append = extend = add = __setitem__ = __setstate__ = _take


class _Looker(pickle.Unpickler):
    """Unpickles into nothing, and notes the modules on the way: many times as fast as to read the operations."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.found: set[str] = set()

    def find_class(self, module: str, name: str) -> Any:
        self.found.add(module)
        return self.found.add if name == _SUBIMPORT else _Anything


def _globals_read_in(pickled: bytes) -> frozenset[str]:
    found: set[str] = set()
    memo: dict[object, object] = {}
    pushed: list[object] = [None, None]  # the last two values, where they are texts or _IMPORT
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name == "MEMOIZE":
            memo[len(memo)] = pushed[1]
        elif opcode.name == "STACK_GLOBAL":
            module, name = pushed
            if isinstance(module, str):
                found.add(module)
            pushed = [None, _IMPORT if name == _SUBIMPORT else None]
        elif opcode.name not in ("FRAME", "PROTO"):
            value = memo.get(argument) if "GET" in opcode.name else argument if "UNICODE" in opcode.name else None
            if pushed[1] is _IMPORT and isinstance(value, str):
                found.add(value)
            pushed = [pushed[1], value]
    return frozenset(found)


_SUBIMPORT = "subimport"  # cloudpickle's function that imports the module whose name follows
_IMPORT = object()  # it


def needs_of(function: object, module: str | None, pickles: Iterable[bytes], graph: LoadGraph | None) -> list[Need]:
    """All that a Pod must have for a call, one for each topmost module.

    Args:
        function: what is called.
        module: the one that it is imported from, if it does not travel by value.
        pickles: what is unpickled there.
        graph: of the modules that travel.
    """
    named = frozenset({name for pickled in pickles for name in globals_in(pickled)} | ({module} if module else set()))
    inherent = {
        name.partition(".")[0]: Need(name, "the function or its arguments refer to it")
        for name in sorted(named)
        if is_foreign(name) and not (graph is not None and graph.travels(name))
    }
    code = getattr(inspect.unwrap(getattr(function, "func", function)), "__code__", None)  # type: ignore[arg-type]
    body = () if code is None else needs_of_body(code)
    mine = {need.top: need for need in body if graph is None or not graph.travels(need.module)}
    return [*{**inherent, **mine, **({} if graph is None else graph.needs(named))}.values()]
