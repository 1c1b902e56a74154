"""``kubefunc.pyz``: the program that runs in the Pod, as one file that a stock Python can start.

It holds the runner, the caller's own cloudpickle (both ends must speak the same one) and the light part of
kubefunc, so that ``from kubefunc import remote, current`` works in the Pod. It travels with every call:
small and quick to start are the two aims.

- What a Pod loads in any case is there compiled: ``mod.pyc`` in the place of ``mod.py``, which zipimport
  looks for first. The ``.pyc`` is marked as unchecked, so nothing is compared with a source.
- The runner's sources are there as well: an image with another Python ignores a ``.pyc`` with a foreign magic
  number and falls back to them, and so can say what is wrong with the image.
- The rest is there as source alone, which is half as large as compiled and is hardly ever loaded.
- Docstrings, comments, imports for type checkers, the annotations of functions and the columns of compiled lines stay
  here: they are two fifths of it, and no program reads them there. Lines keep their numbers, for tracebacks.
- Entries are deflated: stored ones start no faster and would triple the size.

The same sources and the same Python give the same bytes. As compiling takes about 100 ms, the file is kept in
the user's cache directory.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import io
import os
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import CodeType

import kubefunc
from kubefunc.errors import ConfigurationError
from kubefunc.packing.cache_files import cache_directory, read_cached, write_cached
from kubefunc.runner import ARCHIVE

# What sends calls, and what runs them on the caller's own machine.
_LEFT_OUT = (
    "backends/kubernetes/",
    "backends/local/",
    "backends/inline.py",
    "backends/failing.py",
    "testing/api_server.py",
    "testing/fixtures.py",
    "testing/jobs.py",
    "testing/pod.py",
    "testing/small_cluster.py",
    "testing/store.py",
    "backends/operations.py",
    "backends/queue.py",
    "backends/reach.py",
    "packing/archive.py",
    "packing/cache_files.py",
    "packing/code.py",
    "packing/code_archive.py",
    "packing/collector.py",
    "packing/freshness.py",
    "packing/ignored.py",
    "packing/known_imports.py",
    "packing/modules.py",
    "packing/packages/",
    "packing/payload.py",
    "packing/project_files.py",
    "packing/sent_files.py",
    "packing/unpicklable.py",
    "reading/failures.py",
    "cli/",
    "executors/memmaps.py",
    "executors/tasks_",
    "handles/gang_attempts.py",
    "handles/notebook.py",
    "handles/publishing.py",
    "handles/serving.py",
    "handles/volume_notes.py",
    "outcomes/attempts.py",
    "outcomes/growth.py",
    "outcomes/retry.py",
    "backends/runner_specs.py",
    "options/suggestions.py",
    "runner/local/",
    "runner/warm/",
)
_OF_WORKERS = ("runner/warm/",)
_LEFT_OUT_TOP = frozenset(
    f"{name}.py" for name in "__main__ chunks html landing leaving log_setup role sizes stream_values untrusted".split()
)
# Loaded by each Pod, or by each module that says `from kubefunc import remote`.
_COMPILED_TOP = frozenset("__init__ current errors function".split())
_COMPILED_ROOMS = ("options/", "packing/__init__.py", "packing/inputs.py")
# Loaded only when something is wrong, or by hardly any program.
_NOT_COMPILED = (
    "kubefunc/options/parsers/requirements.py",
    "kubefunc/options/parsers/versions.py",
    "kubefunc/options/kube_objects.py",
    "kubefunc/options/pod_templates.py",
    "kubefunc/runner/execution/culprit.py",
    "kubefunc/runner/execution/files.py",
    "kubefunc/runner/execution/gang.py",
    "kubefunc/runner/execution/plain.py",
    "kubefunc/runner/execution/packages.py",
    "kubefunc/runner/pod/installer.py",
    "kubefunc/runner/pod/transfers.py",
    "kubefunc/runner/protocol/file.py",
    "kubefunc/runner/execution/pickling.py",
    "kubefunc/runner/execution/streaming.py",
    "kubefunc/runner/pod/streamer.py",
)
# Of the runner, what is loaded only once the version of Python was found to fit.
_AFTER_THE_CHECK = (
    "kubefunc/runner/execution/orphans.py",
    "kubefunc/runner/execution/packages.py",
    "kubefunc/runner/execution/pickling.py",
    "kubefunc/runner/execution/request.py",
    "kubefunc/runner/execution/spare.py",
    "kubefunc/runner/execution/streaming.py",
    "kubefunc/runner/execution/tickets.py",
    "kubefunc/runner/execution/items.py",
    "kubefunc/runner/execution/workplace.py",
    "kubefunc/runner/pod/chunk.py",
    "kubefunc/runner/pod/installer.py",
    "kubefunc/runner/protocol/records.py",
    "kubefunc/runner/warm/",
)
_MAIN = b"import sys\n\nfrom kubefunc.runner.__main__ import main\n\nsys.exit(main())\n"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can say
_UNCHECKED_PYC = (0b01).to_bytes(4, "little")  # PEP 552: hash-based, and the hash is not to be checked
_KEPT = 8  # archives in the cache: a few versions of Python and kubefunc


@functools.lru_cache(maxsize=1)
def archive_bytes() -> bytes:
    """``kubefunc.pyz``. Made, or read from the user's cache, once in a process; inside a Pod it is there already.

    Raises:
        ConfigurationError: kubefunc was not loaded from files.
    """
    return _archive_with(())


@functools.lru_cache(maxsize=1)
def worker_archive_bytes() -> bytes:
    """The same for the Pod of a warm worker, and for one whose function may start some."""
    return _archive_with(_OF_WORKERS)


def _archive_with(rooms: tuple[str, ...]) -> bytes:
    inside = getattr(kubefunc.__loader__, "archive", None)
    if inside is not None:
        return Path(inside).read_bytes()
    return cached_archive(find_sources(rooms), cache_directory(os.environ, sys.platform))


def find_sources(rooms: tuple[str, ...] = ()) -> dict[str, Path]:
    """The files that belong in the archive, and those of these rooms, by their names in it.

    Raises:
        ConfigurationError: kubefunc or cloudpickle was not loaded from files.
    """
    package = Path(kubefunc.__file__).parent
    found = {
        f"kubefunc/{name}": package / name
        for name in _python_files(package)
        if _belongs(name) or name.startswith(rooms)
    }
    spec = importlib.util.find_spec("cloudpickle")
    library = Path(spec.origin or "").parent if spec is not None else Path()
    found |= {f"cloudpickle/{name}": library / name for name in _python_files(library)}
    for needed in ("kubefunc/runner/__main__.py", "cloudpickle/__init__.py"):
        if needed not in found:
            raise ConfigurationError(
                f"cannot send {needed} to a Pod: it is not a file here (kubefunc is in {package}, "
                f"cloudpickle in {library}). Install both as ordinary packages: pip install kubefunc"
            )
    return found


def _python_files(directory: Path) -> list[str]:
    found: list[str] = []
    for folder, _, names in os.walk(directory):  # rglob takes three times as long
        inside = Path(folder).relative_to(directory)
        found += [(inside / name).as_posix() for name in names if name.endswith(".py")]
    return sorted(found)


def _belongs(name: str) -> bool:
    return not name.startswith(_LEFT_OUT) and name not in _LEFT_OUT_TOP


# --- making it ---


def build_archive(sources: Mapping[str, bytes]) -> bytes:
    """The archive of these sources, given by their names in it."""
    import zipfile  # its import would cost more than reading an archive that is already there

    entries: dict[str, bytes] = {}
    for name, whole in {"__main__.py": _MAIN, **sources}.items():
        source = _without_comments(_without_types(_without_docstrings(whole)))
        if _is_compiled(name):
            entries[f"{name}c"] = _compiled(name, source)
        if not _is_compiled(name) or _must_run_anywhere(name):
            entries[name] = narrow(unannotated(source))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(entries):
            info = zipfile.ZipInfo(name, _EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.create_system = 3  # Unix, also when made on Windows: the same sources give the same bytes
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(info, entries[name], compresslevel=9)
    return buffer.getvalue()


def _must_run_anywhere(name: str) -> bool:
    """Whether a Python of another version needs it, until it has said that it is one."""
    if name.startswith(_AFTER_THE_CHECK):
        return False
    return name in ("__main__.py", "kubefunc/__init__.py") or name.startswith("kubefunc/runner/")


def _is_compiled(name: str) -> bool:
    if name in _NOT_COMPILED:
        return False
    if _must_run_anywhere(name) or name.startswith(("kubefunc/runner/", "cloudpickle/")):
        return True
    inside = name.removeprefix("kubefunc/")
    return inside.startswith(_COMPILED_ROOMS) or inside.removesuffix(".py") in _COMPILED_TOP


def _compiled(name: str, source: bytes) -> bytes:
    """A ``.pyc`` without docstrings. Its code names its place in the archive, and no directory of this machine."""
    import marshal

    code: CodeType = compile(_lean(source), f"{ARCHIVE}/{name}", "exec", dont_inherit=True, optimize=1)
    return importlib.util.MAGIC_NUMBER + _UNCHECKED_PYC + importlib.util.source_hash(source) + marshal.dumps(code)


def _lean(source: bytes) -> ast.Module:
    """The source without functions' annotations and without columns, which are a fifth of a ``.pyc``.

    Lines stay, for tracebacks. The fields of dataclasses keep their annotations.
    """
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            node.returns = None
        elif isinstance(node, ast.arg):
            node.annotation = None
        if isinstance(node, (ast.expr, ast.stmt)) and sys.version_info >= (3, 11):  # older ones keep no columns
            node.end_lineno, node.col_offset, node.end_col_offset = node.lineno, -1, -1
    return tree


def unannotated(source: bytes) -> bytes:
    """The source without functions' annotations, as far as each stands on one line.

    >>> unannotated(b"def f(a: int, *, b: str = '') -> None: ...")
    b"def f(a, *, b = ''): ..."
    """
    lines = source.splitlines(keepends=True)
    gone = sorted(_annotations(ast.parse(source), lines), reverse=True)  # from the end: what stands before stays put
    for row, start, end in gone:
        lines[row] = lines[row][:start] + lines[row][end:]
    return b"".join(lines)


def _annotations(tree: ast.Module, lines: Sequence[bytes]) -> Iterator[tuple[int, int, int]]:
    """Line, start and end of what may go."""
    for node in ast.walk(tree):
        if isinstance(node, ast.arg) and node.annotation is not None:
            start, told = node.col_offset + len(node.arg.encode()), node.annotation
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.returns is not None:
            told = node.returns
            start = lines[told.lineno - 1].rfind(b" ->", 0, told.col_offset)
        else:
            continue
        first = node.lineno if isinstance(node, ast.arg) else told.lineno
        if start >= 0 and first == told.lineno == told.end_lineno and told.end_col_offset is not None:
            yield told.lineno - 1, start, told.end_col_offset


def narrow(source: bytes) -> bytes:
    """The source with one space for each step of indentation, not four.

    >>> narrow(b"if x:\\n    y = (1,\\n        2)\\n")
    b'if x:\\n y = (1,\\n  2)\\n'
    """
    import tokenize

    inside: set[int] = set()  # the lines of texts that have several
    for token in tokenize.tokenize(io.BytesIO(source).readline):
        if "STRING" in tokenize.tok_name[token.type]:
            inside.update(range(token.start[0] + 1, token.end[0] + 1))
    lines = source.decode().splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        code = line.lstrip(" ")
        steps, rest = divmod(len(line) - len(code), 4)
        if number not in inside:
            lines[number - 1] = " " * (steps + rest) + code
    return "".join(lines).encode()


def _without_comments(source: bytes) -> bytes:
    """The source with comments gone, and what stood before them on their lines as it was.

    >>> _without_comments(b"# why\\nx = '#'  # how\\n")
    b"\\nx = '#'\\n"
    """
    import tokenize

    lines = source.decode().splitlines(keepends=True)
    for token in tokenize.tokenize(io.BytesIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = f"{lines[row - 1][:column].rstrip()}\n"
    return "".join(lines).encode()


def _without_types(source: bytes) -> bytes:
    """The source without what stands under ``if TYPE_CHECKING``, and without overloads.

    >>> _without_types(b"if TYPE_CHECKING:\\n    import typing\\nelse:\\n    x = 1")
    b'if TYPE_CHECKING:\\n    0\\nelse:\\n    x = 1'
    >>> _without_types(b"@overload\\ndef f(x): ...\\ndef f(x): return x")
    b'0\\n\\ndef f(x): return x'
    """
    lines = source.splitlines(keepends=True)
    for node in ast.walk(ast.parse(source)):
        told = _for_checkers_only(node)
        if told is not None:
            first, last, column = told
            lines[first - 1 : last] = [b" " * column + b"0\n", *[b"\n"] * (last - first)]
    return b"".join(lines)


def _for_checkers_only(node: ast.AST) -> tuple[int, int, int] | None:
    """First line, last line and column of what only type checkers need of this node; None: nothing."""
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        return node.body[0].lineno, node.body[-1].end_lineno or 0, node.body[0].col_offset
    if isinstance(node, ast.FunctionDef) and any(
        isinstance(each, ast.Name) and each.id == "overload" for each in node.decorator_list
    ):
        return node.decorator_list[0].lineno, node.end_lineno or 0, node.col_offset
    return None


def _without_docstrings(source: bytes) -> bytes:
    """The source with each docstring cut down to a sign. Lines keep their numbers, for tracebacks.

    A sign is left, as a dataclass without a docstring would make one, at a cost for each import.

    >>> _without_docstrings(b"def f():\\n    '''Says\\n    much'''\\n    return 1")
    b'def f():\\n    "-"\\n\\n    return 1'
    """
    lines = source.splitlines(keepends=True)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
            lines[first] = lines[first][: node.col_offset] + b'"-"' + lines[last][node.end_col_offset :]
            lines[first + 1 : last + 1] = [b"\n"] * (last - first)
    return b"".join(lines)


# --- keeping it ---


def cached_archive(sources: Mapping[str, Path], directory: Path) -> bytes:
    """The archive of these files: that in the directory if made from the same files, else a new one."""
    file = directory / f"{_key(sources)}.pyz"
    known = read_cached(file)  # it will run with a call's rights
    if known is not None:
        return known
    data = build_archive({name: path.read_bytes() for name, path in sources.items()})
    write_cached(file, data, _KEPT)
    return data


def _key(sources: Mapping[str, Path]) -> str:
    """Changes whenever a source, this module or the Python does."""
    stats = {name: os.stat(path) for name, path in {"": Path(__file__), **sources}.items()}
    known = [
        sys.version,
        *((name, str(sources.get(name)), each.st_size, each.st_mtime_ns) for name, each in stats.items()),
    ]
    return hashlib.sha256(repr(known).encode()).hexdigest()
