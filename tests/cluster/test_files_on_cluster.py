"""``File`` on a cluster: from this machine's disk to the Pod's, and back."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

import kubefunc
from kubefunc import File, Pool, remote
from kubefunc.errors import ConfigurationError, FileError, PermissionDeniedError, ResultLostError
from tests.cluster import work
from tests.cluster.conftest import fresh_session
from tests.cluster.proxy import Proxy
from tests.cluster.spaces import Space

WAIT = 120
MB = 1_000_000


def noise_at(path: Path, size: int) -> File:
    """A file of the caller's with so many bytes."""
    with path.open("wb") as file:
        for start in range(0, size, MB):
            file.write(os.urandom(min(MB, size - start)))
    return File(path)


def test_files_of_every_size_there_and_back(calling: Space, tmp_path: Path) -> None:
    """One map: each item has a file of its own, and returns it with the digest that the Pod saw."""
    sizes = [0, 1, MB, 20 * MB]
    files = [noise_at(tmp_path / f"data {size}.bin", size) for size in sizes]
    results = list(work.echo_file.map(files))
    for file, (name, seen, back) in zip(files, results, strict=True):
        assert name == back.name == file.name
        assert seen == work.file_digest(file) == work.file_digest(back)
        assert back.path != file.path


def test_a_hundred_megabytes_cost_no_memory(calling: Space, tmp_path: Path) -> None:
    """Neither here nor in the function's process, in either direction."""
    file = noise_at(tmp_path / "large.bin", 100 * MB)
    work.double.remote(1).result(WAIT)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (_, seen, back), there = work.echo_file_and_memory.remote(file).result(WAIT)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    saved = back.save(tmp_path / "saved.bin")
    assert saved.stat().st_size == 100 * MB
    assert work.file_digest(saved) == seen
    print(f"KiB here: {before} -> {after}; in the Pod: {there}")
    assert after - before < 60_000
    assert there < 100_000


def test_another_program_attaches_to_a_call_with_files(calling: Space, tmp_path: Path) -> None:
    """Its Pod keeps a detached call's file, however small, until it is discarded."""
    call = work.echo_file.options(detach=True).remote(noise_at(tmp_path / "data", 1000))
    call.result(WAIT)
    with fresh_session():
        attached = kubefunc.attach(call.id)
        _, seen, back = attached.result(WAIT)
        assert work.file_digest(back) == seen
        attached.discard()


def test_a_returned_file_whose_streams_are_cut(proxy: Proxy, tmp_path: Path) -> None:
    """Each stream goes on where the last was cut."""
    proxy.cuts.extend([0, 3 * MB, 3 * MB, 3 * MB])
    _, seen, back = work.make_file.remote(10 * MB).result(WAIT)
    assert work.file_digest(back) == seen
    assert not proxy.cuts


def test_without_exec_there_are_no_files(kube: Space, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Both ways the error names the permission that lacks."""
    monkeypatch.setenv("KUBECONFIG", str(kube.without("pods/exec")))
    with fresh_session():
        with pytest.raises(PermissionDeniedError, match="pods/exec"):
            work.echo_file.remote(noise_at(tmp_path / "data", 10)).result(WAIT)
        with pytest.raises(ResultLostError, match="has files, and you lack the permission"):
            work.make_file.remote(10).result(WAIT)
    kube.clear()


def test_a_file_that_changes_before_it_is_sent(calling: Space, tmp_path: Path) -> None:
    """The call fails: what it would have read is not what was there when it was made."""
    file = noise_at(tmp_path / "data", 10)
    call = work.echo_file.remote(file)
    file.path.write_bytes(b"something else")
    with pytest.raises(FileError, match="has changed since the call was made"):
        call.result(WAIT)
    file = noise_at(tmp_path / "data", 10)
    call = work.echo_file.remote(file)
    file.path.unlink()
    with pytest.raises(FileError, match="No such file"):
        call.result(WAIT)


def test_a_pod_without_room_for_a_file(calling: Space, tmp_path: Path) -> None:
    """A volume of 1 MiB in the place of ours: the error names file, Pod and reason."""
    small = {"volumes": [{"name": "kubefunc-out", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}]}
    with pytest.raises(FileError, match="No space left on device") as caught:
        work.echo_file.options(pod_template=small).remote(noise_at(tmp_path / "data", 4 * MB)).result(WAIT)
    assert "data" in str(caught.value)
    with pytest.raises(ResultLostError, match="is full"):
        work.make_file.options(pod_template=small).remote(4 * MB).result(WAIT)


def test_a_hundred_megabytes_through_a_pool_cost_no_memory(calling: Space, tmp_path: Path) -> None:
    """Neither here nor in the function's process; the worker's disk has none of it afterwards."""
    file = noise_at(tmp_path / "large.bin", 100 * MB)
    with Pool(max_workers=1) as pool:
        listing = remote(os.listdir, pool=pool)
        assert listing.remote("/kubefunc/out/warm").result(WAIT)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        call = work.echo_file_and_memory.options(pool=pool).remote(file)
        (name, seen, back), there = call.result(WAIT)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert name == back.name == "large.bin"
        assert back.size == 100 * MB
        assert work.file_digest(back) == seen
        print(f"KiB here: {before} -> {after}; in the Pod: {there}")
        assert after - before < 60_000
        assert there < 100_000
        listed = listing.remote("/kubefunc/out/warm").result(WAIT)
        assert not [each for each in listed if ".file." in each or ".in" in each]


def test_files_of_a_pool_whose_streams_are_cut(proxy: Proxy, tmp_path: Path) -> None:
    """Both ways each stream goes on where the last was cut, the worker's own among them; the function runs once."""
    with Pool(max_workers=1) as pool:
        assert work.double.options(pool=pool).remote(1).result(WAIT) == 2
        proxy.cuts.extend([0, 3 * MB, 3 * MB, 3 * MB])
        file = noise_at(tmp_path / "data.bin", 10 * MB)
        _, seen, back = work.echo_file.options(pool=pool).remote(file).result(WAIT)
        assert seen == work.file_digest(file) == work.file_digest(back)
        assert not proxy.cuts


def test_the_failed_items_of_another_program_are_not_run_again_without_their_files(
    calling: Space, tmp_path: Path
) -> None:
    """Who attaches to a map has its arguments, but not the files among them: told before anything is made."""
    started = work.refuse_file.options(detach=True).map([noise_at(tmp_path / "data", 10)])
    with pytest.raises(ValueError, match="data"):
        list(started)
    with fresh_session():
        attached = kubefunc.attach_map(started.id)
        with pytest.raises(ValueError, match="data"):
            list(attached)
        with pytest.raises(ConfigurationError, match="files among its arguments"):
            attached.retry_failed()
        attached.discard()
