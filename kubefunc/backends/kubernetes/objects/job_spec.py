"""All that the objects of one call are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from kubefunc.backends.kubernetes.objects.demands import NOTHING, Demands
from kubefunc.backends.kubernetes.objects.origin import NOBODY, Origin
from kubefunc.options import Options
from kubefunc.runner import BACKOFF

SECRETS_LIMIT: Final = 8 * 1024**2  # a larger payload is uploaded through the courier: etcd is no file store

ITEMS_LIMIT: Final = 900 * 1024  # a node writes all of them into each Pod of a map; more is uploaded, to each its own


@dataclass(frozen=True, kw_only=True)
class Indexed:
    """What makes a Job one of many Pods.

    Attributes:
        items: how many there are.
        chunks: into how many they are split; an index of the Job each.
        longest: items of the largest one.
        parallelism: Pods at once.
    """

    items: int
    chunks: int
    longest: int
    parallelism: int


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """All that the objects of one call are made of.

    Attributes:
        call: the call's id.
        session: the id of the client's session.
        function: the function's name, for people.
        namespace: the Kubernetes namespace.
        options: all of them, resolved.
        files: the content of ``/kubefunc/in`` by name; a missing ``payload`` is uploaded through the courier, and so
            are a map's missing ``items``.
        indexed: for a map.
        attempt: 1, or a higher number for a Job that replaces an earlier one of the same call.
        backoff: as in ``spec.json``: seconds before the first new attempt, factor, most seconds.
        demands: what the namespace is known to demand of each container.
        origin: who makes the call.
        module: where the function is defined, or empty.
        pool: of a warm worker: its kind.
        owner: the ownerReference of the Job: the Pod that the client runs in.
    """

    call: str
    session: str
    function: str
    namespace: str
    options: Options
    files: Mapping[str, bytes] = field(repr=False)
    attempt: int = 1
    backoff: tuple[float, float, float] = BACKOFF
    indexed: Indexed | None = None
    demands: Demands = NOTHING
    origin: Origin = NOBODY
    module: str = ""
    pool: str = ""
    owner: Mapping[str, object] | None = None

    @property
    def name(self) -> str:
        """The name of the Job and of its first Secret."""
        return job_name(self.call, self.attempt)


def job_name(call: str, attempt: int) -> str:
    """The name of the Job that this attempt of a call or map is."""
    return call if attempt == 1 else f"{call}-r{attempt}"
