"""kubefunc.pyz: what is in it, that it is always the same, and how it is kept."""

from __future__ import annotations

import ast
import importlib.util
import io
import marshal
import os
import subprocess
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import pytest

import kubefunc
from kubefunc.packing.archive import (
    archive_bytes,
    build_archive,
    cached_archive,
    find_sources,
    narrow,
    unannotated,
)
from kubefunc.packing.cache_files import cache_directory
from kubefunc.runner.execution.child import TRAVELS_IN_PART

SOURCES = {
    "kubefunc/__init__.py": b"",
    "kubefunc/runner/__init__.py": b"X = 1",
    "kubefunc/handles/call.py": b"Y = 1",
    "kubefunc/options/fields.py": b"Z = 1",
    "cloudpickle/__init__.py": b"def dumps(): raise ValueError",
}


def names(data: bytes) -> set[str]:
    """The files in the archive."""
    return set(zipfile.ZipFile(io.BytesIO(data)).namelist())


def files(directory: Path, sources: dict[str, bytes]) -> dict[str, Path]:
    """The sources as files."""
    found = {}
    for name, source in sources.items():
        found[name] = directory / name
        found[name].parent.mkdir(parents=True, exist_ok=True)
        found[name].write_bytes(source)
    return found


# --- what is in it ---


def test_the_runner_is_compiled_and_there_as_source() -> None:
    """Compiled for speed; as source for an image with another Python, where it says what is wrong."""
    found = names(build_archive(SOURCES))
    assert {"kubefunc/runner/__init__.pyc", "kubefunc/runner/__init__.py"} <= found
    assert {"__main__.pyc", "__main__.py"} <= found


def test_the_rest_is_there_once() -> None:
    """Compiled what each Pod or each decorated module loads, as source what hardly any does."""
    found = names(build_archive(SOURCES))
    assert {"cloudpickle/__init__.pyc", "kubefunc/options/fields.pyc", "kubefunc/handles/call.py"} <= found
    assert found.isdisjoint({"cloudpickle/__init__.py", "kubefunc/options/fields.py", "kubefunc/call.pyc"})


def test_what_only_the_client_needs_is_left_out() -> None:
    """Backends, the command line and plug-ins: a Pod could not use them."""
    found = set(find_sources())
    assert {"kubefunc/runner/__main__.py", "kubefunc/current.py", "kubefunc/function.py"} <= found
    left_out = ("kubefunc/backends/kubernetes/", "kubefunc/backends/local/", "kubefunc/cli/", "kubefunc/__main__.py")
    assert not [name for name in found if name.startswith(left_out)]
    assert "kubefunc/packing/archive.py" not in found
    assert [name for name in found if name.startswith("cloudpickle/")]


def test_a_function_that_makes_calls_finds_the_rest_in_its_image() -> None:
    """Each package of which only a part travels is named where the Pod looks for the rest."""
    package = Path(kubefunc.__file__).parent
    here = {f"kubefunc/{path.relative_to(package).as_posix()}" for path in package.rglob("*.py")}
    travels = {name for name in find_sources() if name.startswith("kubefunc/")}
    in_part = {name.rpartition("/")[0] for name in here - travels} & {name.rpartition("/")[0] for name in travels}
    assert sorted(TRAVELS_IN_PART) == sorted(name.replace("/", ".") for name in in_part)


def test_compiled_files_are_never_compared_with_a_source() -> None:
    """PEP 552: hash-based and unchecked, with this Python's magic number, naming no directory of this machine."""
    data = zipfile.ZipFile(io.BytesIO(build_archive(SOURCES))).read("cloudpickle/__init__.pyc")
    assert data[:4] == importlib.util.MAGIC_NUMBER
    assert data[4:8] == b"\x01\0\0\0"
    code = marshal.loads(data[16:])
    assert isinstance(code, types.CodeType)
    assert code.co_filename == "kubefunc.pyz/cloudpickle/__init__.py"


def test_what_no_program_reads_stays_here() -> None:
    """Docstrings, comments, imports for type checkers and the annotations of functions. Lines keep their numbers."""
    types = b"TYPE_CHECKING = False\nif TYPE_CHECKING:\n    import nowhere\n"
    source = (
        types + b"import dataclasses\n@dataclasses.dataclass\nclass P:  # a point\n    x: int\ndef f(p: P) -> P: ..."
    )
    archive = zipfile.ZipFile(io.BytesIO(build_archive({**SOURCES, "kubefunc/runner/point.py": source})))
    text = archive.read("kubefunc/runner/point.py")
    assert b"a point" not in text
    assert b"nowhere" not in text
    made: dict[str, Any] = {"__name__": __name__}
    exec(marshal.loads(archive.read("kubefunc/runner/point.pyc")[16:]), made)
    assert made["P"](x=2).x == 2, "a dataclass keeps its fields"
    assert made["f"].__annotations__ == {}
    assert made["f"].__code__.co_firstlineno == 8


def test_sources_are_written_more_narrowly_and_mean_the_same() -> None:
    """What travels as source has less indentation and no annotations of functions; nothing else of it changes."""
    for path in find_sources().values():
        source = path.read_bytes()
        lean = narrow(unannotated(source))
        assert _meaning(lean) == _meaning(source), path
        assert len(lean.splitlines()) == len(source.splitlines())
    assert narrow(unannotated(b"def f(x: int) -> int:\n    return x\n")) == b"def f(x):\n return x\n"


def _meaning(source: bytes) -> str:
    """The program, but for the annotations of functions."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            node.returns = None
    return ast.dump(tree)


def test_the_same_sources_give_the_same_bytes() -> None:
    """In whatever order they are found."""
    assert build_archive(SOURCES) == build_archive(dict(reversed(SOURCES.items())))


def test_it_fits_into_a_secret_beside_a_payload() -> None:
    """It travels with every call: a Secret holds 1 MiB in all."""
    assert len(build_archive({name: path.read_bytes() for name, path in find_sources().items()})) < 300_000


def test_every_public_name_can_be_imported_in_a_pod(tmp_path: Path) -> None:
    """A module that travels may name a type of kubefunc's, though calls cannot be made there."""
    (tmp_path / "kubefunc.pyz").write_bytes(archive_bytes())
    names = [name for name in kubefunc.__all__ if not name.startswith("_") and name != "testing"]  # only for tests
    program = f"import kubefunc; print(kubefunc.__file__); from kubefunc import {', '.join(names)}"
    done = subprocess.run(
        [sys.executable, "-S", "-c", program],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "kubefunc.pyz")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert str(tmp_path) in done.stdout


def test_it_is_made_once_in_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The very same bytes object; kept in the user's cache for the next process."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    archive_bytes.cache_clear()
    try:
        assert archive_bytes() is archive_bytes()
    finally:
        archive_bytes.cache_clear()
    assert [file.suffix for file in (tmp_path / "kubefunc").iterdir()] == [".pyz"]


# --- how it is kept ---


def test_a_kept_archive_is_used_again(tmp_path: Path) -> None:
    """And is byte for byte what building it gives."""
    sources = files(tmp_path / "src", SOURCES)
    assert cached_archive(sources, tmp_path / "cache") == build_archive(SOURCES)
    (kept,) = (tmp_path / "cache").iterdir()
    time = kept.stat().st_mtime_ns
    assert cached_archive(sources, tmp_path / "cache") == build_archive(SOURCES)
    assert kept.stat().st_mtime_ns == time


@pytest.mark.parametrize("change", ["longer", "later", "moved"])
def test_any_change_of_a_source_makes_a_new_one(tmp_path: Path, change: str) -> None:
    """Its size, its time, or its place."""
    sources = files(tmp_path / "src", SOURCES)
    cached_archive(sources, tmp_path / "cache")
    name = "kubefunc/runner/__init__.py"
    if change == "longer":
        sources[name].write_bytes(b"X = 10")
    elif change == "later":
        sources[name].write_bytes(b"X = 2")
        os.utime(sources[name], ns=(1, 1))
    else:
        sources = files(tmp_path / "src2", {**SOURCES, name: b"X = 3"})
    content = {each: path.read_bytes() for each, path in sources.items()}
    assert cached_archive(sources, tmp_path / "cache") == build_archive(content)
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_a_damaged_archive_is_not_used(tmp_path: Path) -> None:
    """Cut, emptied or altered by whatever: it is made anew."""
    sources = files(tmp_path / "src", SOURCES)
    whole = cached_archive(sources, tmp_path / "cache")
    (kept,) = (tmp_path / "cache").iterdir()
    stored = kept.read_bytes()
    for damaged in (b"", stored[:-1], stored[:40], b"\0" + stored[1:], stored[:-1] + b"x"):
        kept.write_bytes(damaged)
        assert cached_archive(sources, tmp_path / "cache") == whole
        assert kept.read_bytes() == stored


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give a file away")
def test_another_users_archive_is_not_used(tmp_path: Path) -> None:
    """What it holds would run with all the rights of a call."""
    sources = files(tmp_path / "src", SOURCES)
    whole = cached_archive(sources, tmp_path / "cache")
    (kept,) = (tmp_path / "cache").iterdir()
    os.chown(kept, 12345, 12345)
    assert cached_archive(sources, tmp_path / "cache") == whole
    assert kept.stat().st_uid == os.getuid()


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path: Path) -> None:
    """A file stands where the directory should be."""
    (tmp_path / "cache").write_bytes(b"")
    sources = files(tmp_path / "src", SOURCES)
    assert cached_archive(sources, tmp_path / "cache") == build_archive(SOURCES)


def test_old_archives_are_forgotten(tmp_path: Path) -> None:
    """A few versions stay, and no temporary file does."""
    sources = files(tmp_path / "src", SOURCES)
    for size in range(12):
        sources["kubefunc/handles/call.py"].write_bytes(b"#" * size)
        cached_archive(sources, tmp_path / "cache")
    assert [file.suffix for file in (tmp_path / "cache").iterdir()] == [".pyz"] * 8


def test_the_cache_is_where_the_platform_has_it() -> None:
    """XDG on Linux, Library on macOS, LOCALAPPDATA on Windows."""
    assert cache_directory({"XDG_CACHE_HOME": "/x"}, "linux") == Path("/x/kubefunc")
    assert cache_directory({}, "linux") == Path.home() / ".cache" / "kubefunc"
    assert cache_directory({}, "darwin") == Path.home() / "Library" / "Caches" / "kubefunc"
    assert cache_directory({"LOCALAPPDATA": "/l"}, "win32") == Path("/l/kubefunc/cache")
