"""Maps on a real cluster: one Indexed Job each, whatever becomes of its Pods."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest

import kubefunc
from kubefunc import MapCall
from kubefunc.errors import (
    ImagePullError,
    JobDeletedError,
    OutOfMemoryError,
    PermissionDeniedError,
    PodLostError,
    ResultLostError,
    WorkerDiedError,
)
from tests.cluster import mapped
from tests.cluster.conftest import fresh_session
from tests.cluster.spaces import Space
from tests.cluster.waiting import eventually, nothing_left, nothing_left_but_failed
from tests.conftest import ROOT, clean_environment

WAIT = 90


def pods_of(space: Space, a_map: MapCall[Any]) -> list[dict[str, Any]]:
    """The map's Pods that have no deletion under way."""
    found = space.admin.get("pods", "-l", f"kubefunc/call={a_map.id}")
    return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]


def index_of(pod: dict[str, Any]) -> int:
    """Which chunk it runs."""
    return int(pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"])


def ended(a_map: MapCall[Any]) -> int:
    """How many items have ended."""
    return a_map.progress.ended


# -- what it is


def test_a_thousand_items_are_one_job(calling: Space) -> None:
    """In order, in a few Pods, and nothing stays behind."""
    a_map = mapped.where.map(range(1000))
    (job,) = [each for each in _eventually_jobs(calling) if each["metadata"]["name"] == a_map.id]
    assert job["spec"]["completionMode"] == "Indexed"
    assert job["spec"]["completions"] == 2
    results = a_map.result(WAIT)
    assert [number for number, _, _ in results] == list(range(1000))
    assert Counter(pod for _, pod, _ in results).most_common() == [(pod, 500) for pod in _pods_in_order(results)]
    nothing_left(calling)


def _eventually_jobs(space: Space) -> list[dict[str, Any]]:
    eventually(lambda: bool(space.admin.get("jobs")), what="the Job")
    return list(space.admin.get("jobs"))


def _pods_in_order(results: list[tuple[int, str, float]]) -> list[str]:
    return list(dict.fromkeys(pod for _, pod, _ in results))


def test_results_come_while_the_chunk_runs(calling: Space) -> None:
    """One Pod, ten items of 0.7 s: the first is here long before the last has begun."""
    a_map = mapped.where.map(range(10), [0.7] * 10, chunksize=10)
    came = [(result, time.time()) for result in a_map]
    (_, first_came), ((_, _, last_begun), _) = came[0], came[-1]
    assert first_came < last_begun
    assert len({pod for (_, pod, _), _ in came}) == 1
    nothing_left(calling)


def test_parallelism_is_limited(calling: Space) -> None:
    """max_parallelism Pods at once; the next one starts when one has ended."""
    a_map = mapped.where.map(range(3), [1.0] * 3, chunksize=1, max_parallelism=1)
    begun = [begun for _, _, begun in a_map.result(WAIT)]
    assert all(later - earlier >= 1.0 for earlier, later in itertools.pairwise(begun))
    nothing_left(calling)


def test_large_results(calling: Space) -> None:
    """Results of a few bytes and of megabytes in one chunk: fetched as one stream."""
    sizes = [10, 3_000_000, 0, 70_000, 5_000_000]
    assert list(map(len, mapped.make.map(sizes, chunksize=5).result(WAIT))) == sizes
    nothing_left(calling)


@pytest.mark.usefixtures("calling")
def test_what_items_print(capsys: pytest.CaptureFixture[str]) -> None:
    """It is shown, and logs() has all of it."""
    a_map = mapped.loudly.map(range(4), [0.8] * 4, chunksize=2)
    assert a_map.result(WAIT) == [0, 1, 2, 3]
    for number in range(4):
        assert f"item {number}\n" in a_map.logs()
    assert "item 3" in capsys.readouterr().err


def test_arguments_too_large_for_secrets(calling: Space) -> None:
    """Each Pod is brought its own by its courier."""
    inputs = [os.urandom(1) * (400_000 + number) for number in range(6)]
    a_map = mapped.size_of.map(inputs, chunksize=2)
    assert a_map.result(WAIT) == [len(data) for data in inputs]
    nothing_left(calling)


def test_results_without_permission_to_exec(kube: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small ones stand in Pod status, larger ones in the couriers' logs; brought arguments are refused at once."""
    monkeypatch.setenv("KUBECONFIG", str(kube.without("pods/exec")))
    with fresh_session():
        assert mapped.double.map(range(4)).result(WAIT) == [0, 2, 4, 6]
        assert list(map(len, mapped.make.map([5000, 100_000]).result(WAIT))) == [5000, 100_000]
        with pytest.raises(PermissionDeniedError, match="exec"):
            mapped.size_of.map([bytes(500_000)] * 3).result(WAIT)


# -- how many Pods


def pods_at_once(results: list[tuple[int, str, float]], seconds: float) -> int:
    """The most Pods that were at work at one time, where each item has taken so long."""
    return max(len({pod for _, pod, begun in results if begun <= now < begun + seconds}) for _, _, now in results)


def test_the_number_asked_for_works_at_once(calling: Space) -> None:
    """max_parallelism, or an executor's max_workers, is how many Pods work from the start."""
    a_map = mapped.where.map(range(6), [12.0] * 6, max_parallelism=6)
    eventually(lambda: a_map.progress.pods == 6, what="six Pods at work", within=WAIT)
    assert pods_at_once(a_map.result(WAIT), 12.0) == 6
    with kubefunc.Executor(max_workers=3) as executor:
        results = list(executor.map(mapped.where.function, range(3), [8.0] * 3))
    assert pods_at_once(results, 8.0) == 3
    nothing_left(calling)


def test_slow_items_get_more_pods(calling: Space) -> None:
    """Two Pods at first; what they have not begun is run by others, each item once and in order."""
    a_map = mapped.where.map(range(16), [6.0] * 16)
    results = a_map.result(2 * WAIT)
    assert [number for number, _, _ in results] == list(range(16))
    assert pods_at_once(results, 6.0) > 4
    nothing_left(calling)


def test_a_slow_item_holds_up_no_others(calling: Space) -> None:
    """All other results are here while the first item still runs."""
    a_map = mapped.where.map(range(20), [60.0] + [0.1] * 19)
    others = itertools.islice(a_map.as_completed(), 19)
    assert sorted(index for index, _ in others) == list(range(1, 20))
    assert not a_map.done()
    assert a_map.result(WAIT)[0][0] == 0
    nothing_left(calling)


def test_idle_pods_take_what_others_have_not_begun(calling: Space) -> None:
    """Also where no more than two may run: the second Pod's place is taken by one that works for the first."""
    a_map = mapped.where.map(range(12), [60.0] + [0.1] * 11, max_parallelism=2)
    results = a_map.result(2 * WAIT)
    assert results[11][2] < results[0][2] + 60.0
    assert len({pod for _, pod, _ in results}) > 2
    nothing_left(calling)


def test_a_chunksize_is_kept(calling: Space) -> None:
    """However slow the items are."""
    results = mapped.where.map(range(4), [4.0] * 4, chunksize=2).result(WAIT)
    assert Counter(pod for _, pod, _ in results).most_common() == [(pod, 2) for pod in _pods_in_order(results)]
    nothing_left(calling)


def test_without_permission_to_exec_a_map_starts_wide(kube: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can ask its Pods to give items back."""
    monkeypatch.setenv("KUBECONFIG", str(kube.without("pods/exec")))
    with fresh_session():
        results = mapped.where.map(range(6)).result(WAIT)
        assert len({pod for _, pod, _ in results}) == 6


# -- failures


def test_each_failure_is_its_own(calling: Space) -> None:
    """Items raise, one exhausts the memory, one's process exits: each has its own error, all others their values."""
    kinds = {3: "raise", 7: "memory", 12: "exit", 17: "raise"}
    a_map = mapped.trouble.options(memory="96Mi").map(
        range(20), [kinds.get(number, "") for number in range(20)], chunksize=5, return_exceptions=True
    )
    results = a_map.result(WAIT)
    assert {n: r for n, r in enumerate(results) if n not in kinds} == {n: n for n in range(20) if n not in kinds}
    assert isinstance(results[3], LookupError)
    assert results[3].args == (3,)
    assert isinstance(results[7], OutOfMemoryError)
    assert isinstance(results[12], WorkerDiedError)
    assert results[12].exit_code == 9
    assert isinstance(results[17], LookupError)
    nothing_left_but_failed(calling)


def test_a_container_that_is_killed(calling: Space) -> None:
    """As the kernel does under cgroup v2: the item that ran has the error, the others run in a new Job."""
    template = {"spec": {"containers": [{"name": "main", "command": _UNDER_A_SHELL}]}}
    a_map = mapped.trouble.options(pod_template=template).map(
        range(6), ["", "", "kill main", "", "", ""], chunksize=3, return_exceptions=True
    )
    results = a_map.result(WAIT)
    assert isinstance(results[2], WorkerDiedError), results
    assert [results[n] for n in (0, 1, 3, 4, 5)] == [0, 1, 3, 4, 5]


def test_items_that_need_more_memory_get_it(calling: Space) -> None:
    """Those that ran out of it, and no others, run again with twice as much, up to the ceiling; then all is tidy."""
    a_map = mapped.fill.options(memory=("64Mi", "256Mi"), retries=2).map(
        [1, 1, 90, 1, 1, 1, 1, 160], chunksize=4, return_exceptions=True
    )
    results = a_map.result(WAIT)
    assert [size for size, _ in results] == [1, 1, 90, 1, 1, 1, 1, 160]
    limits = [limit // 2**20 for _, limit in results]
    assert limits == [64, 64, 128, 64, 64, 64, 64, 256]
    nothing_left(calling)


@pytest.mark.usefixtures("calling")
def test_attempts_with_more_memory_are_counted() -> None:
    """``current.attempt()`` goes on counting in the Job that has more, as for calls."""
    growing = mapped.attempt_that_could_fill.options(memory=("64Mi", "256Mi"), retries=2)
    assert growing.map([1, 160], chunksize=1).result(WAIT) == [1, 3]


def test_an_item_that_needs_more_than_the_ceiling_fails_alone(calling: Space) -> None:
    """With the error, and the memory of its last attempt in it; attempts with more memory are ``retries``."""
    options = mapped.fill.options(memory=("64Mi", "128Mi"), retries=1)
    results = options.map([1, 400], chunksize=1, return_exceptions=True).result(WAIT)
    assert results[0] == (1, 64 * 2**20)
    assert isinstance(results[1], OutOfMemoryError)
    assert "128 MiB" in str(results[1])


# No process can kill the first one of its container; as a shell's child the supervisor can be killed, and ends it so.
_UNDER_A_SHELL = ["sh", "-c", 'python3 "$0" "$1"; exit $?', "/kubefunc/in/kubefunc.pyz", "main"]


def test_retries_are_each_items_own(calling: Space) -> None:
    """An item is tried again in its Pod, as often as it may; the others are not run twice."""
    again = mapped.attempt_of.options(retries=2, retry_exceptions=[ConnectionError])
    a_map = again.map(range(4), [1, 2, 3, 9], chunksize=4, return_exceptions=True)
    *values, failed = a_map.result(WAIT)
    assert values == [1, 2, 3]
    assert isinstance(failed, ConnectionError)
    nothing_left_but_failed(calling)


@pytest.mark.parametrize("how", ["delete", "evict"])
def test_a_lost_pod_loses_only_what_was_not_here(how: str, calling: Space) -> None:
    """Deleted by hand or evicted in the middle: its replacement skips what has its outcome, and runs the rest."""
    a_map = mapped.until_replaced.map(range(8), [5] * 8, chunksize=8)
    eventually(lambda: ended(a_map) == 5, WAIT, "five results")
    (pod,) = pods_of(calling, a_map)
    if how == "delete":
        calling.admin.run("delete", "pod", pod["metadata"]["name"], "--wait=false")
    else:
        _evict(calling, pod["metadata"]["name"])
    assert a_map.result(WAIT) == [False] * 5 + [True] * 3
    nothing_left(calling)


def test_a_function_knows_how_often_its_pod_was_replaced(calling: Space) -> None:
    """By the Job (it ends when asked) or by kubefunc (it is killed); of a single call only the latter is known."""
    a_map, call = mapped.hang_in_the_first_pod.map([False]), mapped.hang_in_the_first_pod.remote(True)
    for each in (a_map, call):
        eventually(lambda each=each: "hangs" in each.logs(), WAIT, "the function's start")
    (pod,) = pods_of(calling, a_map)
    calling.admin.run("delete", "pod", pod["metadata"]["name"], "--wait=false")
    (pod,) = calling.admin.get("pods", "-l", f"kubefunc/call={call.id}")
    calling.admin.run("delete", "pod", pod["metadata"]["name"], "--wait=false", "--grace-period=1")
    assert a_map.result(WAIT) == [(1, 1)]
    assert call.result(WAIT) == (1, 1)


def _evict(space: Space, pod: str) -> None:
    eviction = f'{{"apiVersion":"policy/v1","kind":"Eviction","metadata":{{"name":"{pod}"}}}}'
    path = f"/api/v1/namespaces/{space.namespace}/pods/{pod}/eviction"
    space.admin.run("create", "--raw", path, "-f", "-", stdin=eviction)


def test_pods_taken_away_too_often(calling: Space) -> None:
    """max_disruptions is each chunk's: the others go on to their end."""
    patient = mapped.nap.options(max_disruptions=0)
    a_map = patient.map(range(2), [6.0, 3.0], chunksize=1, return_exceptions=True)
    eventually(lambda: a_map.progress.running == 2, WAIT, "both running")
    (first,) = [pod for pod in pods_of(calling, a_map) if index_of(pod) == 0]
    calling.admin.run("delete", "pod", first["metadata"]["name"], "--wait=false", "--grace-period=1")
    lost, value = a_map.result(WAIT)
    assert isinstance(lost, PodLostError)
    assert value == 1


@pytest.mark.usefixtures("calling")
def test_what_keeps_one_pod_from_starting_keeps_all() -> None:
    """An image that does not exist ends the map once, with the reason."""
    a_map = mapped.double.options(image="docker.io/library/no-such-image:1").map(range(100))
    with pytest.raises(ImagePullError, match="no-such-image"):
        a_map.result(WAIT)
    assert a_map.progress.failed == 100


def test_someone_deletes_the_job(calling: Space) -> None:
    """Those that have their results keep them."""
    a_map = mapped.nap.map(range(6), [0.6] * 6, chunksize=6, return_exceptions=True)
    eventually(lambda: ended(a_map) >= 2, WAIT, "two results")
    calling.admin.run("delete", "job", a_map.id)
    results = a_map.result(WAIT)
    assert results[:2] == [0, 1]
    assert isinstance(results[-1], JobDeletedError)


def test_cancel_in_the_middle_leaves_no_pod(calling: Space) -> None:
    """What has ended stays; all else is cancelled, and the Job goes with its Pods."""
    a_map = mapped.nap.map(range(40), [0.5] * 40, chunksize=20)
    eventually(lambda: ended(a_map) >= 2, WAIT, "two results")
    assert a_map.cancel()
    nothing_left(calling, 60)
    assert a_map.progress.cancelled > 0
    with pytest.raises(CancelledError):
        a_map.result()


def test_fail_fast_ends_a_map_at_its_first_failure(calling: Space) -> None:
    """The exception comes at once, though items before it still run; Pods and Job go."""
    kinds = ["", "", "", "raise", "", ""]
    a_map = mapped.trouble.map(range(6), kinds, [600, 600, 600, 0, 600, 600], fail_fast=True, chunksize=1)
    with pytest.raises(LookupError, match="3"):
        a_map.result(WAIT)
    assert a_map.progress.stopped_by == 3
    assert a_map.progress.cancelled == 5
    nothing_left(calling, 60)


def test_retry_failed(calling: Space) -> None:
    """Only what failed runs again: under the same id, in a Job of its own."""
    failing = mapped.trouble.map(range(4), ["", "raise", "", "raise"], return_exceptions=True)
    failing.result(WAIT)
    assert failing.progress.failed == 2
    again = failing.retry_failed()
    assert again.id == failing.id
    again.result(WAIT)
    assert again.progress.failed == 2
    nothing_left_but_failed(calling)


# -- another process, another day


def made_by_a_program(space: Space, folder: Path, text: str) -> str:
    """The id of the map that a program makes and prints, before it ends or is killed."""
    program = folder / "main.py"
    program.write_text(text)
    environ = clean_environment(folder) | {"KUBECONFIG": str(space.kubeconfig), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(program)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=2 * WAIT, check=False)
    killed = "SIGKILL" in text
    assert done.returncode == (-signal.SIGKILL if killed else 0), done.stderr
    return done.stdout.strip()


def sizes_found(call: str) -> list[int]:
    """The sizes of the results that another program finds, which then discards the map."""
    with fresh_session():
        attached = kubefunc.attach_map(call)
        sizes = list(map(len, attached.result(WAIT)))
        attached.discard()
    return sizes


def test_a_killed_client_takes_no_results_with_it(kube: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it had is in the cluster still, small or large, and the rest arrives: attach_map() has all."""
    call = made_by_a_program(
        kube,
        tmp_path,
        "import os, signal, time\n"
        "from tests.cluster import mapped\n"
        "sizes, naps = [3000, 3000, 5_000_000, 10, 10, 10], [0, 0, 0, 0, 25, 0]\n"
        "a_map = mapped.make_slowly.map(sizes, naps, chunksize=2)\n"
        "print(a_map.id, flush=True)\n"
        "while a_map.progress.succeeded < 4:\n"
        "    time.sleep(0.1)\n"
        "time.sleep(2)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n",
    )
    monkeypatch.setenv("KUBECONFIG", str(kube.kubeconfig))
    assert sizes_found(call) == [3000, 3000, 5_000_000, 10, 10, 10]


def test_a_killed_client_of_a_map_that_got_more_pods(
    kube: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Job that has ended first stays as long as others of the map run: its outcomes are found there."""
    call = made_by_a_program(
        kube,
        tmp_path,
        "import os, signal, time\n"
        "from tests.cluster import mapped\n"
        "a_map = mapped.make_slowly.map([3000] * 8, [4] * 7 + [40])\n"
        "print(a_map.id, flush=True)\n"
        "while a_map.progress.succeeded < 7:\n"
        "    time.sleep(0.1)\n"
        "time.sleep(4)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n",
    )
    monkeypatch.setenv("KUBECONFIG", str(kube.kubeconfig))
    assert len(kube.admin.get("jobs")) > 1
    assert sizes_found(call) == [3000] * 8


def test_a_client_killed_between_two_jobs_leaves_items_that_can_run_again(
    kube: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had taken them back from a Pod. Who attaches is told so, and the advice works."""
    call = made_by_a_program(
        kube,
        tmp_path,
        "import os, signal\n"
        "from kubefunc.backends.kubernetes.control.maps import Maps\n"
        "from tests.cluster import mapped\n"
        "Maps._run_given = lambda *given: os.kill(os.getpid(), signal.SIGKILL)\n"
        "a_map = mapped.make_slowly.map([10] * 8, [2] * 8)\n"
        "print(a_map.id, flush=True)\n"
        "a_map.result()\n",
    )
    monkeypatch.setenv("KUBECONFIG", str(kube.kubeconfig))
    with fresh_session():
        attached = kubefunc.attach_map(call, return_exceptions=True)
        ended = attached.result(WAIT)
        assert {type(each) for each in ended} == {bytes, kubefunc.errors.ResultLostError}
        assert any("These items of" in str(each) and "have not run" in str(each) for each in ended)
        attached.retry_failed()
        assert list(map(len, attached.result(WAIT))) == [10] * 8
        attached.discard()


def test_attaching_while_a_map_gets_more_pods(calling: Space) -> None:
    """Who attached before further Jobs were made has their outcomes too."""
    a_map = mapped.where.map(range(10), [5.0] * 9 + [300.0])
    eventually(lambda: bool(a_map.progress.pods), within=WAIT, what="the first Pod")
    with fresh_session():
        attached = kubefunc.attach_map(a_map.id)
        first = list(itertools.islice(attached.as_completed(), 9))
        assert sorted(index for index, _ in first) == list(range(9))
        assert len({pod for _, (_, pod, _) in first}) > 2
    a_map.cancel()
    nothing_left(calling)


def test_pods_that_keep_large_results_make_way(calling: Space) -> None:
    """Where another Pod of the map waits for the place, what has been fetched is kept no longer."""
    a_map = mapped.make.map([5_000_000] * 3, chunksize=1, max_parallelism=1)
    assert list(map(len, a_map.result(WAIT))) == [5_000_000] * 3
    nothing_left(calling)


def test_a_full_output_volume_costs_the_item_that_does_not_fit(calling: Space) -> None:
    """Its error says so; the chunk goes on with the others."""
    small = {"name": "kubefunc-out", "emptyDir": {"medium": "Memory", "sizeLimit": "2Mi"}}
    make = mapped.make.options(pod_template={"spec": {"volumes": [small]}})
    a_map = make.map([100_000, 1_500_000, 7], chunksize=3, return_exceptions=True)
    first, second, third = a_map.result(WAIT)
    assert (len(first), len(third)) == (100_000, 7)
    assert isinstance(second, ResultLostError)
    assert "is full" in str(second)
    a_map.discard()
    nothing_left(calling)


def test_attaching_to_a_detached_map(kube: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program that made it has ended: its results are there, those to come arrive; what failed can run again."""
    call = made_by_a_program(
        kube,
        tmp_path,
        "from tests.cluster import mapped\n"
        "kinds = ['', 'raise', '', '', 'hang', '']\n"
        "a_map = mapped.trouble.options(detach=True, timeout=6).map(range(6), kinds, chunksize=3)\n"
        "import time\n"
        "while not a_map.progress.running:\n"
        "    time.sleep(0.1)\n"
        "print(a_map.id)\n",
    )
    monkeypatch.setenv("KUBECONFIG", str(kube.kubeconfig))
    with fresh_session():
        attached = kubefunc.attach_map(call, return_exceptions=True)
        assert len(attached) == 6
        results = attached.result(WAIT)
        assert [results[n] for n in (0, 2, 3, 5)] == [0, 2, 3, 5]
        assert isinstance(results[1], LookupError)
        assert isinstance(results[4], kubefunc.errors.CallTimeoutError)
        again = attached.retry_failed()
        again.result(WAIT)
        assert again.progress.failed == 2
        attached.discard()
    nothing_left(kube)


@pytest.mark.usefixtures("calling")
def test_attaching_to_nothing() -> None:
    """An id that no Job has: the error says what may have become of it."""
    with pytest.raises(kubefunc.errors.ResultLostError, match="no map"):
        kubefunc.attach_map("train-aaaaaaaaaaaaaaaa").result(WAIT)
