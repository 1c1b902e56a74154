"""``owner="pod"``: the Pod in which a program runs, as the owner of its Jobs, and why it cannot be."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from kubefunc.backends.kubernetes.api.kubeconfig import IN_CLUSTER
from kubefunc.backends.kubernetes.api.own_pod import own_pod_reference
from kubefunc.backends.kubernetes.api.requests import Api
from kubefunc.errors import ConfigurationError
from tests.local.api_server import Peer, Request, Server, config_of

IN_POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "HOSTNAME": "worker-0"}


def pods(request: Request, peer: Peer) -> None:
    """One Pod; another may not be read."""
    name = request.path.rpartition("/")[2]
    if name == "worker-0":
        peer.json(200, {"metadata": {"name": name, "uid": "the-uid"}})
    elif name == "secret":
        words = (
            'pods "secret" is forbidden: User "u" cannot get resource "pods" in API group "" in the namespace "team"'
        )
        peer.refuse(403, "Forbidden", words)
    else:
        peer.refuse(404, "NotFound", f'pods "{name}" not found')


@pytest.fixture
def account(tmp_path: Path) -> Path:
    """The files of a Pod's ServiceAccount in the namespace ``team``."""
    (tmp_path / "namespace").write_text("team")
    return tmp_path


def test_its_uid_is_asked_for(account: Path) -> None:
    """The Pod's name is its host's."""
    with Server(pods) as server:
        found = own_pod_reference(Api(config_of(server.url, account)), "team", IN_POD, account)
    assert found == {"apiVersion": "v1", "kind": "Pod", "name": "worker-0", "uid": "the-uid"}


def test_the_downward_api_spares_the_question(account: Path) -> None:
    """And the permission. Only in the Pod's own cluster: a UID that another one does not know would end the Job."""
    told = {**IN_POD, "POD_NAME": "worker-0", "POD_UID": "told"}
    with Server(pods) as server:
        config = config_of(server.url, account)
        inside = Api(dataclasses.replace(config, source=IN_CLUSTER))
        assert own_pod_reference(inside, "team", told, account)["uid"] == "told"
        assert server.requests == []
        assert own_pod_reference(Api(config), "team", told, account)["uid"] == "the-uid"


@pytest.mark.parametrize(
    ("environ", "namespace", "message"),
    [
        ({"HOSTNAME": "laptop"}, "team", "does not run in a Pod"),
        (IN_POD, "other", "Pod is in the namespace 'team', the Job in 'other'"),
        ({**IN_POD, "POD_NAME": "gone"}, "team", "there is no Pod gone in the namespace team"),
        ({**IN_POD, "POD_NAME": "secret"}, "team", 'by the downward API(?s:.)*verbs: \\["get"\\]'),
    ],
)
def test_what_cannot_own_a_job(environ: dict[str, str], namespace: str, message: str, account: Path) -> None:
    """Refused before the Job is made: Kubernetes deletes a Job whose owner it does not find."""
    with Server(pods) as server, pytest.raises(ConfigurationError, match=message):
        own_pod_reference(Api(config_of(server.url, account)), namespace, environ, account)
