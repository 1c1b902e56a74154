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
from tests.cluster.spaces import Space
from tests.cluster.waiting import eventually, nothing_left
from tests.conftest import ROOT

WAIT = 90
RECONNECT = 3.0  # seconds, in place of a minute

_PATIENT = """
import sys, time
from kubefunc.backends.kubernetes.warm import supply, worker

supply.RECONNECT = worker.RECONNECT = float(sys.argv[1])
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
