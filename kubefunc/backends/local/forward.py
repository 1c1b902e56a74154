"""A port of a function on this machine: it is reached as it is."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kubefunc.backends.base import Places
from kubefunc.backends.reach import NO_SERVICE, port_number
from kubefunc.errors import ConfigurationError, PortForwardError

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

HERE: Final = "127.0.0.1"
_LISTENS_WITHIN: Final = 15.0
_LOOK: Final = 0.02
_TABLES: Final = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_LISTENING: Final = "0A"


class LocalAccess:
    """Implements :class:`kubefunc.backends.base.Access`."""

    def __init__(self, call: str, ports: Mapping[str, int]) -> None:
        self._call = call
        self._ports = ports

    def endpoint(self) -> str:
        if not self._ports:
            raise ConfigurationError(f"{self._call} {NO_SERVICE}.")
        return f"{HERE}:{next(iter(self._ports.values()))}"

    def forward(self, port: str | int | None, places: Places) -> LocalForward:
        return LocalForward(port_number(self._ports, port), places)


class LocalForward:
    """Implements :class:`kubefunc.backends.base.Forward`: waits until the function listens."""

    def __init__(self, port: int, places: Places) -> None:
        self._port = port
        self._places = places
        self.trouble = ""

    @property
    def address(self) -> tuple[str, int]:
        return HERE, self._port

    def __enter__(self) -> Self:
        deadline = time.monotonic() + _LISTENS_WITHIN
        while not is_listening(self._port):
            if self._places.ended() or time.monotonic() > deadline:
                raise PortForwardError(f"Nothing listens on port {self._port} of {self._places.name}.")
            time.sleep(_LOOK)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing was opened."""


def is_listening(port: int) -> bool:
    """Whether a program listens on this port here.

    Linux is asked, so that a server is not handed a connection that nobody wants. Elsewhere one is tried.
    """
    tables = [table.read_text() for table in _TABLES if table.exists()]
    if tables:
        return any(re.search(rf":{port:04X} [0-9A-F:]+ {_LISTENING} ", table) for table in tables)
    with socket.socket() as probe:
        return probe.connect_ex((HERE, port)) == 0
