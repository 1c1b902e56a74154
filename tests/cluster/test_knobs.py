"""Containers beside the function, and Jobs that start suspended, on a real cluster."""

from __future__ import annotations

import json

import pytest

from kubefunc import errors
from tests.cluster import failing, work
from tests.cluster.spaces import Space
from tests.cluster.waiting import eventually, nothing_left

SERVER = """
from http.server import HTTPServer, SimpleHTTPRequestHandler
HTTPServer(("127.0.0.1", 8099), SimpleHTTPRequestHandler).serve_forever()
"""
ASK = """
import socket, time
for _ in range(100):
    try:
        socket.create_connection(("127.0.0.1", 8099))
        break
    except OSError:
        time.sleep(0.1)
else:
    raise SystemExit(1)
"""


def test_a_sidecar_serves_the_function_and_does_not_keep_the_job(calling: Space) -> None:
    """It runs before the init container, which asks it; the Job ends with the function."""
    call = failing.double.options(
        sidecars=[{"name": "server", "command": ["python3", "-c", SERVER]}],
        init_containers=[{"name": "asks", "command": ["python3", "-c", ASK]}],
        host_aliases={"10.0.0.7": ["db.internal"]},
        keep="always",
    ).remote(4)
    assert call.result(60) == 8
    eventually(lambda: "Complete" in json.dumps(calling.admin.get("job", call.id)["status"]), 60, "the Job's end")
    calling.clear()


def test_a_job_that_starts_suspended_is_queued(calling: Space) -> None:
    """As Kueue does it: the call says so, ``schedule_timeout`` names the queue, and a resumed Job runs."""
    queued = work.double.options(queue="team-a", job_template={"spec": {"suspend": True}})
    with pytest.raises(errors.UnschedulableError, match="Kueue's queue 'team-a'"):
        queued.options(schedule_timeout=5).remote(1).result(60)
    call = queued.remote(3)
    eventually(lambda: call.id in calling.admin.run("get", "jobs", "-o", "name"), what="the Job")
    calling.admin.run("patch", "job", call.id, "-p", json.dumps({"spec": {"suspend": False}}))
    assert call.result(60) == 6
    nothing_left(calling, 60)
