"""How a call's ports are named: what both backends need to lead there."""

from __future__ import annotations

from collections.abc import Mapping

from kubefunc.errors import ConfigurationError
from kubefunc.options import Options

NO_SERVICE = "has no service: give the function service='name' and ports={'http': 8080}"


def check_reach(options: Options) -> None:
    """Refuse a Service that leads nowhere.

    Raises:
        ConfigurationError: ``service`` has no ``ports``.
    """
    if options.service is not None and not options.ports:
        raise ConfigurationError(
            f"service={options.service!r} needs ports=, the ports that it leads to, such as ports={{'http': 8080}}."
        )


def port_number(ports: Mapping[str, int], port: str | int | None) -> int:
    """The number of a port that is given by its name, its number, or not at all where there is one.

    >>> port_number({"http": 8080}, None), port_number({"http": 8080, "admin": 9}, "admin"), port_number({}, 80)
    (8080, 9, 80)

    Raises:
        ConfigurationError: there is no such port.
    """
    if isinstance(port, int):
        if not 0 < port < 65536:
            raise ConfigurationError(f"forward({port!r}): a port is a number from 1 to 65535, or a name in ports=.")
        return port
    names = ", ".join(map(repr, ports)) or "none"
    if port is None and len(ports) == 1:
        return next(iter(ports.values()))
    if port is None:
        raise ConfigurationError(f"forward() needs the name or the number of a port. ports= has {names}.")
    if port not in ports:
        raise ConfigurationError(f"forward({port!r}): there is no port of this name. ports= has {names}.")
    return ports[port]
