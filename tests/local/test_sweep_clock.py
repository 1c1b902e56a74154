"""The sweep goes by the server's clock, whatever this machine's clock says."""

from __future__ import annotations

import datetime
from email.utils import format_datetime
from pathlib import Path

import pytest

from kubefunc.backends.kubernetes.api.permission import ExecPermission
from kubefunc.backends.kubernetes.api.requests import Api
from kubefunc.backends.kubernetes.control.jobs import Jobs
from kubefunc.backends.kubernetes.control.sweep import Sweep
from kubefunc.backends.kubernetes.threads import Clock, Workers
from tests.local.api_server import Peer, Request, Server, config_of

HOUR = datetime.timedelta(hours=1)


@pytest.mark.parametrize(("age", "is_deleted"), [(datetime.timedelta(minutes=2), False), (2 * HOUR, True)])
def test_a_secret_is_as_old_as_the_server_says(tmp_path: Path, age: datetime.timedelta, is_deleted: bool) -> None:
    """With a clock three hours ahead of the server's, another client's fresh Secret is left alone; an old one goes."""
    now = datetime.datetime.now(datetime.timezone.utc) - 3 * HOUR
    labels = {"app.kubernetes.io/managed-by": "kubefunc", "kubefunc/call": "f-1"}
    metadata = {"name": "f-1", "uid": "u-1", "labels": labels, "creationTimestamp": f"{now - age:%Y-%m-%dT%H:%M:%SZ}"}

    def cluster(request: Request, peer: Peer) -> None:
        items = [{"metadata": metadata}] if request.path.endswith("/secrets") else []
        body = {"kind": "List", "items": items, "metadata": {"resourceVersion": "1"}}
        peer.json(200, body, ("Date", format_datetime(now, usegmt=True)))

    with Server(cluster) as server:
        api = Api(config_of(server.url, tmp_path, token="t"))
        jobs = Jobs(api, Workers("requests", 1), Clock("clock"), ExecPermission(api), lambda *_: None)
        Sweep(api, jobs).run("n")
        api.close()
    deleted = [request.path for request in server.requests if request.method == "DELETE"]
    assert deleted == (["/api/v1/namespaces/n/secrets/f-1"] if is_deleted else [])
