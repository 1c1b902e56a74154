"""A Kubernetes namespace for one test, with users that may do exactly what kubefunc's Role says."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.kubeconfig import Server, server_of, write_kubeconfig
from tests.cluster.kubectl import Kubectl, KubectlError

ROLE = Path(__file__).parents[2] / "docs" / "role.yaml"
OURS = "app.kubernetes.io/managed-by=kubefunc"


@dataclass(frozen=True)
class Space:
    """What a test of a cluster gets: a namespace of its own and a user with our Role in it.

    ``kubeconfig`` is that user's; its current context names the namespace. ``admin`` is kubectl as the
    administrator, in the namespace.
    """

    namespace: str
    kubeconfig: Path
    admin: Kubectl

    @property
    def user(self) -> str:
        """The limited user's name, as the audit log writes it."""
        return f"system:serviceaccount:{self.namespace}:caller"

    def without(self, *lacking: str) -> Path:
        """The kubeconfig of another user of this namespace, whose Role lacks something.

        Each of ``lacking`` is a resource (``"pods/exec"``) or one verb of it (``"pods/exec:create"``).
        """
        name = "without-" + "-".join(lacking).replace("/", "-").replace(":", "-")
        return _add_user(self.admin, self.kubeconfig.parent, name, _weaker(_role_rules(self.admin), lacking))

    def leftovers(self) -> list[str]:
        """What of ours is in the namespace now, as ``kind/name``: Jobs, Pods, Secrets."""
        return self.admin.run("get", "jobs,pods,secrets", "-l", OURS, "-o", "name").split()

    def discard_failed(self) -> None:
        """Delete the Jobs of failed calls as a user does: the Job alone, by its name."""
        caller = Kubectl(self.kubeconfig, self.namespace)
        for job in self.admin.get("jobs", "-l", OURS):
            conditions = job.get("status", {}).get("conditions", [])
            if any(each["type"] == "Failed" and each["status"] == "True" for each in conditions):
                caller.run("delete", "job", job["metadata"]["name"], "--ignore-not-found", "--wait=false")

    def clear(self) -> None:
        """Delete what of ours a test has left on purpose, where nothing else would: Jobs and ownerless Secrets."""
        self.admin.run("delete", "jobs,secrets", "-l", OURS, "--wait=false")

    def report(self) -> str:
        """Pods, events and logs of the namespace: what a person looks at after a failure."""
        parts = [
            ("Jobs and Pods", ["get", "jobs,pods", "-o", "wide"]),
            ("events", ["get", "events", "--sort-by=.metadata.creationTimestamp"]),
        ]
        pods = [pod["metadata"]["name"] for pod in self.admin.get("pods")]
        parts += [
            (f"logs of {pod}", ["logs", pod, "--all-containers", "--prefix", "--tail=60", "--ignore-errors"])
            for pod in pods[:20]
        ]
        return "\n".join(f"--- {title}\n{self._words(command)}" for title, command in parts)

    def _words(self, command: Sequence[str]) -> str:
        try:
            return self.admin.run(*command)
        except KubectlError as error:  # a Pod that never started has no log: that is worth reading, too
            return str(error)


def make_space(admin: Kubectl, directory: Path, labels: Sequence[str] = ()) -> Space:
    """Create a namespace with a user of our Role; its kubeconfig goes into the directory."""
    namespace = f"kubefunc-test-{secrets.token_hex(4)}"
    admin.run("create", "namespace", namespace)
    here = Kubectl(admin.kubeconfig, namespace)
    if labels:
        here.run("label", "namespace", namespace, *labels)
    kubeconfig = _add_user(here, directory, "caller", _role_rules(here))
    # A Pod is refused until the namespace's own ServiceAccount has been made by its controller.
    here.run("wait", "--for=create", "serviceaccount/default", "--timeout=30s")
    return Space(namespace, kubeconfig, here)


def remove_space(space: Space) -> None:
    """Delete the namespace with all that is in it, without waiting for its end."""
    space.admin.run("delete", "namespace", space.namespace, "--wait=false")


def _role_rules(admin: Kubectl) -> list[dict[str, Any]]:
    role = json.loads(admin.run("create", "--dry-run=client", "-o", "json", "-f", str(ROLE)))
    return list(role["rules"])


def _weaker(rules: Sequence[dict[str, Any]], lacking: Sequence[str]) -> list[dict[str, Any]]:
    """The rules without some resources, or without one verb of a resource."""
    granted = {f"{resource}:{verb}" for rule in rules for resource in rule["resources"] for verb in rule["verbs"]}
    for name in lacking:
        if not any(grant == name or grant.startswith(f"{name}:") for grant in granted):
            raise ValueError(f"{name!r} is not in {ROLE.name}; it grants {', '.join(sorted(granted))}")
    return [
        {"apiGroups": rule["apiGroups"], "resources": [resource], "verbs": verbs}
        for rule in rules
        for resource in rule["resources"]
        if resource not in lacking
        and (verbs := [verb for verb in rule["verbs"] if f"{resource}:{verb}" not in lacking])
    ]


def _add_user(admin: Kubectl, directory: Path, name: str, rules: Sequence[dict[str, Any]]) -> Path:
    """Make a ServiceAccount with a Role of these rules; write its kubeconfig."""
    namespace = admin.namespace
    rbac = "rbac.authorization.k8s.io"
    subject = {"kind": "ServiceAccount", "name": name, "namespace": namespace}
    role = {"apiGroup": rbac, "kind": "Role", "name": name}
    metadata = {"name": name, "namespace": namespace}
    objects = [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata},
        {"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": metadata, "rules": list(rules)},
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": role,
            "subjects": [subject],
        },
    ]
    admin.apply({"apiVersion": "v1", "kind": "List", "items": objects})
    token = admin.run("create", "token", name, "--duration=4h").strip()
    return write_kubeconfig(directory / f"{name}.kubeconfig", _server(admin), token, namespace)


def _server(admin: Kubectl) -> Server:
    raw = admin.run("config", "view", "--raw", "--minify", "--flatten", "-o", "json")
    cluster = json.loads(raw)["clusters"][0]["cluster"]
    return server_of(cluster)
