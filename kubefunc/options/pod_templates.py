"""What the option ``pod_template`` accepts: dicts, functions, objects of the Kubernetes client, or several of them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Final, cast

from kubefunc.options.kind import Refused
from kubefunc.options.option import PodTemplate

# As of Kubernetes 1.37. Only a bare spec is held against this list, to catch slips; under 'spec' everything passes, so
# that a newer cluster's fields need no newer kubefunc.
POD_SPEC_FIELDS: Final = frozenset(
    """
    activeDeadlineSeconds affinity automountServiceAccountToken containers dnsConfig dnsPolicy
    enableServiceLinks ephemeralContainers hostAliases hostIPC hostNetwork hostPID hostUsers
    hostname hostnameOverride imagePullSecrets initContainers nodeName nodeSelector os overhead
    preemptionPolicy priority priorityClassName readinessGates resourceClaims resources
    restartPolicy runtimeClassName schedulerName schedulingGates securityContext serviceAccount
    serviceAccountName setHostnameAsFQDN shareProcessNamespace subdomain
    terminationGracePeriodSeconds tolerations topologySpreadConstraints volumes
    """.split()
)
# The fields below these have names that users, drivers and clusters make up.
_FREE_NAMES: Final = frozenset(
    "annotations labels limits matchLabels nodeSelector options overhead requests volumeAttributes".split()
)


def parse(value: object) -> PodTemplate | tuple[PodTemplate, ...]:
    """One Pod template, or several in the order in which they apply.

    A bare spec is put under ``spec``:

    >>> parse({"runtimeClassName": "gvisor"})
    {'spec': {'runtimeClassName': 'gvisor'}}
    """
    if isinstance(value, (list, tuple)):
        return joined(*(_one(each, f"[{index}]") for index, each in enumerate(cast("list[object]", value))))
    return _one(value, "")


def joined(*templates: PodTemplate | tuple[PodTemplate, ...]) -> PodTemplate | tuple[PodTemplate, ...]:
    """Several templates as one value, the weakest first. A function that is there already is not applied twice.

    >>> joined({"spec": {}}, ({"metadata": {}}, {"spec": {}}))
    ({'spec': {}}, {'metadata': {}}, {'spec': {}})
    """
    each_once: list[PodTemplate] = []
    for template in (part for each in templates for part in in_order(each)):
        if not (callable(template) and template in each_once):
            each_once.append(template)
    return each_once[0] if len(each_once) == 1 else tuple(each_once)


def in_order(templates: object) -> Iterator[PodTemplate]:
    """The templates that a value of the option stands for, the weakest first."""
    if templates is not None:
        yield from cast("tuple[PodTemplate, ...]", templates if isinstance(templates, tuple) else (templates,))


def _one(value: object, at: str) -> PodTemplate:
    fields = _fields(value)
    if fields is None:
        if callable(value):
            return cast(PodTemplate, value)
        raise Refused("write a dict or a function that takes the Pod template and returns it, or a V1PodTemplateSpec")
    template = cast("dict[str, object]", checked_fields(fields, at=at))
    if template.keys() <= {"metadata", "spec"}:
        return _checked_parts(template, at)
    unknown = sorted(template.keys() - POD_SPEC_FIELDS)
    if not unknown:
        return {"spec": template}
    if template.keys() & {"metadata", "spec"}:
        raise Refused("beside 'metadata' and 'spec' a Pod template has no fields", at=f"{at}[{unknown[0]!r}]", shown="")
    raise Refused(
        "a Pod template has 'metadata' and 'spec', or the fields of a Pod's spec at its top; what this "
        "version does not know of passes under 'spec'",
        at=f"{at}[{unknown[0]!r}]",
        shown="",
    )


def _checked_parts(template: dict[str, object], at: str) -> dict[str, object]:
    for name, part in template.items():
        if not isinstance(part, dict):
            raise Refused("it must be a dict", at=f"{at}[{name!r}]", shown=f"{part!r:.100}")
    return template


def checked_fields(value: object, *, at: str) -> object:
    """A deep copy that JSON can write, whose fields have names as Kubernetes writes them.

    Raises:
        Refused: a value is not for JSON, or a field has a name in snake_case.
    """
    copy = _plain(value, at)
    _refuse_snake_case(copy, at)
    return copy


def _plain(value: object, at: str) -> object:
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    fields = _fields(value)
    if fields is not None:
        for key in cast("Mapping[object, object]", fields):
            if not isinstance(key, str):
                raise Refused("a name must be text", at=f"{at}[{key!r}]", shown="")
        return {key: _plain(item, f"{at}[{key!r}]") for key, item in fields.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{at}[{index}]") for index, item in enumerate(cast("list[object]", value))]
    raise Refused(f"{type(value).__name__} cannot be written as JSON", at=at, shown=f"{value!r:.100}")


def _fields(value: object) -> Mapping[str, object] | None:
    """The fields of a dict or of an object of the Kubernetes client, by their names in JSON; else None.

    The client's objects are known by ``attribute_map``, which both their kinds have: those of before 37, and pydantic's
    since. Their empty fields say None.
    """
    if isinstance(value, Mapping):
        return cast("Mapping[str, object]", value)
    names = getattr(type(value), "attribute_map", None)
    if not isinstance(names, Mapping):
        return None
    pairs = [(name, getattr(value, attribute, None)) for attribute, name in cast("Mapping[str, str]", names).items()]
    return {name: item for name, item in pairs if item is not None}


def _refuse_snake_case(value: object, at: str) -> None:
    """Kubernetes has no field in snake_case, but its Python client has: the server would drop such a field."""
    if isinstance(value, list):
        for index, item in enumerate(cast("list[object]", value)):
            _refuse_snake_case(item, f"{at}[{index}]")
    elif isinstance(value, dict):
        for name, item in cast("dict[str, object]", value).items():
            if "_" in name:
                raise Refused(
                    f"Kubernetes has no field of this name; did you mean {camel_case(name)!r}?",
                    at=f"{at}[{name!r}]",
                    shown="",
                )
            if name not in _FREE_NAMES:
                _refuse_snake_case(item, f"{at}[{name!r}]")


def camel_case(name: str) -> str:
    """A name as Kubernetes writes it.

    >>> camel_case("volume_mounts"), camel_case("host_ipc"), camel_case("set_hostname_as_fqdn")
    ('volumeMounts', 'hostIPC', 'setHostnameAsFQDN')
    """
    camel = re.sub(r"_+(\w)", lambda found: found[1].upper(), name.strip("_"))
    return {field.lower(): field for field in POD_SPEC_FIELDS}.get(camel.lower(), camel)
