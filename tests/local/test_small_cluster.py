"""``testing.cluster()``: the Kubernetes backend as a whole, with a small cluster in the test's own process."""

from __future__ import annotations

import os
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest

from kubefunc import attach, errors, remote, testing
from kubefunc.testing.small_cluster import SmallCluster
from kubefunc.testing.store import Store
from tests.local import clustered

WITHIN = 60  # seconds that anything here may take on a loaded machine


@pytest.fixture(scope="module")
def cluster() -> Iterator[SmallCluster]:
    """One for all tests of this file."""
    with testing.cluster() as started:
        yield started


def eventually(holds: Callable[[], bool]) -> None:
    """Return once it holds."""
    deadline = time.monotonic() + WITHIN
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_empty(cluster: SmallCluster) -> bool:
    """Whether nothing is left on it."""
    return not (cluster.jobs or cluster.pods or cluster.secrets)


def test_a_call_is_a_job_there(cluster: SmallCluster) -> None:
    """With its Secret, its Pod and its log; all are gone when the result is here."""
    call = clustered.double.options(cpu=2, labels={"team": "blue"}).remote(4)
    assert call.result(WITHIN) == 8
    assert call.logs() == "doubling 4\n"
    job = cluster.created[-1]
    assert job["metadata"]["name"] == call.id
    assert job["metadata"]["labels"]["team"] == "blue"
    assert (call.stats.pod or "").startswith(call.id)
    eventually(lambda: is_empty(cluster))


def test_a_pod_has_the_variables_of_its_call(cluster: SmallCluster) -> None:
    """Those of ``env``, its own name and its place in a map; not those of the caller."""
    looks = clustered.look.options(env={"MODE": "fast"})
    found = looks.map(["MODE", "PYTEST_CURRENT_TEST"], chunksize=1).result(WITHIN)
    assert [(index, value) for index, value, _ in found] == [(0, "fast"), (1, None)]
    pods = {pod for _, _, pod in found}
    assert len(pods) == 2
    assert all(pod.startswith(cluster.created[-1]["metadata"]["name"]) for pod in pods)


def test_large_arguments_and_results_travel_by_exec(cluster: SmallCluster) -> None:
    """As on a cluster: they fit neither a Secret nor a Pod's status."""
    data = os.urandom(10_000_000)
    assert clustered.echo.remote(data).result(WITHIN) == data


def test_what_functions_raise_and_how_they_die(cluster: SmallCluster) -> None:
    """The function's own exception, and a typed error where its process ends without one."""
    assert isinstance(clustered.fail.remote("raise").exception(WITHIN), LookupError)
    died = clustered.fail.remote("exit").exception(WITHIN)
    assert isinstance(died, errors.WorkerDiedError)
    assert died.exit_code == 9


def test_a_map_is_one_indexed_job(cluster: SmallCluster) -> None:
    """With items that fail alone."""
    before = len(cluster.created)
    results = clustered.inverse.map(range(-5, 6), return_exceptions=True).result(WITHIN)
    assert isinstance(results[5], ZeroDivisionError)
    assert results[0] == -0.2
    (job,) = cluster.created[before:]
    assert job["spec"]["completionMode"] == "Indexed"


def test_fail_fast_ends_its_pods(cluster: SmallCluster) -> None:
    """The map's Job goes, with what runs in it."""
    hanging = clustered.fail_or_hang.map(range(3), chunksize=1, fail_fast=True)
    with pytest.raises(LookupError):
        hanging.result(WITHIN)
    eventually(lambda: hanging.id not in [job["metadata"]["name"] for job in cluster.jobs])
    eventually(lambda: hanging.id not in [pod["metadata"]["labels"]["job-name"] for pod in cluster.pods])


def test_a_pod_that_is_deleted_is_replaced(cluster: SmallCluster, tmp_path: Path) -> None:
    """The call goes on in another one, and its result is the caller's."""
    begun = tmp_path / "begun"
    call = clustered.hang_once.remote(str(begun))
    eventually(begun.exists)
    (pod,) = [pod for pod in cluster.pods if pod["metadata"]["labels"]["job-name"] == call.id]
    cluster.delete_pod(pod["metadata"]["name"])
    assert call.result(WITHIN) != pod["metadata"]["name"]


def test_another_handle_can_be_attached(cluster: SmallCluster) -> None:
    """By the id, with what is in the Job's Secret."""
    call = clustered.double.options(detach=True).remote(21)
    assert call.result(WITHIN) == 42
    assert attach(call.id).result(WITHIN) == 42
    call.discard()
    eventually(lambda: call.id not in [job["metadata"]["name"] for job in cluster.jobs])


def test_a_module_that_pods_lack_is_found(cluster: SmallCluster) -> None:
    """As before each call to Kubernetes, though this machine has it: this file imports pytest."""

    def here() -> type[Exception]:
        return pytest.UsageError

    with pytest.raises(errors.MissingModuleError, match="pytest"):
        remote(here).remote()


def test_defaults_are_for_the_block_alone() -> None:
    """Options as for configure(); the server and its files are gone afterwards."""
    with testing.cluster(env={"MODE": "test"}) as started:
        assert clustered.look.remote("MODE").result(WITHIN)[1] == "test"
        kubeconfig, url = started.kubeconfig, started._server.url
    assert not kubeconfig.exists()
    with pytest.raises(OSError, match=r"refused|reset"):
        urllib.request.urlopen(url, timeout=5)


@pytest.mark.parametrize("block", [testing.local, testing.cluster])
def test_nobody_waits_in_vain_for_a_call_that_the_end_of_a_block_has_cancelled(block: Any) -> None:
    """It has an error that says so, also an item of a map."""
    with block():
        call = clustered.fail_or_hang.remote(1)
        hanging = clustered.fail_or_hang.map([1, 1])
        eventually(call.running)
    for handle in (call, hanging.calls[1]):
        with pytest.raises((errors.KubefuncError, CancelledError)):
            handle.result(WITHIN)
    with pytest.raises(errors.KubefuncError, match=r"ended before fail-or-hang-.* did\. Wait for its result inside"):
        call.result(WITHIN)


def test_the_store_is_an_api_servers() -> None:
    """Objects have UIDs and versions; a watch tells what came after a version, of objects with these labels."""
    store = Store()
    made = store.add("pods", {"metadata": {"name": "a", "labels": {"app": "x"}}})
    assert made is not None
    assert store.add("pods", {"metadata": {"name": "a"}}) is None
    store.add("pods", {"metadata": {"name": "b", "labels": {"app": "y"}}})
    listed, version = store.items("pods", "app=x")
    assert [each["metadata"]["uid"] for each in listed] == [made["metadata"]["uid"]]
    store.change("pods", "a", {"status": {"phase": "Running"}})
    store.change("pods", "b", {"status": {"phase": "Running"}})
    store.remove("pods", "a")
    news = store.watch("pods", "app=x", version)
    assert [next(news)[0] for _ in range(2)] == ["MODIFIED", "DELETED"]
    store.close()
    assert list(news) == []
