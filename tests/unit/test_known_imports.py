"""What sources import is remembered across programs: sooner, and with the same answers as without."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kubefunc.packing import known_imports
from kubefunc.packing.cache_files import write_cached
from kubefunc.packing.known_imports import WORTHWHILE, KnownImports
from kubefunc.packing.packages.imports import SourceImports, read_imports

SOURCES = [
    b"import os\nfrom . import sibling\nfrom ..up import a as b, c\n",
    b"def f():\n    import numpy\n    return __import__('by_name')\n",
    b"try:\n    import tomllib\nexcept ImportError:\n    from vendored import tomllib\nimport last\n",
    "from café import naïve\nfrom x import *\n".encode(),
    b"import_module('\\ud800')\n",
    b"this is no python; import a",
    b"x = 1\n",
    b"",
]


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The sources that were parsed, one after another."""
    seen: list[bytes] = []

    def noted(source: bytes) -> SourceImports:
        seen.append(source)
        return read_imports(source)

    monkeypatch.setattr(known_imports, "read_imports", noted)
    return seen


def large(*sources: bytes) -> list[bytes]:
    """The same imports, in files that are worth to be remembered."""
    return [source + b"\n#" + b"-" * WORTHWHILE for source in sources]


def look(sources: list[bytes], cache: Path, place: str = "/project") -> list[SourceImports]:
    """What one program finds."""
    known = KnownImports(place, cache)
    known.expect(sum(map(len, sources)))
    found = [known.read(source) for source in sources]
    known.keep()
    return [each for each in found if each is not None]


def kept_files(cache: Path) -> list[Path]:
    """What lies in the cache."""
    return sorted(file for file in cache.rglob("*") if file.is_file())


def test_the_next_program_parses_nothing(tmp_path: Path, parsed: list[bytes]) -> None:
    """And finds the same: statements, their lines, which of them are sure."""
    sources = large(*SOURCES)
    first = look(sources, tmp_path)
    assert parsed == sources
    parsed.clear()
    assert look(sources, tmp_path) == first == [read_imports(source) for source in sources]
    assert parsed == []


@pytest.mark.parametrize("error", [RecursionError, MemoryError])
def test_what_cannot_be_parsed_just_now_is_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """Deep in a recursion, or with little memory left: the next program finds what is there."""

    def fail(_: bytes) -> SourceImports:
        raise error

    sources = large(b"import helper")
    with monkeypatch.context() as patch:
        patch.setattr(known_imports, "read_imports", fail)
        assert look(sources, tmp_path) == []
    assert [each.names("") for each in look(sources, tmp_path)] == [{"helper"}]


def test_relative_imports_are_those_of_the_file_that_has_them(tmp_path: Path) -> None:
    """The same content in another package imports other modules."""
    source = large(b"from . import b\nfrom ..c import d")
    look(source, tmp_path)
    (found,) = look(source, tmp_path)
    assert found.names("app.core") == {"app.core", "app.core.b", "app.c", "app.c.d"}
    assert found.names("lib.core") == {"lib.core", "lib.core.b", "lib.c", "lib.c.d"}


def test_only_a_changed_source_is_parsed(tmp_path: Path, parsed: list[bytes]) -> None:
    """The change counts, whatever the file's time says: what is compared is the content."""
    before = large(b"import a1", b"import b1")
    look(before, tmp_path)
    parsed.clear()
    after = [before[0], before[1].replace(b"b1", b"b2")]
    assert [sorted(each.names("")) for each in look(after, tmp_path)] == [["a1"], ["b2"]]
    assert parsed == [after[1]]


def test_a_small_project_touches_no_cache(tmp_path: Path) -> None:
    """Its sources are parsed sooner than the cache would be read."""
    assert look(SOURCES, tmp_path) == [read_imports(source) for source in SOURCES]
    assert kept_files(tmp_path) == []


def test_a_small_change_is_not_written(tmp_path: Path) -> None:
    """To write all that is known after each edit would cost more than to parse the edited file again."""
    sources = [*large(b"import a"), b"import b"]
    look(sources, tmp_path)
    (file,) = kept_files(tmp_path)
    time = file.stat().st_mtime_ns
    assert look([sources[0], b"import c"], tmp_path)[1].names("") == {"c"}
    assert file.stat().st_mtime_ns == time


@pytest.mark.parametrize("damage", ["cut", "emptied", "altered", "no json", "another shape", "a directory"])
def test_a_damaged_cache_is_as_if_it_were_not_there(tmp_path: Path, parsed: list[bytes], damage: str) -> None:
    """All is parsed again; what can be written is whole afterwards."""
    sources = large(b"import a")
    expected = look(sources, tmp_path)
    (file,) = kept_files(tmp_path)
    stored = file.read_bytes()
    digest = hashlib.sha256(sources[0]).hexdigest()
    if damage == "a directory":
        file.unlink()
        file.mkdir()
    elif damage in ("no json", "another shape"):
        content = b"no json" if damage == "no json" else json.dumps({digest: [["x"], 5]}).encode()
        write_cached(file, content, 10)
    else:
        file.write_bytes({"cut": stored[:-1], "emptied": b"", "altered": stored[:-1] + b"x"}[damage])
    parsed.clear()
    assert look(sources, tmp_path) == expected
    assert parsed == sources
    assert file.is_dir() or file.read_bytes() == stored


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give a file away")
def test_another_users_cache_is_not_read(tmp_path: Path, parsed: list[bytes]) -> None:
    """Others must not decide which of this user's code travels."""
    sources = large(b"import a")
    look(sources, tmp_path)
    (file,) = kept_files(tmp_path)
    os.chown(file, 12345, 12345)
    parsed.clear()
    look(sources, tmp_path)
    assert parsed == sources


def test_nobody_else_may_read_what_a_project_imports(tmp_path: Path) -> None:
    """Neither the file nor its directory."""
    look(large(b"import a"), tmp_path / "cache")
    (file,) = kept_files(tmp_path)
    assert file.stat().st_mode & 0o077 == 0
    assert file.parent.stat().st_mode & 0o077 == 0


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path: Path) -> None:
    """A file stands where the directory should be."""
    (tmp_path / "cache").write_bytes(b"")
    (found,) = look(large(b"import a"), tmp_path / "cache")
    assert found.names("") == {"a"}


def test_projects_do_not_pile_up(tmp_path: Path) -> None:
    """The latest ones stay, and no temporary file does."""
    for number in range(40):
        look(large(b"import a"), tmp_path, f"/project{number}")
    assert len(kept_files(tmp_path)) == 32


def test_two_programs_of_a_project_remember_together(tmp_path: Path, parsed: list[bytes]) -> None:
    """What one needs stays when the other writes."""
    one, other = large(b"import a"), large(b"import b")
    look(one, tmp_path)
    look(other, tmp_path)
    parsed.clear()
    look(one, tmp_path)
    look(other, tmp_path)
    assert parsed == []


def test_sources_of_long_ago_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is edited each day does not make the cache grow without a bound."""
    monkeypatch.setattr(known_imports, "_SPARE", 5)
    for day in range(30):
        look(large(b"import a%d" % day), tmp_path)
    (file,) = kept_files(tmp_path)
    assert len(json.loads(file.read_bytes()[32:])) <= 7


PROGRAM = """
import sys
from kubefunc.packing import known_imports
from kubefunc.packing.code import ProjectCode

parsed = []
read_imports = known_imports.read_imports
known_imports.read_imports = lambda source: parsed.append(source) or read_imports(source)
archive = ProjectCode().collect(["pk.m0"])
print(len(parsed), archive.digest, *archive.modules, *sorted(archive.graph.needs(frozenset({"pk.m0"}))))
"""


def test_the_second_start_of_a_script_with_a_large_project(tmp_path: Path) -> None:
    """It parses nothing, sends the same bytes, follows the same imports; an edited file is seen."""
    package = tmp_path / "pk"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (tmp_path / "beside.py").write_text("import pk.m1")
    for number in range(40):
        (package / f"m{number}.py").write_text(f"import beside, numpy\nfrom . import m{number + 1}\n" + "#" * 4000)

    def run() -> list[str]:
        environ = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], env=environ, cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return done.stdout.split()

    first, second = run(), run()
    assert int(first[0]) >= 41
    assert int(second[0]) == 0
    assert first[1:] == second[1:] == [first[1], "beside", "pk", "numpy"]
    (package / "m7.py").write_text("import scipy\n" + "#" * 4000)
    third = run()
    assert int(third[0]) == 1
    assert third[1] != first[1]
