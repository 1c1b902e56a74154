"""Two hundred calls at once from one program."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.audit import requests_of
from tests.cluster.cluster import Cluster
from tests.cluster.crowd import Went
from tests.cluster.spaces import Space
from tests.cluster.waiting import nothing_left
from tests.conftest import ROOT, clean_environment

MANY = 200
MOST_THREADS = 40
MOST_CONNECTIONS = 40
# On an idle machine two seconds. With 200 Pods on two cores, the node itself is late with its news.
SOON = 60.0


def crowd(space: Space, directory: Path, kind: str, count: int = MANY) -> tuple[Went, str]:
    """Run the program; what it found, and what it showed on its standard error."""
    environ = clean_environment(directory) | {"KUBECONFIG": str(space.kubeconfig), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.cluster.crowd", kind, str(count)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=1000, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    went = Went(**json.loads(done.stdout))
    print(went)
    return went, done.stderr


@pytest.mark.alone
@pytest.mark.timeout(1200)
def test_two_hundred_calls_at_once_with_output(kube: Space, tmp_path: Path) -> None:
    """Every result and every line of output is there, with few threads and connections, and nothing stays."""
    went, shown = crowd(kube, tmp_path, "loud")
    assert (went.wrong, went.torn, went.repeated) == ([], [], [])
    assert went.threads <= MOST_THREADS
    assert went.connections <= MOST_CONNECTIONS
    assert went.threads_again == went.threads_after <= MOST_THREADS, "threads of a kind are made once"
    assert shown.count("line 0 of") == shown.count("line 39 of") == MANY
    nothing_left(kube, 60)


@pytest.mark.alone
@pytest.mark.timeout(1200)
def test_two_hundred_calls_at_once_through_the_express_lane(kube: Space, tmp_path: Path, hermetic: Cluster) -> None:
    """Far more than it has streams: some travel by it, and it delays, repeats and spoils none of the others."""
    went, _ = crowd(kube, tmp_path, "quiet")
    assert (went.wrong, went.repeated) == ([], [])
    assert went.slowest < SOON
    assert went.threads <= MOST_THREADS
    assert went.connections <= MOST_CONNECTIONS
    rides = [made for made in requests_of(hermetic.audit_log, kube.user) if made.resource == "pods/exec"]
    print(f"{len(rides)} of {MANY} asked by exec")
    assert rides
    nothing_left(kube, 60)
