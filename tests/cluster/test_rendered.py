"""What ``f.manifest()`` gives is what the API server takes: each option's objects by server-side dry-run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kubefunc.backends.kubernetes.api.requests import Api, find_config
from tests.cluster import failing
from tests.cluster.conftest import ClusterUnderTest
from tests.cluster.option_cases import NEEDED, PAIRS, case_name
from tests.cluster.spaces import Space, make_space, remove_space
from tests.conftest import ROOT

_STRICT = {"dryRun": "All", "fieldValidation": "Strict"}  # a field that the server does not know is an error
_PATHS = {
    "Secret": "/api/v1/namespaces/{}/secrets",
    "Job": "/apis/batch/v1/namespaces/{}/jobs",
    "Service": "/api/v1/namespaces/{}/services",
}


@pytest.fixture(scope="module")
def space(cluster: ClusterUnderTest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Space]:
    """One namespace for all of these tests: nothing is created in it."""
    made = make_space(cluster.admin, tmp_path_factory.mktemp("rendered"))
    yield made
    remove_space(made)


@pytest.fixture(scope="module")
def api(space: Space) -> Iterator[Api]:
    """The API server, for the user of our Role."""
    config = find_config(None, {"KUBECONFIG": str(space.kubeconfig)})
    assert config is not None
    made = Api(config)
    yield made
    made.close()


def accepted(api: Api, objects: list[dict[str, Any]]) -> None:
    """The server takes each of them, knows each field, and warns of nothing."""
    for each in objects:
        path = _PATHS[each["kind"]].format(each["metadata"]["namespace"])
        reply = api.request("POST", path, query=_STRICT, body=each)
        assert reply.warnings == (), each["kind"]


@pytest.mark.parametrize(("name", "value"), PAIRS, ids=case_name)
def test_the_server_accepts_the_objects_of_each_option(name: str, value: object, api: Api, space: Space) -> None:
    """In a plain call that sets this option alone, or with what it cannot do without."""
    options: dict[str, Any] = {"namespace": space.namespace, name: value, **NEEDED.get(name, {})}
    options["namespace"] = space.namespace
    accepted(api, failing.double.options(**options).manifest(1))


def test_kubectl_takes_what_render_prints(space: Space) -> None:
    """As YAML; without its Secrets also by a plain ``kubectl apply``, which keeps a copy as an annotation."""

    def rendered(*options: str) -> str:
        command = [sys.executable, "-m", "kubefunc", "render", "tests.cluster.failing:double", "21", *options]
        env = {"KUBECONFIG": str(space.kubeconfig), "PATH": "/usr/bin:/bin", "HOME": str(space.kubeconfig.parent)}
        return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True, timeout=60).stdout

    def dry_run(text: str, *verb: str) -> str:
        file = space.kubeconfig.parent / "rendered.yaml"
        file.write_text(text)
        return space.admin.run(*verb, "--dry-run=server", "-f", str(file))

    assert "secret/double-" in dry_run(rendered(), "create")
    assert "job.batch/double-" in dry_run(rendered(), "apply", "--server-side")
    assert "job.batch/double-" in dry_run(rendered("--no-secrets"), "apply")


def test_a_rendered_call_runs_when_it_is_created(space: Space) -> None:
    """They are the exact objects: the result is fetched by the id, as that of any detached call."""
    objects = failing.double.options(namespace=space.namespace, detach=True).manifest(21)
    file = space.kubeconfig.parent / "created.json"
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
    space.admin.run("create", "-f", str(file))
    command = [sys.executable, "-m", "kubefunc", "result", "--wait", objects[-1]["metadata"]["name"]]
    env = {"KUBECONFIG": str(space.kubeconfig), "PATH": "/usr/bin:/bin", "HOME": str(Path(space.kubeconfig).parent)}
    result = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert result.stdout == "42\n", result.stderr
