"""The express lane, and every way it can end: in none of them is a result late, doubled or spoilt."""

from __future__ import annotations

import time

import pytest

from tests.cluster import work
from tests.cluster.audit import requests_of
from tests.cluster.cluster import Cluster
from tests.cluster.conftest import fresh_session
from tests.cluster.proxy import Proxy
from tests.cluster.spaces import Space
from tests.cluster.waiting import eventually, nothing_left, until_running

# A result by Pod status alone takes one or two seconds on an idle machine; ten mean that something has waited.
SOON = 10.0
SIZES = (1, 100_000)


def timed_results() -> list[float]:
    """Small and larger results, one after another: all right, and the seconds that each took."""
    took = []
    for size in SIZES:
        began = time.monotonic()
        assert work.make.remote(size).result(60) == work.noise(size)
        took.append(time.monotonic() - began)
    return took


def test_a_small_call_costs_five_requests(calling: Space, hermetic: Cluster) -> None:
    """Secret, Job, the Secret's owner, deletion and the express stream; a sixth with output, watches apart."""
    work.double.remote(1).result(60)
    nothing_left(calling)
    for function, most in ((work.double, 5), (work.double_loudly, 6)):
        before = len(requests_of(hermetic.audit_log, calling.user))
        function.remote(2).result(60)
        nothing_left(calling)
        time.sleep(0.5)
        asked = [f"{made.verb} {made.resource}" for made in requests_of(hermetic.audit_log, calling.user)[before:]]
        counted = [one for one in asked if not one.startswith(("watch", "list"))]
        assert len(counted) <= most, counted


def test_by_express_and_by_status_alone(calling: Space) -> None:
    """``express=False`` turns it off: no exec for a small result, and the same values."""
    assert max(timed_results()) < SOON
    call = work.double.options(express=False).remote(4)
    assert call.result(60) == 8
    nothing_left(calling)


@pytest.mark.parametrize("lacking", [("events",), ("pods/exec",), ("events", "pods/exec")])
def test_without_permission(lacking: tuple[str, ...], kube: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without events or exec it is off: slower by the kubelet's tick, no minute for a courier that nobody asks."""
    monkeypatch.setenv("KUBECONFIG", str(kube.without(*lacking)))
    with fresh_session():
        took = timed_results()
        print(f"without {' and '.join(lacking)}: {', '.join(f'{seconds:.1f} s' for seconds in took)}")
        assert max(took) < SOON
    nothing_left(kube)


def test_large_results_and_arguments_without_exec_say_what_they_need(
    kube: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No log holds them: the error comes soon, and names the permission.

    The result waits on in its Pod for ``result_ttl``: whoever may exec can still attach to it.
    """
    monkeypatch.setenv("KUBECONFIG", str(kube.without("pods/exec")))
    with fresh_session():
        for call in (work.make.remote(5_000_000), work.read.remote(work.noise(9_000_000))):
            began = time.monotonic()
            error = call.exception(60)
            assert "pods/exec" in str(error), error
            assert time.monotonic() - began < SOON
            call.discard()


def test_no_courier_yet(calling: Space) -> None:
    """A function that ends before the courier has started: its result comes by status, no later for that.

    The kubelet starts a Pod's containers in turn, and the next only after the hook of the one before.
    """
    hook = {"postStart": {"exec": {"command": ["sleep", "4"]}}}
    template = {"spec": {"containers": [{"name": "main", "lifecycle": hook}]}}
    call = work.say_when_later.options(pod_template=template).remote(1)
    ended = call.result(60)
    print(f"{time.time() - ended:.1f} s after the function's end")
    assert time.time() - ended < SOON
    nothing_left(calling, 60)


def test_both_answers_at_once(proxy: Proxy, kube: Space, capsys: pytest.CaptureFixture[str]) -> None:
    """The stream's answer comes as late as the status, a bit sooner or later: one result, shown once."""
    delivered: list[int] = []
    for number in range(12):
        proxy.late = 0.2 * number
        call = work.double_loudly.remote(number)
        call.add_done_callback(lambda done: delivered.append(done.result()))
        assert call.result(60) == 2 * number
        assert call.logs() == f"doubling {number}\n"
    nothing_left(kube)
    assert delivered == [2 * number for number in range(12)]
    shown = capsys.readouterr().err
    assert [shown.count(f"doubling {number}\n") for number in range(12)] == [1] * 12


@pytest.mark.parametrize("size", SIZES)
def test_a_stream_cut_at_any_byte(size: int, proxy: Proxy, kube: Space) -> None:
    """Before the upgrade, in a frame's head, in the reader's, in the middle, before the last byte."""
    whole = 16 * 1024
    for cut in (0, 40, 128, 129, 130, 131, 140, 150, 180, 260, whole, 100_000):
        proxy.cuts.append(cut)
        before = proxy.execs
        began = time.monotonic()
        assert work.make.remote(size).result(60) == work.noise(size), cut
        assert time.monotonic() - began < SOON, cut
        assert proxy.execs > before
        proxy.cuts.clear()
    nothing_left(kube)


def test_a_long_result_cut_again_and_again(proxy: Proxy) -> None:
    """Each stream goes on where the last one was cut; what came is not asked for again."""
    proxy.cuts.extend([3_000_000] * 4)
    assert work.make.remote(10_000_000).result(60) == work.noise(10_000_000)
    assert proxy.execs == 5 - 1, "four streams: three that were cut at 3 MB, and the one that had the rest"


def test_a_long_argument_cut_on_its_way(proxy: Proxy) -> None:
    """An upload that broke begins again."""
    proxy.cuts.extend([0, 140])
    data = work.noise(20_000_000)
    assert work.read.remote(data).result(90) == work.digest_of(data)


def test_the_courier_dies(calling: Space, hermetic: Cluster) -> None:
    """Killed while the function runs: a small result comes by status, a large one from another Pod."""
    calls = [work.double_later.remote(3, 4), work.make_later.remote(100_000, 4)]
    for call in calls:
        until_running(call)
    for pod in calling.admin.get("pods"):
        hermetic.run("python3", "-c", KILL_THE_COURIER, pod["metadata"]["name"])
    assert calls[0].result(60) == 6
    assert calls[1].result(60) == work.noise(100_000)
    nothing_left(calling)


KILL_THE_COURIER = """
import glob, os, signal, sys
for process in glob.glob('/proc/[0-9]*'):
    try:
        command = open(process + '/cmdline', 'rb').read().split(b'\\0')
        host = b'HOSTNAME=' + sys.argv[1].encode() + b'\\0'
        if b'courier' in command and host in open(process + '/environ', 'rb').read():
            os.kill(int(process.rpartition('/')[2]), signal.SIGKILL)
    except OSError:
        pass
"""


def test_a_call_longer_than_the_stream_may_wait(calling: Space) -> None:
    """After 30 s the stream gives way; the result comes by status, no later than that."""
    call = work.say_when_later.remote(40)
    ended = call.result(90)
    assert time.time() - ended < 5
    nothing_left(calling)


def test_many_short_calls_give_way_to_one_another(calling: Space) -> None:
    """More young calls than streams: the newest wins, the others come by status; each result once."""
    delivered: list[int] = []
    calls = [work.double_later.remote(number, 2) for number in range(24)]
    for call in calls:
        call.add_done_callback(lambda done: delivered.append(done.result()))
    assert [call.result(120) for call in calls] == [2 * number for number in range(24)]
    eventually(lambda: sorted(delivered) == [2 * number for number in range(24)], 5, "each callback once")
    nothing_left(calling, 60)
