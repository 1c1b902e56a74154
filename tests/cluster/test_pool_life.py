"""What may happen to a warm worker and to its program: calls are told of it rightly, and none is lost."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kubefunc import Pool, current, remote
from tests.cluster.cluster import Cluster
from tests.cluster.spaces import Space
from tests.cluster.waiting import eventually, nothing_left, until_running
from tests.conftest import ROOT

WAIT = 90
RECONNECT = 3.0  # seconds, in place of a minute

_PATIENT = """
import sys, time
from kubefunc.backends.kubernetes.warm import stream, supply

supply.RECONNECT = stream.RECONNECT = float(sys.argv[1])
from kubefunc import Pool, current, remote

with Pool(max_workers=1, share=sys.argv[2] == "shared") as pool:

    @remote(pool=pool, verbose=False)
    def patient(seconds):
        time.sleep(0.0 if current.disruptions() else seconds)
        return current.disruptions()

    call = patient.remote(600.0)
    while not call.running():
        time.sleep(0.05)
    print("runs", flush=True)
    print(call.result(90), flush=True)
"""


def evict(space: Space, pod: str) -> None:
    """What the drain of a node does to each Pod on it."""
    path = f"/api/v1/namespaces/{space.namespace}/pods/{pod}/eviction"
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": space.namespace}}
    space.admin.run("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))


def test_a_node_that_is_drained_costs_no_call_and_no_item(calling: Space) -> None:
    """The worker hands back what it runs; another Pod runs that again, and what had its outcome does not."""
    with Pool(max_workers=1) as pool:

        @remote(pool=pool, verbose=False)
        def item(number: int) -> tuple[int, str]:
            time.sleep(0.05)
            return 2 * number, platform.node()

        @remote(pool=pool, verbose=False)
        def patient(seconds: float) -> tuple[int, str]:
            print("begun")
            time.sleep(0.0 if current.disruptions() else seconds)
            return current.disruptions(), platform.node()

        call = patient.remote(600.0)
        eventually(lambda: "begun" in call.logs(), what="the function")  # one that has not begun counts no disruption
        first = call.stats.pod or ""
        evict(calling, first)
        disruptions, second = call.result(WAIT)
        assert disruptions == 1
        assert second != first
        results = item.map(range(100))
        results.calls[10].result(WAIT)
        evict(calling, second)
        values, pods = zip(*results.result(WAIT), strict=True)
        assert list(values) == [2 * number for number in range(100)]
        assert second in pods
        assert set(pods) != {second}
    nothing_left(calling)


@pytest.mark.parametrize("sharing", ["shared", "alone"])
def test_a_program_that_was_stopped_for_too_long(calling: Space, tmp_path: Path, sharing: str) -> None:
    """Its call is ended, as its client seems to be gone; when the program goes on, the call runs again, and ends."""
    script = tmp_path / "patient.py"
    script.write_text(_PATIENT)
    environ = {**os.environ, "KUBECONFIG": str(calling.kubeconfig), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(script), str(RECONNECT), sharing]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        try:
            assert program.stdout.readline() == "runs\n"
            os.kill(program.pid, signal.SIGSTOP)
            time.sleep(2 * RECONNECT)
            os.kill(program.pid, signal.SIGCONT)
            assert program.stdout.readline() == "1\n"
            assert program.wait(WAIT) == 0
        finally:
            program.kill()
    nothing_left(calling)


def test_a_worker_without_room_is_said_and_the_others_go_on(calling: Space) -> None:
    """The only node has room for one of this size; calls that wait for a second are told why it does not come."""
    with Pool(max_workers=2) as pool:

        @remote(pool=pool, memory="13Gi", verbose=False)
        def wait(seconds: float) -> str:
            time.sleep(seconds)
            return platform.node()

        first = wait.remote(600.0)
        until_running(first)
        second = wait.remote(0.0)
        eventually(lambda: "memory" in second.diagnosis.message, what="the word of the scheduler")
        first.cancel()
        assert second.result(WAIT) == first.stats.pod
    nothing_left(calling)


@pytest.mark.alone
def test_calls_bring_twenty_workers_at_once(calling: Space) -> None:
    """From none: so many calls as there are run at the same time, and nothing stays of their Pods."""
    with Pool(max_workers=20) as pool:
        wait = remote(pool=pool, verbose=False)(time.sleep)
        calls = [wait.remote(600.0) for _ in range(20)]
        eventually(lambda: all(call.running() for call in calls), WAIT, "twenty calls running")
        assert len({call.stats.pod for call in calls}) == pool.workers == 20
        for call in calls:
            call.cancel()
    nothing_left(calling)


@pytest.mark.alone
def test_the_api_server_restarts_under_warm_calls(calling: Space, hermetic: Cluster) -> None:
    """Streams are opened again: a call that runs, calls made meanwhile and a map's items each end once."""
    with Pool(max_workers=2) as pool:

        @remote(pool=pool, verbose=False)
        def later(number: int, seconds: float) -> tuple[int, int]:
            time.sleep(seconds)
            return number, current.disruptions()

        running = later.remote(1, 6.0)
        until_running(running)
        items = later.map(range(200), [0.05] * 200)
        items.calls[5].result(WAIT)
        hermetic.restart_api_server()
        meanwhile = [later.remote(number, 0.0) for number in range(20)]
        assert running.result(WAIT) == (1, 0)
        assert items.result(WAIT) == [(number, 0) for number in range(200)]
        assert [call.result(WAIT) for call in meanwhile] == [(number, 0) for number in range(20)]
    nothing_left(calling)
