"""``File`` through pools, on the small cluster: from this machine's disk to the worker's, and back."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

from kubefunc import Executor, File, Pool, current, remote, testing
from kubefunc.errors import FileError
from tests.local.carried import content, doubled, inode, left_behind

WITHIN = 60
NOISE = os.urandom(300_000)


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    """One for all tests of this file."""
    with testing.cluster():
        yield


@pytest.fixture(params=[True, False])
def pool(request: pytest.FixtureRequest) -> Iterator[Pool]:
    """One worker, with a process for each call or with one that stays."""
    with Pool(max_workers=1, share=False, fresh=request.param) as made:
        yield made


@pytest.fixture
def data(tmp_path: Path) -> File:
    """A file of the caller's."""
    path = tmp_path / "data.bin"
    path.write_bytes(NOISE)
    return File(path)


def test_a_file_goes_there_and_another_comes_back(pool: Pool, data: File, tmp_path: Path) -> None:
    """It has its own name there; nothing of either is left in the worker."""
    assert remote(content, pool=pool).remote(data).result(WITHIN) == ("data.bin", NOISE)
    result = remote(doubled, pool=pool).remote(data).result(WITHIN)["file"]
    assert result.save(tmp_path / "saved.bin").read_bytes() == 2 * NOISE
    assert remote(left_behind, pool=pool).remote().result(WITHIN) == []


def test_each_item_of_a_map_has_its_own(pool: Pool, tmp_path: Path) -> None:
    """And returns one."""
    files = []
    for number in range(5):
        path = tmp_path / f"{number}.txt"
        path.write_text(f"{number}")
        files.append(File(path))
    results = list(remote(doubled, pool=pool).map(files))
    assert [each["file"].path.read_text() for each in results] == ["00", "11", "22", "33", "44"]
    assert remote(left_behind, pool=pool).remote().result(WITHIN) == []


def test_a_file_of_many_items_travels_once(pool: Pool, data: File) -> None:
    """It stays in the worker until that takes another call."""
    assert len(set(remote(inode, pool=pool).starmap([(data, number) for number in range(5)]))) == 1
    assert remote(left_behind, pool=pool).remote().result(WITHIN) == []


def test_a_file_of_a_map_travels_again_after_another_call(pool: Pool, data: File, tmp_path: Path) -> None:
    """The worker has removed it, to make room for that call."""
    repaired = tmp_path / "repaired"

    def size(file: File, number: int) -> int:
        if number == 1 and not repaired.exists():
            raise ValueError("not yet")
        return len(file.path.read_bytes())

    a_map = remote(size, pool=pool, pull_allowance=10).starmap([(data, number) for number in range(3)])
    assert [type(call.exception(WITHIN)) for call in a_map.calls] == [type(None), ValueError, type(None)]
    assert remote(left_behind, pool=pool).remote().result(WITHIN) == []
    repaired.touch()
    a_map.retry_failed()
    assert a_map.result(WITHIN) == [len(NOISE)] * 3


def test_a_file_that_a_function_of_a_map_uses(pool: Pool, tmp_path: Path) -> None:
    """Each map has the file of its own call, though the function is the same."""
    path = tmp_path / "data.txt"

    def words() -> list[tuple[int, str]]:
        used = File(path)

        def word(number: int) -> tuple[int, str]:
            return number, used.path.read_text()

        return list(remote(word, pool=pool).map(range(2)))

    path.write_text("one")
    assert words() == [(0, "one"), (1, "one")]
    path.write_text("two")
    assert words() == [(0, "two"), (1, "two")]


def test_an_executor_takes_files_and_returns_them(pool: Pool, data: File) -> None:
    """As tasks and as maps."""
    with Executor(pool=pool) as executor:
        tasks = [executor.submit(doubled, data), executor.submit(content, data)]
        assert tasks[0].result(WITHIN)["file"].path.read_bytes() == 2 * NOISE
        assert tasks[1].result(WITHIN) == ("data.bin", NOISE)
        assert [name for name, _ in executor.map(content, [data, data])] == ["data.bin", "data.bin"]
        assert executor.submit(left_behind).result(WITHIN) == []


def test_a_file_that_has_changed(pool: Pool, data: File) -> None:
    """The call fails, and its worker takes the next one."""
    before = remote(os.getppid, pool=pool).remote().result(WITHIN)
    call = remote(content, pool=pool).options(verbose=False)
    function = remote(time.sleep, pool=pool)
    busy = function.remote(0.5)  # the file is sent when the worker is free
    changing = call.remote(data)
    data.path.write_bytes(b"something else")
    with pytest.raises(FileError, match="has changed since the call was made"):
        changing.result(WITHIN)
    busy.result(WITHIN)
    assert remote(os.getppid, pool=pool).remote().result(WITHIN) == before
    assert remote(left_behind, pool=pool).remote().result(WITHIN) == []


def test_a_file_that_cannot_be_returned(pool: Pool) -> None:
    """The error names it."""

    @remote(pool=pool)
    def nothing() -> File:
        return File("/nowhere")

    with pytest.raises(FileError, match="/nowhere"):
        nothing.remote().result(WITHIN)


def test_a_call_that_fails_or_is_cancelled_leaves_no_file(pool: Pool, data: File, tmp_path: Path) -> None:
    """The worker goes on."""

    @remote(pool=pool)
    def raises(file: File) -> None:
        raise ValueError(file.name)

    @remote(pool=pool)
    def waits(file: File) -> None:
        (tmp_path / "begun").touch()
        time.sleep(600)

    with pytest.raises(ValueError, match=r"data\.bin"):
        raises.remote(data).result(WITHIN)
    call = waits.remote(data)
    until = time.monotonic() + WITHIN
    while not (tmp_path / "begun").exists() and time.monotonic() < until:
        time.sleep(0.01)
    call.cancel()
    with pytest.raises(CancelledError):
        call.result(WITHIN)
    assert remote(left_behind, pool=pool).remote().result(WITHIN) == []


def test_an_attempt_that_failed_leaves_no_file(pool: Pool, data: File) -> None:
    """The files that it had returned go with those of the one that counts."""

    @remote(pool=pool, retries=1)
    def second(file: File) -> File:
        if current.attempt() == 1:
            raise ValueError("again")
        return file

    assert second.remote(data).result(WITHIN).path.read_bytes() == NOISE
    assert remote(left_behind, pool=pool).remote().result(WITHIN) == []
