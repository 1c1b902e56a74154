"""Objects that a Pod names and that are not there: the cluster's words in, findings out. Pure."""

from __future__ import annotations

import re
from typing import Final

from kubefunc import errors
from kubefunc.backends.kubernetes.diagnose.finding import Finding
from kubefunc.backends.kubernetes.objects.volumes import IN_VOLUME

OTHER_PATIENCE: Final = 10.0  # seconds, for words that are not known
RECENT_PATIENCE: Final = 2.0  # for what may have been made a moment ago
OWN_VOLUME: Final = IN_VOLUME  # its Secret was made before the Job: a node that misses it has not heard of it yet

_NOT_THERE = re.compile(
    r'(?:MountVolume\.SetUp failed for volume "(?P<volume>[^"]*)".*?)?'
    r'\b(?P<kind>secret|configmap|persistentvolumeclaim|serviceaccount) "(?P<name>[^"]*)" (?:was )?not found',
    re.IGNORECASE | re.DOTALL,
)
_KEY_NOT_THERE = re.compile(
    r"(?:couldn't find key (?P<key>\S+) in (?P<kind>Secret|ConfigMap) (?:[^/\s]+/)?(?P<name>\S+))"
    r"|references non-existent (?P<what>secret|config) key: (?P<absent>\S+)",
    re.IGNORECASE,
)
_KINDS = {
    "secret": "Secret",
    "configmap": "ConfigMap",
    "persistentvolumeclaim": "PersistentVolumeClaim",
    "serviceaccount": "ServiceAccount",
}


def missing_object(words: str, reason: str, line: str) -> Finding | None:
    """A Secret or its kind, or a key of it, that the Pod names and that is not there."""
    found = _NOT_THERE.search(words)
    if found is not None and found["volume"] != OWN_VOLUME:
        kind, name = _KINDS[found["kind"].lower()], found["name"]
        return Finding(
            errors.PodConfigError,
            reason,
            f"The {kind} {name!r}, which the call uses, does not exist in its namespace.",
            f"Create it, or correct its name in {_named_in(kind)}.",
            (line,),
        )
    key = _KEY_NOT_THERE.search(words)
    if key is None:
        return None
    which = key["key"] or key["absent"]
    where = f" in the {key['kind']} {key['name']!r}" if key["name"] else ""
    return Finding(
        errors.PodConfigError,
        reason,
        f"There is no key {which!r}{where}.",
        "Add it there, or correct its name in env= or pod_template=.",
        (line,),
    )


def _named_in(kind: str) -> str:
    return "service_account=" if kind == "ServiceAccount" else "env= or pod_template="


def missing_service_account(message: str, words: tuple[str, ...]) -> Finding | None:
    """A ServiceAccount without which the Pod cannot be made."""
    missing = _NOT_THERE.search(message)
    if missing is None or missing["kind"].lower() != "serviceaccount":
        return None
    # A new namespace's ServiceAccount "default" is made a moment after the namespace.
    default = missing["name"] == "default"
    return Finding(
        errors.PodConfigError,
        "ServiceAccount",
        f"The ServiceAccount {missing['name']!r} does not exist in the namespace.",
        "The cluster creates it in every new namespace. Ask your cluster's administrator why it is missing."
        if default
        else "Create it, or correct service_account=.",
        words,
        OTHER_PATIENCE if default else RECENT_PATIENCE,
    )
