"""What the words of a refused creation mean: an answer of the API server, or an Event of the Job controller. Pure.

Quotas, LimitRanges, Pod Security, webhooks and the like have no codes of their own. Their words are read here alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from kubefunc.options.parsers.quantities import quantity

QUOTA_DEMANDS: Final = "QuotaDemandsLimits"
QUOTA_HOPELESS: Final = "QuotaHopeless"
QUOTA_USED: Final = "QuotaUsed"
POD_SECURITY: Final = "PodSecurity"
OPENSHIFT: Final = "SecurityContextConstraint"
WEBHOOK_DENIED: Final = "AdmissionDenied"
WEBHOOK_SILENT: Final = "WebhookUnreachable"
LIMIT_RANGE: Final = "LimitRange"
PRIORITY_CLASS: Final = "PriorityClass"

_KINDS: Final = (
    (QUOTA_DEMANDS, re.compile(r"failed quota.*must specify", re.DOTALL)),
    (POD_SECURITY, re.compile(r'violates PodSecurity(?: "(?P<name>\w+))?')),
    (OPENSHIFT, re.compile(r"security context constraint")),
    (WEBHOOK_DENIED, re.compile(r'admission webhook (?:"(?P<name>[^"]*)"|.*) denied the request')),
    (WEBHOOK_SILENT, re.compile(r'failed calling webhook(?: "(?P<name>[^"]*)")?')),
    (
        LIMIT_RANGE,
        re.compile(
            r"(?:maximum|minimum) (?P<name>[\w./-]+) usage per \w+ is|"
            r"(?P<ratio>[\w./-]+) max limit to request ratio per"
        ),
    ),
    (PRIORITY_CLASS, re.compile(r"no PriorityClass with name (?P<name>\S+) was found")),
)
_QUOTA: Final = re.compile(
    r"exceeded quota: .*?requested: (?P<requested>\S+), used: (?P<used>\S+), limited: (?P<limited>\S+)"
)


@dataclass(frozen=True)
class Refusal:
    """Which rule refuses an object.

    Attributes:
        kind: one of the constants of this module.
        name: what the words name: a webhook, a level of Pod Security, a resource, a PriorityClass; or empty.
    """

    kind: str
    name: str = ""


def refusal(message: str) -> Refusal | None:
    """The rule that these words are about, if it is a known one.

    >>> refusal('admission webhook "policy.example" denied the request: no team label')
    Refusal(kind='AdmissionDenied', name='policy.example')
    """
    hopeless = quota_is_hopeless(message)
    if hopeless is not None:
        return Refusal(QUOTA_HOPELESS if hopeless else QUOTA_USED)
    for kind, pattern in _KINDS:
        found = pattern.search(message)
        if found is not None:
            return Refusal(kind, next((text for text in found.groups() if text), ""))
    return None


def quota_is_hopeless(message: str) -> bool | None:
    """Whether a quota can never give what was asked for; None where the message is not about an exceeded
    quota.

    >>> text = "exceeded quota: q, requested: pods=1,cpu=500m, used: pods=3,cpu=2, limited: pods=3,cpu=2"
    >>> quota_is_hopeless(text)
    False
    >>> quota_is_hopeless(text.replace("limited: pods=3", "limited: pods=0"))
    True
    >>> quota_is_hopeless("jobs.batch is forbidden") is None
    True
    """
    found = _QUOTA.search(message)
    if found is None:
        return None
    limited = dict(_amounts(found["limited"]))
    return any(amount > limited[name] for name, amount in _amounts(found["requested"]) if name in limited)


def _amounts(text: str) -> list[tuple[str, int]]:
    pairs = [part.partition("=") for part in text.rstrip(".").split(",")]
    return [(name, quantity_or_zero(value)) for name, _, value in pairs]


def quantity_or_zero(text: str) -> int:
    """A quantity in billionths; 0 for what is not one: the cluster may say anything."""
    try:
        return quantity(text)
    except ValueError:
        return 0
