"""``kubefunc doctor`` against the words of a real API server: its reviews, quotas, levels, and a real call."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.cluster import Cluster
from tests.cluster.spaces import Space
from tests.conftest import ROOT


def doctor(space: Space, kubeconfig: Path, *options: str, **env: str) -> tuple[int, str]:
    """Exit code and output of the command, for this namespace."""
    whole = {"KUBECONFIG": str(kubeconfig), "PATH": "/usr/bin:/bin", "HOME": str(space.kubeconfig.parent), **env}
    command = [sys.executable, "-m", "kubefunc", "doctor", "-n", space.namespace, *options]
    result = subprocess.run(command, cwd=ROOT, env=whole, capture_output=True, text=True, timeout=200)
    assert "Traceback" not in result.stderr, result.stderr
    return result.returncode, result.stdout


def examine(space: Space, kubeconfig: Path, *options: str, **env: str) -> tuple[bool, dict[str, Any]]:
    """Whether it is ready, and the checks by name (the last of each)."""
    code, told = doctor(space, kubeconfig, "--json", *options, **env)
    answer = json.loads(told)
    assert (code == 0) is answer["ready"]
    return answer["ready"], {check["name"]: check for check in answer["checks"]}


def test_our_role_is_enough(kube: Space) -> None:
    """And a real call runs."""
    ready, checks = examine(kube, kube.kubeconfig, "--call")
    assert ready, checks
    assert "A call ran on node" in checks["call"]["message"]


def test_all_missing_verbs_with_the_rules_to_add(kube: Space) -> None:
    """Those of a real Role that lacks some: added as printed, the cluster is ready."""
    weak = kube.without("pods:watch", "secrets:patch", "jobs:delete")
    code, told = doctor(kube, weak)
    assert code == 1
    rules = yaml.safe_load(told.partition("Kubernetes: not ready\n")[2])["rules"]
    assert [(rule["resources"], rule["verbs"]) for rule in rules] == [
        (["jobs"], ["delete"]),
        (["pods"], ["watch"]),
        (["secrets"], ["patch"]),
    ]
    patch = [{"op": "add", "path": "/rules/-", "value": rule} for rule in rules]
    role = weak.stem
    kube.admin.run("patch", "role", role, "--type=json", "-p", json.dumps(patch))
    assert examine(kube, weak)[0]


def test_what_is_in_the_way_in_a_namespace(kube: Space) -> None:
    """A quota of 0, the security level *restricted*, and a LimitRange, as the administrator sees them."""
    admin = kube.admin
    admin.run("create", "quota", "none", "--hard=pods=0")
    admin.run("label", "namespace", kube.namespace, "pod-security.kubernetes.io/enforce=restricted")
    limit = {"type": "Container", "default": {"memory": "256Mi"}, "defaultRequest": {"memory": "64Mi"}}
    metadata = {"name": "bounds", "namespace": kube.namespace}
    admin.apply({"apiVersion": "v1", "kind": "LimitRange", "metadata": metadata, "spec": {"limits": [limit]}})
    ready, checks = examine(kube, admin.kubeconfig)
    assert not ready
    assert {name: checks[name]["status"] for name in ("quota", "security", "limits")} == {
        "quota": "problem",
        "security": "problem",
        "limits": "warning",
    }
    assert checks["quota"]["cluster"] == ["none: pods is limited to 0"]


def test_an_image_of_another_python(kube: Space, hermetic: Cluster) -> None:
    """Found by the real call, with the image that fits."""
    other = "3.13" if sys.version_info[:2] != (3, 13) else "3.11"
    image = hermetic.load_python_image(other)
    ready, checks = examine(kube, kube.kubeconfig, "--call", KUBEFUNC_IMAGE=image)
    assert not ready
    assert "another minor version of Python" in checks["call"]["message"]
    assert f"python:{sys.version_info[0]}.{sys.version_info[1]}-slim" in checks["call"]["advice"]
