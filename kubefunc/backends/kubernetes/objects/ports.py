"""The ports of the container ``main``."""

from __future__ import annotations

from typing import Final

from kubefunc.backends.kubernetes.objects.template import Json
from kubefunc.options import Options

_LEAVES_SERVICE_WITHIN: Final = 2  # seconds


def container_ports(options: Options) -> list[Json] | None:
    """Its ports, by name and number."""
    ports: list[Json] = [{"name": name, "containerPort": number} for name, number in options.ports.items()]
    return ports or None


def readiness_probe(options: Options) -> Json | None:
    """The Service sends nothing to a Pod whose function does not listen yet, or has ended."""
    if options.service is None:
        return None
    return {"tcpSocket": {"port": next(iter(options.ports))}, "periodSeconds": 1, "failureThreshold": 2}


def lifecycle(options: Options) -> Json | None:
    """A Pod that is deleted goes on for as long as the nodes need to learn that it is no part of the Service any more.

    Else connections would still be sent to it, and be refused.
    """
    return None if options.service is None else {"preStop": {"sleep": {"seconds": _LEAVES_SERVICE_WITHIN}}}
