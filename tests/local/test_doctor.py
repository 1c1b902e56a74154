"""``kubefunc doctor``: each thing that can be in the way of calls is found, named, and told what to do about."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from kubefunc.backends.kubernetes.api.requests import Api
from kubefunc.backends.kubernetes.operating.doctor import Doctor
from kubefunc.options import Options
from kubefunc.role import RULES
from tests.local.api_server import Peer, Request, Server, config_of
from tests.local.stored import write_kubeconfig

JsonDict = dict[str, Any]


@dataclass
class Namespace:
    """The handler of a server that grants all but some verbs, and has these objects."""

    refused: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    version: str = "34"
    quotas: list[JsonDict] = field(default_factory=list[JsonDict])
    ranges: list[JsonDict] = field(default_factory=list[JsonDict])
    labels: dict[str, str] = field(default_factory=dict[str, str])
    readable: bool = True

    def __call__(self, request: Request, peer: Peer) -> None:
        """Answer one request."""
        if request.headers.get("authorization") != "Bearer t":
            peer.refuse(401, "Unauthorized", "Unauthorized")
        elif request.path == "/version":
            peer.json(200, {"major": "1", "minor": self.version, "gitVersion": f"v1.{self.version}.0"})
        elif request.path.endswith("/selfsubjectreviews"):
            peer.json(201, {"status": {"userInfo": {"username": "ada"}}})
        elif request.path.endswith("/selfsubjectaccessreviews"):
            asked = request.json()["spec"]["resourceAttributes"]
            resource = "/".join(filter(None, (asked["resource"], asked["subresource"])))
            peer.json(201, {"status": {"allowed": (resource, asked["verb"]) not in self.refused}})
        elif not self.readable:
            peer.refuse(403, "Forbidden", "no")
        elif request.path.endswith("/resourcequotas"):
            peer.json(200, {"metadata": {"resourceVersion": "1"}, "items": self.quotas})
        elif request.path.endswith("/limitranges"):
            peer.json(200, {"metadata": {"resourceVersion": "1"}, "items": self.ranges})
        else:
            peer.json(200, {"metadata": {"name": "team", "uid": "u", "labels": self.labels}})


def doctor(env: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    """Run it as a person does."""
    command = [sys.executable, "-m", "kubefunc", "doctor", *options]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=100)


@pytest.fixture
def examine(clean_env: dict[str, str], tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """Exit code and output of the command, for a namespace."""

    def run(namespace: Namespace, *options: str, **env: str) -> tuple[int, str]:
        with Server(namespace) as server:
            kubeconfig = tmp_path / "kubeconfig"
            write_kubeconfig(kubeconfig, server.url)
            result = doctor({**clean_env, "KUBECONFIG": str(kubeconfig), **env}, *options)
        assert "Traceback" not in result.stderr, result.stderr
        return result.returncode, result.stdout

    return run


Examine = Callable[..., tuple[int, str]]


def test_ready(examine: Examine) -> None:
    """One word at the end, and exit code 0."""
    code, told = examine(Namespace())
    assert (code, told.splitlines()[-1]) == (0, "Kubernetes: ready")
    assert "runs Kubernetes v1.34.0" in told
    assert "You are ada." in told


def test_as_json(examine: Examine) -> None:
    """The same as a document."""
    told = json.loads(examine(Namespace(), "--json")[1])
    assert told["ready"] is True
    assert {check["status"] for check in told["checks"]} == {"ok"}


# -- before the namespace


def test_no_kubeconfig(clean_env: dict[str, str]) -> None:
    """Neither a file nor a Pod's account: calls run here, and a line says so."""
    result = doctor(clean_env)
    assert result.returncode == 1
    assert "There is no cluster to use: no kubeconfig ($KUBECONFIG or ~/.kube/config)" in result.stdout
    assert "warning  backend     As no cluster is configured, calls run on this machine.\n" in result.stdout
    assert result.stdout.endswith("Kubernetes: not ready\n")


def test_calls_that_run_on_this_machine(examine: Examine) -> None:
    """The cluster is examined all the same, and a line says that calls do not use it."""
    code, told = examine(Namespace(), KUBEFUNC_BACKEND="local")
    assert code == 0
    assert "warning  backend     KUBEFUNC_BACKEND=local: calls run on this machine." in told


def test_a_kubeconfig_that_is_broken(clean_env: dict[str, str], tmp_path: Path) -> None:
    """The file is named."""
    broken = tmp_path / "kubeconfig"
    broken.write_text("contexts: [")
    result = doctor({**clean_env, "KUBECONFIG": str(broken)})
    assert f"The kubeconfig {broken} is not valid YAML" in result.stdout


def test_a_dead_server(clean_env: dict[str, str], tmp_path: Path) -> None:
    """Nothing listens there: said within seconds, and nothing else is asked."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    write_kubeconfig(tmp_path / "kubeconfig", f"http://127.0.0.1:{port}")
    result = doctor({**clean_env, "KUBECONFIG": str(tmp_path / "kubeconfig")})
    assert result.returncode == 1
    assert "problem  server" in result.stdout
    assert "cannot be reached" in result.stdout
    assert "permissions" not in result.stdout


def test_a_bad_token(clean_env: dict[str, str], tmp_path: Path) -> None:
    """The server is there and does not accept it."""
    with Server(Namespace()) as server:
        path = tmp_path / "kubeconfig"
        write_kubeconfig(path, server.url)
        path.write_text(path.read_text().replace('"t"', '"expired"'))
        told = doctor({**clean_env, "KUBECONFIG": str(path)}).stdout
    assert "The cluster does not accept your credentials." in told
    assert "do: Log in again" in told


@pytest.mark.parametrize(("command", "words"), [("/no/such/plugin", "/no/such/plugin"), ("false", "false")])
def test_a_failing_plug_in(command: str, words: str, clean_env: dict[str, str], tmp_path: Path) -> None:
    """One that is not installed, or that ends with an error, is named."""
    with Server(Namespace()) as server:
        path = tmp_path / "kubeconfig"
        write_kubeconfig(path, server.url)
        content = json.loads(path.read_text())
        plugin = {"apiVersion": "client.authentication.k8s.io/v1", "command": command, "interactiveMode": "Never"}
        content["users"][0]["user"] = {"exec": plugin}
        path.write_text(json.dumps(content))
        result = doctor({**clean_env, "KUBECONFIG": str(path)})
    assert result.returncode == 1
    assert f"The credential plugin {words!r}" in result.stdout


def test_an_old_server(examine: Examine) -> None:
    """Its version is told, and the one that is needed."""
    code, told = examine(Namespace(version="27"))
    assert code == 1
    assert "v1.27.0. kubefunc needs 1.30." in told


# -- permissions


@pytest.mark.parametrize(("resource", "verb"), [(rule.resource, verb) for rule in RULES for verb in rule.verbs])
def test_each_missing_verb(resource: str, verb: str, tmp_path: Path) -> None:
    """It is named, with the rule to add. Only what calls can do without leaves the cluster ready."""
    with Server(Namespace(refused={(resource, verb)})) as server:
        config = config_of(server.url, tmp_path, token="t")
        checks = list(Doctor(Api(config), config, "team").checks(Options()))
    (check,) = (each for each in checks if each.missing)
    (rule,) = (each for each in RULES if each.resource == resource and verb in each.verbs)
    assert check.status == ("warning" if rule.without else "problem")
    assert f"{resource}: {verb}" in check.message
    assert [(each.resource, each.verbs) for each in check.missing] == [(resource, (verb,))]


def test_all_missing_verbs_at_once(examine: Examine) -> None:
    """One YAML has all of them: the administrator is asked once."""
    import yaml

    refused = {("jobs", "create"), ("jobs", "watch"), ("pods", "watch"), ("pods/exec", "create")}
    code, told = examine(Namespace(refused=refused))
    rules = yaml.safe_load(told.partition("Kubernetes: not ready\n")[2])["rules"]
    assert code == 1
    assert rules == [
        {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["create", "watch"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["watch"]},
        {"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["create"]},
    ]


# -- the namespace


def quota(hard: dict[str, str], used: dict[str, str]) -> JsonDict:
    """A ResourceQuota."""
    return {"metadata": {"name": "small"}, "spec": {"hard": hard}, "status": {"hard": hard, "used": used}}


@pytest.mark.parametrize("item", ["pods", "count/jobs.batch", "requests.cpu", "requests.memory", "count/secrets"])
def test_a_quota_of_nothing(item: str, examine: Examine) -> None:
    """No call could ever start."""
    code, told = examine(Namespace(quotas=[quota({item: "0"}, {item: "0"})]))
    assert code == 1
    assert f"cluster: small: {item} is limited to 0" in told


def test_a_quota_that_is_used_up(examine: Examine) -> None:
    """Calls wait: a warning."""
    code, told = examine(Namespace(quotas=[quota({"pods": "3"}, {"pods": "3"})]))
    assert code == 0
    assert "warning  quota" in told
    assert "small: pods used 3 of 3" in told


def test_a_limit_range(examine: Examine) -> None:
    """What it gives to functions that ask for nothing is told; one that the courier does not fit in is a problem."""
    limit = {"type": "Container", "default": {"memory": "256Mi"}, "max": {"memory": "2Gi"}}
    code, told = examine(Namespace(ranges=[{"metadata": {"name": "bounds"}, "spec": {"limits": [limit]}}]))
    assert code == 0
    assert "The LimitRange bounds bounds each Container: at most memory 2Gi." in told
    assert "get a limit of memory 256Mi" in told
    limit = {"type": "Container", "max": {"memory": "32Mi"}}
    code, told = examine(Namespace(ranges=[{"metadata": {"name": "tiny"}, "spec": {"limits": [limit]}}]))
    assert code == 1
    assert "The LimitRange tiny lets no call start" in told


def test_the_security_level_restricted(examine: Examine) -> None:
    """The option that complies is named; with it the cluster is ready."""
    restricted = Namespace(labels={"pod-security.kubernetes.io/enforce": "restricted"})
    code, told = examine(restricted)
    assert code == 1
    assert "KUBEFUNC_RUN_AS_USER=1000" in told
    assert examine(restricted, KUBEFUNC_RUN_AS_USER="1000")[0] == 0


def test_what_may_not_be_read_is_no_problem(examine: Examine) -> None:
    """The Role does not contain it."""
    code, told = examine(Namespace(readable=False))
    assert code == 0
    assert told.count("unknown") == 3
