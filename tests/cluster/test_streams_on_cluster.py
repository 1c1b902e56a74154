"""Generator functions in Pods: values while they run, their end, cut streams, lost Pods."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from kubefunc import Pool, errors
from tests.cluster.conftest import fresh_session
from tests.cluster.proxy import Proxy
from tests.cluster.spaces import Space
from tests.cluster.streaming import (
    count,
    fails_after,
    fills_its_memory,
    forever,
    large,
    notes_its_end,
    squares,
    waits_for,
)
from tests.cluster.waiting import eventually, nothing_left

NO_USER_NAMESPACE: Any = {"pod_template": {"spec": {"hostUsers": True}}, "run_as_user": 1000}  # containerd 1.6
QUICK = {"spec": {"terminationGracePeriodSeconds": 1}}


def test_values_come_while_the_function_runs(calling: Space) -> None:
    """This one has no end, and ends where its consumer leaves it."""
    with forever.options(stream_ahead=10).remote() as stream:
        assert [next(stream) for _ in range(100)] == list(range(100))
        assert not stream.done()
        [pod] = calling.admin.get("pods")
        waiting = calling.admin.run(
            "exec", pod["metadata"]["name"], "-c", "courier", "--", "ls", "/kubefunc/out/stream"
        )
        assert 1 <= len([name for name in waiting.split() if name.isdigit()]) <= 20
    nothing_left(calling)


def test_a_stream_to_its_end(calling: Space) -> None:
    """Values, what the generator returned, and its exception; ``async for``, too."""
    returned, failing, asynchronous = count.remote(250), fails_after.remote(2), squares.remote(4)
    untrusted = count.options(untrusted=True, stream_ahead=5, **NO_USER_NAMESPACE).remote(30)
    assert list(returned) == list(range(250))
    assert returned.result(60) == "counted"
    assert [next(failing), next(failing)] == [0, 1]
    with pytest.raises(LookupError, match="none after 2"):
        next(failing)

    async def take() -> list[int]:
        return [value async for value in asynchronous]

    assert asyncio.run(take()) == [0, 1, 4, 9]
    assert list(untrusted) == list(range(30))


@pytest.mark.parametrize("pool", [None, Pool(max_workers=1, share=False)], ids=["Job", "pool"])
def test_a_stream_that_runs_out_of_memory(calling: Space, pool: Pool | None) -> None:
    """What it has yielded is there. Retries would not help, and are not the advice."""
    stream = fills_its_memory.options(pool=pool, retries=2).remote()
    assert next(stream) == 1
    with pytest.raises(errors.OutOfMemoryError, match=r"do: Raise memory=\. Retries do not help here"):
        next(stream)
    if pool is not None:
        pool.close()


def test_large_values(calling: Space) -> None:
    """More than may wait in the Pod at once."""
    sizes = [0, 70_000, 10_000_000, *[25_000_000] * 3]
    assert [len(value) for value in large.remote(sizes)] == sizes


def test_closing_runs_the_clean_up(calling: Space, capsys: pytest.CaptureFixture[str]) -> None:
    """GeneratorExit at its ``yield``; who follows its log sees what it prints then."""
    stream = notes_its_end.options(stream_ahead=1).remote()
    assert next(stream) == 0
    follow = stream.call.logs(follow=True)
    assert next(follow).strip() == "opened"  # its log is being read
    stream.close()
    assert list(stream) == []
    assert "closed" in "".join(follow)
    nothing_left(calling, 60)


@pytest.mark.parametrize("grace", [QUICK, {}], ids=["killed", "ended"])
def test_a_lost_pod(calling: Space, grace: dict[str, object]) -> None:
    """After values, the consumer is told how many came; no value comes twice."""
    stream = forever.options(pod_template=grace, stream_ahead=5).remote()
    taken = [next(stream), next(stream), next(stream)]
    calling.admin.run("delete", "pods", "--all", "--wait=false")
    with pytest.raises(errors.StreamLostError, match="lost after") as lost:
        taken += list(stream)
    taken += list(stream)
    assert lost.value.values >= len(taken) >= 3
    assert taken == list(range(len(taken)))
    nothing_left(calling, 60)


def test_a_pod_that_is_lost_before_the_first_value(calling: Space) -> None:
    """The function runs again in another Pod, as any other does."""
    stream = waits_for.options(pod_template=QUICK).remote("/tmp/go")
    eventually(stream.call.running, 60, "the function")
    first = stream.call.stats.pod
    calling.admin.run("delete", "pods", "--all", "--wait=false")
    eventually(lambda: stream.call.running() and stream.call.stats.pod != first, 60, "the next Pod")
    calling.admin.run("exec", str(stream.call.stats.pod), "-c", "main", "--", "touch", "/tmp/go")
    assert list(stream) == [0]


def test_cut_streams_go_on_where_they_were(kube: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each value once, in order."""
    proxy = Proxy(kube.kubeconfig)
    monkeypatch.setenv("KUBECONFIG", str(proxy.kubeconfig(tmp_path / "proxied.kubeconfig")))
    try:
        with fresh_session():
            proxy.cuts += [300, 2_000, 50_000, 70_001]
            assert list(count.remote(1000)) == list(range(1000))
            assert not proxy.cuts
    finally:
        proxy.close()


def test_without_exec_it_is_refused(kube: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before its Job is made, with the rule that is missing."""
    monkeypatch.setenv("KUBECONFIG", str(kube.without("pods/exec")))
    with fresh_session(), pytest.raises(errors.PermissionDeniedError, match="pods/exec"):
        next(count.remote(1))
    nothing_left(kube)


@pytest.mark.parametrize("fresh", [True, False], ids=["a process each", "one process"])
def test_streams_in_a_pool(calling: Space, fresh: bool) -> None:
    """As in a Job, one after another in one Pod; one that is left early costs its process, and not the worker."""
    with Pool(max_workers=1, fresh=fresh) as pool:
        returned = count.options(pool=pool, stream_ahead=5).remote(250)
        assert list(returned) == list(range(250))
        assert returned.result(60) == "counted"
        failing = fails_after.options(pool=pool, retries=1).remote(2)
        assert [next(failing), next(failing)] == [0, 1]
        with pytest.raises(LookupError, match="none after 2"):
            next(failing)
        with notes_its_end.options(pool=pool, stream_ahead=1).remote() as left:
            assert [next(left), next(left)] == [0, 1]

        async def take() -> list[int]:
            return [value async for value in squares.options(pool=pool, stream_ahead=1).remote(4)]

        assert asyncio.run(take()) == [0, 1, 4, 9]
        sizes = [0, 70_000, 10_000_000]
        assert [len(value) for value in large.options(pool=pool).remote(sizes)] == sizes
        eventually(lambda: "closed" in left.call.logs(), 10, "its clean-up")
        assert len(calling.admin.get("pods")) == 1
        losing = forever.options(pool=pool, stream_ahead=5).remote()
        taken = [next(losing), next(losing)]
        calling.admin.run("delete", "pods", "--all", "--wait=false", "--grace-period=1")
        with pytest.raises(errors.StreamLostError, match="lost after"):
            taken += list(losing)
        assert [*taken, *losing][:2] == [0, 1]
    nothing_left(calling, 60)


def test_cut_streams_of_a_pool_go_on_where_they_were(
    kube: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each value once, in order."""
    proxy = Proxy(kube.kubeconfig)
    monkeypatch.setenv("KUBECONFIG", str(proxy.kubeconfig(tmp_path / "proxied.kubeconfig")))
    try:
        with fresh_session(), Pool(max_workers=1) as pool:
            proxy.cuts += [2_000, 5_000, 50_000, 70_001]
            assert list(count.options(pool=pool, stream_ahead=10).remote(1000)) == list(range(1000))
            assert not proxy.cuts
    finally:
        proxy.close()
