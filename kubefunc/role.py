"""The permissions that kubefunc needs, as data, as objects and as the YAML for ``kubectl apply``. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

NAME = "kubefunc"
RBAC = "rbac.authorization.k8s.io"

SubjectKind = Literal["User", "Group", "ServiceAccount"]


@dataclass(frozen=True)
class Rule:
    """One rule of the Role.

    Attributes:
        comment: lines above it in the YAML.
        without: what happens where it is missing; empty for what every call needs.
    """

    group: str
    resource: str
    verbs: tuple[str, ...]
    comment: tuple[str, ...] = ()
    without: str = ""


RULES = (
    Rule("batch", "jobs", ("create", "get", "list", "watch", "delete")),
    Rule("", "pods", ("list", "watch")),
    Rule(
        "",
        "pods/log",
        ("get",),
        without="What functions print cannot be read, and results above 3 kB are lost where exec is missing too.",
    ),
    Rule(
        "",
        "pods/exec",
        ("create", "get"),
        ("For exec over a websocket, older API servers check get and newer ones check create.",),
        without="Calls are slower, and results above 4 MiB cannot be fetched.",
    ),
    Rule(
        "",
        "secrets",
        ("create", "get", "patch", "delete"),
        ("The function and its arguments travel in a Secret. patch makes the Job its owner.",),
    ),
    Rule(
        "",
        "configmaps",
        ("create", "patch"),
        ("Optional: for publish=ConfigMapKey(...). For publish=SecretKey(...), the rule for secrets is enough.",),
        without="Results cannot be published into ConfigMaps.",
    ),
    Rule(
        "",
        "persistentvolumeclaims",
        ("get",),
        ("Optional: lets a map say before it starts how many Pods can use the claims in volumes=.",),
        without="A map is not told before it starts that only some of its Pods can use a claim.",
    ),
    Rule(
        "",
        "pods",
        ("get",),
        ('Optional: for owner="pod", unless your program\'s Pod has POD_NAME and POD_UID by the downward API.',),
        without='With owner="pod", your program\'s Pod needs POD_NAME and POD_UID by the downward API.',
    ),
    Rule(
        "",
        "events",
        ("list", "watch"),
        ("Optional: without events, calls are slower and error messages say less.",),
        without="Calls are slower, and error messages say less.",
    ),
    Rule(
        "",
        "services",
        ("create", "get", "patch", "delete"),
        (
            "Optional: only for functions with service= or gang=. get and delete let a name be used again, patch",
            "lets a Job that replaces another keep the Service.",
        ),
        without="Functions with service= or gang= do not start.",
    ),
    Rule(
        "",
        "pods/portforward",
        ("create", "get"),
        ("Optional: only for call.forward(). Older API servers check get and newer ones check create.",),
        without="call.forward() does not work.",
    ),
)

_HEAD = """\
# The permissions that kubefunc needs, in the one namespace where its Jobs run.
# Bind the Role to the user or ServiceAccount that makes the calls:
#   kubectl create rolebinding kubefunc --role=kubefunc --user=NAME
"""


@dataclass(frozen=True)
class Subject:
    """Who gets the Role. ``namespace``: of a ServiceAccount."""

    kind: SubjectKind
    name: str
    namespace: str = ""


def role_yaml(namespace: str = "", subject: Subject | None = None) -> str:
    """The Role, and a RoleBinding where somebody is to get it.

    >>> print(role_yaml("team").splitlines()[7])
      namespace: team
    """
    place = f"  namespace: {namespace}\n" if namespace else ""
    head = f"apiVersion: {RBAC}/v1\nkind: Role\nmetadata:\n  name: {NAME}\n{place}rules:\n"
    role = _HEAD + head + "".join(rule_yaml(rule) for rule in RULES)
    return role if subject is None else f"{role}---\n{_binding_yaml(place, subject)}"


def rule_yaml(rule: Rule) -> str:
    """One rule as it stands in a Role's list.

    >>> print(rule_yaml(Rule("", "events", ("list",))), end="")
      - apiGroups: [""]
        resources: [events]
        verbs: [list]
    """
    comments = "".join(f"  # {line}\n" for line in rule.comment)
    group = rule.group or '""'
    return (
        f"{comments}  - apiGroups: [{group}]\n    resources: [{rule.resource}]\n    verbs: [{', '.join(rule.verbs)}]\n"
    )


def _binding_yaml(place: str, subject: Subject) -> str:
    whose = f"    namespace: {subject.namespace}\n" if subject.namespace else f"    apiGroup: {RBAC}\n"
    return (
        f"apiVersion: {RBAC}/v1\nkind: RoleBinding\nmetadata:\n  name: {NAME}\n{place}"
        f"roleRef:\n  apiGroup: {RBAC}\n  kind: Role\n  name: {NAME}\n"
        f"subjects:\n  - kind: {subject.kind}\n    name: {json.dumps(subject.name)}\n{whose}"
    )


def role_objects(namespace: str = "", subject: Subject | None = None) -> list[dict[str, Any]]:
    """The same as objects."""
    metadata = {"name": NAME, **({"namespace": namespace} if namespace else {})}
    rules = [{"apiGroups": [rule.group], "resources": [rule.resource], "verbs": list(rule.verbs)} for rule in RULES]
    role = {"apiVersion": f"{RBAC}/v1", "kind": "Role", "metadata": metadata, "rules": rules}
    if subject is None:
        return [role]
    whose = {"namespace": subject.namespace} if subject.namespace else {"apiGroup": RBAC}
    binding = {
        "apiVersion": f"{RBAC}/v1",
        "kind": "RoleBinding",
        "metadata": metadata,
        "roleRef": {"apiGroup": RBAC, "kind": "Role", "name": NAME},
        "subjects": [{"kind": subject.kind, "name": subject.name, **whose}],
    }
    return [role, binding]
