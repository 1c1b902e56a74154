"""What a namespace's quota or LimitRange demands of each container, read from its refusals, and how to meet it. Pure.

Kubernetes demands it container by container, also of the courier and of init containers, and tells so only when the Job
controller tries to make the Pod.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, cast

from kubefunc.backends.kubernetes.objects.template import Json, deep_copy, items
from kubefunc.options.parsers.quantities import quantity
from kubefunc.runner import COURIER, MAIN

_NAMES: Final = ("cpu", "memory")
# For a container without resources of its own. With less CPU a reader in the courier is slow to start.
_USUAL: Final[Mapping[str, Mapping[str, str]]] = {
    MAIN: {"cpu": "1", "memory": "1Gi"},
    COURIER: {"cpu": "250m", "memory": "64Mi"},
}
_USUAL_BESIDE: Final[Mapping[str, str]] = {"cpu": "250m", "memory": "256Mi"}
# What is set aside of that: CPU can be shared, memory cannot.
_SET_ASIDE: Final[Mapping[str, str]] = {"1": "500m", "250m": "100m"}


@dataclass(frozen=True)
class Demands:
    """What each container must state, and within which bounds.

    Attributes:
        stated: such as ``limits.cpu``.
        least: the smallest request, by resource.
        most: the largest limit, by resource.
        equal: resources whose limit is bounded by a multiple of the request: equal is always within it.
    """

    stated: frozenset[str] = frozenset()
    least: Mapping[str, str] = field(default_factory=dict[str, str])
    most: Mapping[str, str] = field(default_factory=dict[str, str])
    equal: frozenset[str] = frozenset()

    def __or__(self, other: Demands) -> Demands:
        """Both of them; of two bounds the narrower one."""
        return Demands(
            self.stated | other.stated,
            _joined(max, self.least, other.least),
            _joined(min, self.most, other.most),
            self.equal | other.equal,
        )


def _joined(choose: Callable[..., str], *bounds: Mapping[str, str]) -> dict[str, str]:
    names = sorted({name for each in bounds for name in each})
    return {name: choose((each[name] for each in bounds if name in each), key=quantity) for name in names}


NOTHING: Final = Demands()

_MUST_SPECIFY: Final = re.compile(r"failed quota: .*?must specify (?P<what>.*)")
_RESOURCE: Final = re.compile(r"\b(?:(limits|requests)\.)?(cpu|memory)\b")
_BOUND: Final = re.compile(
    r"(?P<bound>minimum|maximum) (?P<name>cpu|memory) usage per (?P<scope>Container|Pod) is "
    r"(?P<amount>[0-9]+(?:m|[KMGTPE]i?|k)?)"
    r"(?P<unstated>\.\s+No (?:request|limit) is specified)?"
)
_RATIO: Final = re.compile(r"(?P<name>cpu|memory) max limit to request ratio per (?:Container|Pod)")


def demanded(message: str) -> Demands:
    """What a refusal of the quota or of a LimitRange demands.

    >>> sorted(demanded("failed quota: q: must specify limits.cpu for: main; memory for: courier,main").stated)
    ['limits.cpu', 'requests.memory']
    >>> demanded("is forbidden: minimum memory usage per Container is 128Mi, but request is 64Mi").least
    {'memory': '128Mi'}
    """
    stated: set[str] = set()
    must = _MUST_SPECIFY.search(message)
    if must is not None:
        stated |= {f"{kind or 'requests'}.{name}" for kind, name in _RESOURCE.findall(must["what"])}
    bounds = list(_BOUND.finditer(message))
    stated |= {f"{_KINDS[each['bound']]}.{each['name']}" for each in bounds if each["unstated"]}
    of_containers = [each for each in bounds if each["scope"] == "Container"]
    return Demands(
        frozenset(stated),
        {each["name"]: each["amount"] for each in of_containers if each["bound"] == "minimum"},
        {each["name"]: each["amount"] for each in of_containers if each["bound"] == "maximum"},
        frozenset(each["name"] for each in _RATIO.finditer(message)),
    )


_KINDS: Final = {"minimum": "requests", "maximum": "limits"}


def meeting(template: Json, demands: Demands) -> Json:
    """The Pod template with what is demanded of each container added; what ``main`` asks for stays as it is.

    Raises:
        ConfigurationError: ``pod_template`` has something else than containers where these belong.
    """
    if demands == NOTHING:
        return template
    changed = deep_copy(template)
    pod = cast(Json, changed["spec"])
    for kind in ("containers", "initContainers"):
        for container in items(pod.get(kind) or [], f"pod_template.spec.{kind}"):
            container["resources"] = _met(container, demands)
    return changed


def _met(container: Json, demands: Demands) -> Json:
    resources = cast("dict[str, Json]", container.get("resources") or {})
    name = str(container.get("name"))
    amounts = {kind: dict(resources.get(kind) or {}) for kind in ("requests", "limits")}
    for resource in _NAMES:
        usual = _bounded(_USUAL.get(name, _USUAL_BESIDE)[resource], resource, demands)
        if resource in demands.equal:
            _equalise(amounts, resource, usual, asked_for=name != COURIER)
        _state(amounts, resource, usual, demands, asked_for=name != COURIER)
        if name != MAIN:
            _keep_within(amounts, resource, demands)
    return {**resources, **{kind: amount for kind, amount in amounts.items() if amount}}


def _state(amounts: dict[str, Json], resource: str, usual: str, demands: Demands, *, asked_for: bool) -> None:
    """Add the request and the limit that must be there. A limit is what was asked for, where a person has asked."""
    requests, limits = amounts["requests"], amounts["limits"]
    needed = [f"{kind}.{resource}" in demands.stated for kind in ("requests", "limits")]
    if any(needed) and resource not in requests and resource not in limits:
        requests[resource] = _bounded(_SET_ASIDE.get(usual, usual), resource, demands)
        asked_for = False
    if needed[1] and resource not in limits:
        limits[resource] = requests[resource] if asked_for else usual


def _equalise(amounts: dict[str, Json], resource: str, usual: str, *, asked_for: bool) -> None:
    """Let limit and request be the same, where a person has not set both."""
    requests, limits = amounts["requests"], amounts["limits"]
    if not asked_for:
        requests[resource] = limits[resource] = limits.get(resource, usual)
    elif resource in requests:
        limits.setdefault(resource, requests[resource])
    else:
        requests[resource] = limits.setdefault(resource, usual)


def _keep_within(amounts: dict[str, Json], resource: str, demands: Demands) -> None:
    for part in amounts.values():
        if resource in part:
            part[resource] = _bounded(str(part[resource]), resource, demands)


def _bounded(amount: str, resource: str, demands: Demands) -> str:
    least, most = demands.least.get(resource), demands.most.get(resource)
    if least is not None and quantity(amount) < quantity(least):
        return least
    if most is not None and quantity(amount) > quantity(most):
        return most
    return amount


def grown(old: Demands, message: str) -> Demands | None:
    """What is known now, if a refusal demands something that a Job made for ``old`` did not meet."""
    both = old | demanded(message)
    return None if both == old else both


def sent_again(demands: Demands) -> str:
    """A line for a person: what becomes of a Job whose Pods were refused for these demands."""
    if not demands.stated:
        return "the namespace has bounds for what containers may ask for: sent again within them"
    usual = _USUAL[MAIN]
    return (
        "the namespace demands limits of every container: sent again with them. cpu_limit= and memory= set the "
        f"function's own; where they are not set, {usual['cpu']} CPU and {usual['memory']}"
    )


COURIER_LIMITS: Final = f"{_USUAL[COURIER]['cpu']} CPU, {_USUAL[COURIER]['memory']} memory"
