"""Parts of a Pod and of a Job as Kubernetes writes them: dicts in camelCase, checked as far as slips go."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, cast

from kubefunc.options.kind import Refused
from kubefunc.options.parsers import names
from kubefunc.options.pod_templates import checked_fields

AFFINITIES: Final = ("nodeAffinity", "podAffinity", "podAntiAffinity")
POD_SECURITY: Final = (
    "appArmorProfile fsGroup fsGroupChangePolicy runAsGroup runAsNonRoot runAsUser seLinuxChangePolicy seLinuxOptions "
    "seccompProfile supplementalGroups supplementalGroupsPolicy sysctls"
).split()
CONTAINER_SECURITY: Final = "allowPrivilegeEscalation capabilities privileged procMount readOnlyRootFilesystem".split()
_OURS: Final = ("main", "courier")
_SPREAD: Final = ("maxSkew", "topologyKey", "whenUnsatisfiable")


def affinity(value: object) -> dict[str, Any]:
    """Affinities by kind.

    >>> affinity({"nodeAffinity": {}})
    {'nodeAffinity': {}}
    """
    return _known(value, AFFINITIES)


def security_context(value: object) -> dict[str, Any]:
    """Fields of the securityContext of a Pod or a container.

    >>> security_context({"fsGroup": 1000})
    {'fsGroup': 1000}
    """
    return _known(value, (*POD_SECURITY, *CONTAINER_SECURITY))


def _known(value: object, names_known: Sequence[str]) -> dict[str, Any]:
    found = _fields(value, "")
    for name in found:
        if name not in names_known:
            listed = ", ".join(sorted(names_known))
            raise Refused(f"Kubernetes has no such field here; it has {listed}", at=f"[{name!r}]", shown="")
    return found


def _fields(value: object, at: str) -> dict[str, Any]:
    if not isinstance(value, Mapping) and not hasattr(type(value), "attribute_map"):
        raise Refused("write a dict with the names that Kubernetes has", at=at)
    return cast("dict[str, Any]", checked_fields(value, at=at))


def _each(value: object) -> Iterable[tuple[str, dict[str, Any]]]:
    if isinstance(value, (str, Mapping)) or not isinstance(value, Sequence):
        raise Refused("write a list of dicts")
    return [(f"[{index}]", _fields(each, f"[{index}]")) for index, each in enumerate(cast("Sequence[object]", value))]


def spread(value: object) -> tuple[dict[str, Any], ...]:
    """Topology spread constraints.

    >>> spread([{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule"}])
    ({'maxSkew': 1, 'topologyKey': 'kubernetes.io/hostname', 'whenUnsatisfiable': 'DoNotSchedule'},)
    """
    found = list(_each(value))
    for at, constraint in found:
        for name in _SPREAD:
            if name not in constraint:
                raise Refused(f"it needs {', '.join(_SPREAD)}; {name} is missing", at=at, shown="")
    return tuple(constraint for _, constraint in found)


def containers(value: object) -> tuple[dict[str, Any], ...]:
    """Containers with a name each.

    >>> containers([{"name": "proxy", "image": "envoy:1"}])
    ({'name': 'proxy', 'image': 'envoy:1'},)
    """
    seen: set[str] = set()
    found = list(_each(value))
    for at, container in found:
        if "name" not in container:
            raise Refused("it needs a name", at=at, shown="")
        name = names.dns_label(container["name"])
        if name in _OURS:
            raise Refused(
                "kubefunc's own container has this name; choose another", at=f"{at}['name']", shown=repr(name)
            )
        if name in seen:
            raise Refused("two containers have this name", at=f"{at}['name']", shown=repr(name))
        seen.add(name)
    return tuple(container for _, container in found)


def host_aliases(value: object) -> dict[str, tuple[str, ...]]:
    """Host names by IP address, for ``/etc/hosts``.

    >>> host_aliases({"10.0.0.7": ["db", "db.internal"], "10.0.0.8": "cache"})
    {'10.0.0.7': ('db', 'db.internal'), '10.0.0.8': ('cache',)}
    """
    if not isinstance(value, Mapping):
        raise Refused("write a dict of IP addresses to names: {'10.0.0.7': ['db.internal']}")
    found: dict[str, tuple[str, ...]] = {}
    for address, hosts in cast("Mapping[object, object]", value).items():
        at = f"[{address!r}]"
        try:
            ipaddress.ip_address(str(address))
        except ValueError:
            raise Refused("it is no IP address; the names stand behind it", at=at, shown="") from None
        listed = (hosts,) if isinstance(hosts, str) else hosts
        if not isinstance(listed, (list, tuple)) or not all(isinstance(each, str) and each for each in listed):
            raise Refused("write a list of host names", at=at, shown=repr(hosts))
        found[str(address)] = tuple(cast("Sequence[str]", listed))
    return found


def job_template(value: object) -> object:
    """A dict with ``metadata`` and ``spec`` of a Job, or a function from Job to Job."""
    if callable(value) and not isinstance(value, Mapping) and not hasattr(type(value), "attribute_map"):
        return value
    found = _fields(value, "")
    for name, text in (("apiVersion", "batch/v1"), ("kind", "Job")):
        if found.get(name) == text:
            del found[name]
    unknown = sorted(found.keys() - {"metadata", "spec"})
    if unknown:
        raise Refused("a Job has 'metadata' and 'spec': put its fields under 'spec'", at=f"[{unknown[0]!r}]", shown="")
    for name, part in found.items():
        if not isinstance(part, dict):
            raise Refused("it must be a dict", at=f"[{name!r}]", shown=f"{part!r:.100}")
    return found


def by_name(below: object, above: object) -> object:
    """Merge lists of containers by name: the later one of a name takes the earlier one's place."""
    if not below or above is None:
        return above
    both = {each["name"]: each for each in (*cast("Sequence[Any]", below), *cast("Sequence[Any]", above))}
    return tuple(both.values())
