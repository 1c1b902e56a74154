"""What quotas, LimitRanges and the Pod Security level of a namespace mean for a plain call. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from kubefunc.backends.kubernetes.objects import fields
from kubefunc.backends.kubernetes.objects.admission import quantity_or_zero
from kubefunc.backends.kubernetes.objects.fields import JsonDict
from kubefunc.backends.operations import Check

# Of the smallest call: one Pod, whose courier asks for 10m and 64Mi; the function itself asks for what its options say.
_NEEDED: Final[Mapping[str, str]] = {
    "pods": "1",
    "count/pods": "1",
    "count/jobs.batch": "1",
    "secrets": "1",
    "count/secrets": "1",
    "cpu": "10m",
    "requests.cpu": "10m",
    "memory": "64Mi",
    "requests.memory": "64Mi",
}
_LEVEL: Final = "pod-security.kubernetes.io/enforce"


def check_quotas(quotas: Iterable[JsonDict]) -> list[Check]:
    """Whether a call fits into each quota: ever, and now."""
    found = [check for quota in quotas for check in _quota(quota)]
    return found or [Check("quota", "ok", "No quota limits this namespace.")]


def _quota(quota: JsonDict) -> list[Check]:
    name = fields.name_of(quota)
    status, spec = fields.mapping(quota, "status"), fields.mapping(quota, "spec")
    if spec.get("scopes") or spec.get("scopeSelector"):
        return [Check("quota", "ok", f"The quota {name} is for some Pods only (scopes); calls may be among them.")]
    hard, used = fields.mapping(spec, "hard"), fields.mapping(status, "used")
    wanted = {item: amount for item, amount in _NEEDED.items() if item in hard}
    never = [item for item, amount in wanted.items() if quantity_or_zero(str(hard[item])) < quantity_or_zero(amount)]
    if never:
        words = tuple(f"{name}: {item} is limited to {hard[item]}" for item in never)
        message = f"The quota {name} lets no call start, since it allows less than a call needs."
        return [Check("quota", "problem", message, "Have the quota raised, or use another namespace.", words)]
    full = [
        item
        for item, amount in wanted.items()
        if quantity_or_zero(str(hard[item])) - quantity_or_zero(str(used.get(item, "0"))) < quantity_or_zero(amount)
    ]
    if full:
        words = tuple(f"{name}: {item} used {used.get(item)} of {hard[item]}" for item in full)
        message = f"The quota {name} is used up: calls wait until other Pods end."
        return [Check("quota", "warning", message, "End what you no longer need.", words)]
    amounts = ", ".join(f"{item} {used.get(item, '0')} of {hard[item]}" for item in sorted(hard))
    return [Check("quota", "ok", f"The quota {name} has room: {amounts}.")]


def check_ranges(ranges: Iterable[JsonDict]) -> list[Check]:
    """What a LimitRange gives to functions that ask for nothing, and whether the courier fits into it."""
    found = [
        _range(fields.name_of(each), limit)
        for each in ranges
        for limit in fields.mappings(fields.mapping(each, "spec"), "limits")
        if limit.get("type") in ("Container", "Pod")
    ]
    return found or [Check("limits", "ok", "No LimitRange bounds this namespace.")]


def _range(name: str, limit: JsonDict) -> Check:
    most, default = fields.mapping(limit, "max"), fields.mapping(limit, "default")
    small = [
        item
        for item in ("cpu", "memory")
        if item in most and quantity_or_zero(str(most[item])) < quantity_or_zero(_NEEDED[item])
    ]
    if small:
        words = tuple(f"{name}: at most {item} {most[item]} per {limit['type']}" for item in small)
        message = (
            f"The LimitRange {name} lets no call start: the courier, the second container, needs 10m CPU and 64Mi."
        )
        return Check("limits", "problem", message, "Have it changed, or use another namespace.", words)
    bounds = [
        f"{word} {item} {amount}"
        for word, key in (("at least", "min"), ("at most", "max"))
        for item, amount in sorted(fields.mapping(limit, key).items())
    ]
    told = f"The LimitRange {name} bounds each {limit['type']}: {', '.join(bounds)}." if bounds else ""
    if default:
        given = ", ".join(f"{item} {amount}" for item, amount in sorted(default.items()))
        message = " ".join(
            filter(None, (told, f"Functions that set no cpu= and memory= get a limit of {given} by {name}."))
        )
        return Check("limits", "warning", message, "Set cpu_limit= and memory= where that is too little.")
    return Check("limits", "ok", told or f"The LimitRange {name} bounds nothing that calls use.")


def check_security(namespace: JsonDict, run_as_user: int | None) -> Check:
    """Whether the namespace's Pod Security level takes our Pods."""
    level = fields.text(fields.mapping(fields.mapping(namespace, "metadata"), "labels"), _LEVEL)
    if level == "restricted" and not run_as_user:
        return Check(
            "security",
            "problem",
            "The namespace accepts only Pods of the security level 'restricted', which may not run as root.",
            "Set run_as_user=1000 in your program, or KUBEFUNC_RUN_AS_USER=1000 for all calls.",
            (f"{_LEVEL}={level}",),
        )
    return Check("security", "ok", f"Pods of calls comply with the security level {level or 'privileged'!r}.")
