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


@pytest.mark.alone
@pytest.mark.timeout(1200)
def test_two_hundred_calls_at_once(kube: Space, tmp_path: Path, hermetic: Cluster) -> None:
    """Every result and every line of output is there, with few threads and connections, and nothing stays.

    They are far more than the express lane has streams: some travel by it, and it delays, repeats and spoils none of
    the others.
    """
    went, shown = crowd(kube, tmp_path)
    assert (went.wrong, went.torn, went.repeated) == ([], [], [])
    assert went.slowest < SOON
    assert went.threads <= MOST_THREADS
    assert went.connections <= MOST_CONNECTIONS
    assert went.threads_again == went.threads_after <= MOST_THREADS, "threads of a kind are made once"
    assert shown.count("line 0 of") == shown.count("line 39 of") == MANY
    rides = [made for made in requests_of(hermetic.audit_log, kube.user) if made.resource == "pods/exec"]
    print(f"{len(rides)} of {MANY} asked by exec")
    assert rides
    nothing_left(kube, 60)


def crowd(space: Space, directory: Path) -> tuple[Went, str]:
    """Run the program; what it found, and what it showed on its standard error."""
    environ = clean_environment(directory) | {"KUBECONFIG": str(space.kubeconfig), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.cluster.crowd", str(MANY)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=1000, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    went = Went(**json.loads(done.stdout))
    print(went)
    return went, done.stderr
