"""``File`` in maps and executors on this machine, whose workers take item after item."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kubefunc import Executor, File, remote
from kubefunc.errors import FileError
from tests.local.test_files import copied, text, total

pytestmark = pytest.mark.usefixtures("forked")


def test_each_item_of_a_map_has_its_own(tmp_path: Path) -> None:
    """A file for each item, and a result with a file from each."""
    files = []
    for number in range(5):
        path = tmp_path / f"{number}.csv"
        path.write_text(f"{number}\n")
        files.append(File(path))
    assert list(total.map(files)) == [0, 1, 2, 3, 4]
    jobs = [(file, str(tmp_path), f"out-{number}.csv") for number, file in enumerate(files)]
    results = list(copied.starmap(jobs))
    assert [text(result["files"][0]) for result in results] == ["0\n", "1\n", "2\n", "3\n", "4\n"]


def test_a_file_beside_a_large_value(data: File) -> None:
    """However the value itself travels."""

    @remote
    def both(rows: File) -> tuple[File, bytes, Any]:
        return rows, bytes(3_000_000), lambda: 42

    for file, large, answer in both.map([data, data]):
        assert (file.size, len(large), answer()) == (6, 3_000_000, 42)


def test_an_item_whose_file_cannot_be_returned(data: File) -> None:
    """It fails alone."""

    @remote
    def some(number: int) -> File:
        return File("/nowhere" if number == 1 else data)

    results = list(some.map(range(3), return_exceptions=True))
    assert [type(each) for each in results] == [File, FileError, File]


def test_an_executor_takes_files(data: File) -> None:
    """Its tasks are calls."""
    with Executor(max_workers=1) as executor:
        assert executor.submit(total.function, data).result() == 6
