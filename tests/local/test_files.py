"""``File`` on this machine: arguments and results that are files."""

from __future__ import annotations

import dataclasses
import gc
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kubefunc import File, remote
from kubefunc.errors import FileError
from kubefunc.testing import inline
from tests.conftest import ROOT

pytestmark = pytest.mark.usefixtures("way")


@dataclasses.dataclass
class Dataset:
    """Something of the caller's that holds a file."""

    rows: File
    name: str = "rows"


def text(file: File) -> str:
    """What is in a file."""
    with file.open() as opened:
        return opened.read()


@remote
def total(rows: File) -> int:
    """The sum of a file's lines."""
    with rows.open() as lines:
        return sum(map(int, lines))


@remote
def path_of(rows: Any) -> str:
    """Where the function finds it."""
    return str(os.fspath(rows))


@remote
def copied(rows: File, folder: str, name: str = "copy.csv") -> dict[str, Any]:
    """A new file with the same content, somewhere in what is returned."""
    path = Path(folder, name)
    path.write_bytes(rows.path.read_bytes())
    return {"files": [File(path)], "size": rows.size}


def test_a_function_opens_the_file_it_was_given(data: File) -> None:
    """A File takes the place of a path, and is not copied on this machine: it is the very file."""
    assert total.remote(data).result() == 6
    assert path_of.remote(data).result() == os.fspath(data)
    assert total(data) == 6, "called here, it is the same"


def test_a_file_may_be_anywhere_in_an_argument(data: File) -> None:
    """In containers, in keyword arguments, in objects of your own, in the function's closure."""

    @remote
    def count(nested: dict[str, list[Dataset]], *, other: tuple[File, ...]) -> list[int]:
        return [nested["sets"][0].rows.size, other[0].size, data.size]

    assert count.remote({"sets": [Dataset(data)]}, other=(data,)).result() == [6, 6, 6]


def test_a_returned_file_is_here_when_the_call_has_ended(data: File, tmp_path: Path) -> None:
    """Under its own name, with its content, whatever becomes of the file that the function wrote."""
    result = copied.remote(data, str(tmp_path)).result()
    (file,) = result["files"]
    (tmp_path / "copy.csv").unlink()
    assert (file.name, file.size) == ("copy.csv", 6)
    assert text(file) == "1\n2\n3\n"
    with file.open("rb") as opened:
        assert opened.read(2) == b"1\n"


def test_saving_a_returned_file(data: File, tmp_path: Path) -> None:
    """``save`` gives it a place of your own, and the File stands for that; a folder gets it under its own name."""
    (file,) = copied.remote(data, str(tmp_path)).result()["files"]
    target = tmp_path / "saved.csv"
    target.write_text("what stood there")
    assert file.save(target) == target
    assert target.read_text() == "1\n2\n3\n"
    assert file.path == target
    folder = tmp_path / "folder"
    folder.mkdir()
    assert file.save(folder) == folder / "saved.csv"
    assert target.exists(), "a file of your own is copied, not moved"


def test_a_returned_file_goes_with_the_last_that_refers_to_it(data: File, tmp_path: Path) -> None:
    """The temporary copy is removed with the File, and stays until the end once somebody has asked for its path."""
    call = copied.remote(data, str(tmp_path))
    place = os.fspath(call.result()["files"][0])
    assert os.path.exists(place), "the call has its result"
    del call
    gc.collect()
    assert not os.path.exists(place)
    path = copied.remote(data, str(tmp_path)).result()["files"][0].path
    gc.collect()
    assert path.read_text() == "1\n2\n3\n"


def test_a_result_is_the_next_calls_argument(data: File, tmp_path: Path) -> None:
    """It exists until the call that needs it has ended, even if nobody else has it."""
    assert total.remote(copied.remote(data, str(tmp_path)).result()["files"][0]).result() == 6


def test_the_file_of_an_argument_may_be_returned(data: File) -> None:
    """What comes back is a copy: the caller's file stays where it is, also when the copy is saved."""

    @remote
    def same(rows: File) -> tuple[File, File]:
        return rows, rows

    one, other = same.remote(data).result()
    assert one is other, "one file of the function is one file here"
    one.save(data.path.parent / "elsewhere.csv")
    assert text(data) == "1\n2\n3\n"


@pytest.mark.parametrize("size", [0, 1, 5_000_000])
def test_files_of_every_size(size: int, tmp_path: Path) -> None:
    """From nothing at all."""
    path = tmp_path / "noise"
    path.write_bytes(os.urandom(size))

    @remote
    def same(file: File) -> File:
        return file

    assert same.remote(File(path)).result().path.read_bytes() == path.read_bytes()


def test_a_file_beside_a_large_value_and_a_lambda(data: File, tmp_path: Path) -> None:
    """However the value itself travels: in memory, in a file, or pickled by cloudpickle."""

    @remote
    def both(rows: File) -> tuple[File, bytes, Any]:
        return rows, bytes(3_000_000), lambda: 42

    file, large, answer = both.remote(data).result()
    assert (file.size, len(large), answer()) == (6, 3_000_000, 42)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/nowhere/model.bin", "result['model'] is File('/nowhere/model.bin') (No such file or directory)"),
        ("/", "result['model'] is File('/') (it is a folder)"),
    ],
)
def test_a_returned_file_that_cannot_be_read(path: str, words: str) -> None:
    """The error says where in the result it is, and why."""

    @remote
    def broken() -> dict[str, File]:
        return {"model": File(path)}

    with pytest.raises(FileError) as caught:
        broken.remote().result()
    assert words in str(caught.value)
    assert "written and closed" in str(caught.value)


def test_a_failed_attempt_leaves_nothing(data: File, tmp_path: Path) -> None:
    """The next attempt's file is what comes."""

    @remote(retries=1)
    def second(folder: str) -> File:
        path = Path(folder, "tries")
        path.write_text((path.read_text() if path.exists() else "") + "x")
        if path.read_text() == "x":
            raise ValueError
        return File(path)

    assert text(second.remote(str(tmp_path)).result()) == "xx"


def test_calls_in_this_process(data: File, tmp_path: Path) -> None:
    """``kubefunc.testing.inline`` treats files as any other backend does."""
    with inline():
        (file,) = copied.remote(data, str(tmp_path)).result()["files"]
        assert os.fspath(file) != str(tmp_path / "copy.csv")
        assert text(file) == "1\n2\n3\n"
        assert [each["files"][0].size for each in copied.starmap([(data, str(tmp_path))] * 2)] == [6, 6]


_FLAT = """
import resource, sys
from kubefunc import File, remote

@remote
def copy(file):
    with file.open("rb") as source, open(sys.argv[0] + ".copy", "wb") as target:
        while piece := source.read(1 << 20):
            target.write(piece)
    return File(sys.argv[0] + ".copy"), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

if __name__ == "__main__":
    sys.argv[0] = sys.argv[1]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    file, there = copy.remote(File(sys.argv[1])).result()
    file.save(sys.argv[1] + ".saved")
    print(there, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts memory in KiB, as Linux does")
def test_a_large_file_costs_no_memory(tmp_path: Path) -> None:
    """200 MB go in and come back, and neither the program nor the function's process holds them."""
    (tmp_path / "flat.py").write_text(_FLAT.replace('sys.argv[0] + ".copy"', f'"{tmp_path}/copy"'))
    with (tmp_path / "large").open("wb") as file:
        for _ in range(200):
            file.write(os.urandom(1 << 20))
    done = subprocess.run(
        [sys.executable, "flat.py", str(tmp_path / "large")],
        cwd=tmp_path,
        env={**os.environ, "KUBEFUNC_BACKEND": "local", "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    there, more = map(int, done.stdout.split())
    assert there < 100_000, "KiB in the function's process"
    assert more < 50_000, "KiB in the program"
    assert (tmp_path / "large.saved").stat().st_size == 200 << 20
    assert not list(tmp_path.glob("kubefunc-*")), "nothing is left"
