"""How others reach the function while it runs: ports, a Service, and the Pods of a gang."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypedDict

from kubefunc.errors import ConfigurationError
from kubefunc.options.kind import Kind, none
from kubefunc.options.option import Group, Unset, by_key, option
from kubefunc.options.parsers import mappings, numbers


def _ports(value: object) -> object:
    from kubefunc.options.parsers import ports  # here, as a Pod that imports kubefunc hardly ever needs it

    return ports.ports(value)


def _service_name(value: object) -> object:
    from kubefunc.options.parsers import ports

    return ports.service_name(value)


class NetworkChanges(TypedDict, total=False):
    """What these options accept."""

    ports: Mapping[str, int] | Unset | None
    service: str | Unset | None
    gang: int | Unset | None


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class Network(Group):
    """How others reach the function while it runs."""

    ports: Mapping[str, int] = option(
        {},
        Kind("a dict of port names to numbers, or None", _ports, mappings.read_json, dict),
        merge=by_key,
    )
    """Ports that the function listens on, by name: ``{"http": 8080}``. Merged by name.

    ``call.forward("http")`` forwards a local port to one of them. The function itself binds to the number, on all
    interfaces (``""`` or ``"0.0.0.0"``).

    Default: none.
    Local: the function listens on this machine, at 127.0.0.1.
    """

    service: str | None = option(None, Kind("a Service's name such as 'scores', or None", _service_name, nothing=none))
    """The name of a Service to create in front of the Pods of this call or map. ``call.endpoint`` is its address.

    It spreads connections over those Pods that listen on the first of ``ports``, and is deleted with the Job.

    Default: None, no Service.
    Local: no Service; ``call.endpoint`` is the address on this machine.
    """

    gang: int | None = option(
        None,
        Kind(
            "a number of Pods from 1 to 1000, or None",
            numbers.whole_number(1, 1000),
            numbers.read_whole_number,
            none,
        ),
    )
    """Run the function in so many Pods that start together and know each other: the ranks of a gang.

    ``.remote()`` gives a :class:`kubefunc.GangCall` then, whose result is a list by rank. In the function,
    ``current.rank()``, ``current.world_size()`` and ``current.peers()`` say who is there. ``retries`` and
    ``max_disruptions`` run all ranks again.

    Default: None, one Pod.
    Local: processes of this machine.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        by_number: dict[int, str] = {}
        for name, number in self.ports.items():
            if number in by_number:
                raise ConfigurationError(
                    f"ports={dict(self.ports)!r} has the number {number} twice, as {by_number[number]!r} and {name!r}: "
                    "leave one out"
                )
            by_number[number] = name
