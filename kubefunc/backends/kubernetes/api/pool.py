"""The connections to one API server: the only module that imports `kubernetes`, when first used.

`kubernetes` does what it does well: it reads a kubeconfig or the in-cluster files, runs credential plugins, and
builds an urllib3 pool with the right certificates and proxies. A kubeconfig with a plain token or certificate needs
none of that (:mod:`kubefunc.backends.kubernetes.api.static_login`). Its typed models cost
ten times what `json.loads` does, its `Watch` cannot recover from a 410 (KeyError 'raw_object'), and its `stream()`
swaps a method on a client that others are using (client-python#928). So: raw requests on that pool, raw dicts out.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import socket
import ssl
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kubefunc.backends.kubernetes.api.answers import UnreadableAnswer
from kubefunc.backends.kubernetes.api.kubeconfig import IN_CLUSTER, ClusterConfig
from kubefunc.backends.kubernetes.api.static_login import StaticLogin, static_login
from kubefunc.errors import AuthenticationError, ConfigurationError

if TYPE_CHECKING:
    import queue

    import urllib3

CONNECTIONS = 40


@dataclass(frozen=True)
class Session:
    """One load of the credentials, and the pool that uses them.

    Attributes:
        configuration: the `kubernetes` Configuration.
        digest: of the certificates and the key, as they were read.
        folder: where `kubernetes` writes them when it loads them; they are removed at once.
    """

    configuration: Any
    pool: urllib3.PoolManager
    digest: str
    folder: str


def open_session(config: ClusterConfig, announce: Callable[[object], None], connections: int) -> Session:
    """Load the credentials of `config`, which may run a credential plugin, and make a pool.

    Args:
        config: from ``find_config``.
        announce: is told each socket that waits for an answer.
        connections: how many the pool has at most.

    Raises:
        ConfigurationError: they cannot be read.
        AuthenticationError: there are none.
    """
    folder = tempfile.mkdtemp(prefix="kubefunc-")
    try:
        static = static_login(config, folder, os.environ)
        configuration = static if static is not None else _load(config, folder)
        try:
            manager = _manager(static) if static is not None else _manager_of_kubernetes(configuration)
            _fit(manager, announce, connections)
            return Session(configuration, manager, _digest(configuration), folder)
        except (OSError, ValueError) as exc:  # ssl.SSLError is an OSError
            raise ConfigurationError(
                f"The certificates of the context {config.context!r} in {config.source} cannot be used: {exc}"
            ) from exc
    finally:
        _remove_files(folder)


def _load(config: ClusterConfig, folder: str) -> Any:
    from kubernetes import config as untyped
    from kubernetes.client import Configuration

    loaders: Any = untyped
    # Never the default that the user's program may have set for another cluster: its token would go to this
    # one. (Configuration() returns a copy of that up to version 36, by a metaclass.)
    configuration = type.__call__(Configuration)
    try:
        if config.source == IN_CLUSTER:
            loaders.load_incluster_config(client_configuration=configuration)
        else:
            loaders.load_kube_config(
                config_file=os.pathsep.join(config.files),
                context=config.context,
                client_configuration=configuration,
                temp_file_path=folder,
            )
    except (loaders.ConfigException, OSError, ValueError, TypeError, KeyError, AttributeError) as exc:
        # What is malformed below the entries that find_config has checked surfaces as any of these.
        raise ConfigurationError(
            f"The credentials of the context {config.context!r} in {config.source} cannot be loaded: {exc}"
        ) from exc
    if config.login is not None and not configuration.api_key and not configuration.cert_file:
        # kubernetes.config logs a plugin's failure and goes on without credentials, as "system:anonymous".
        words = "; its own words are in the log above" if "plugin" in config.login else ""
        raise AuthenticationError(
            f"{config.login} of the context {config.context!r} in {config.source} gave no credentials{words}."
        )
    return configuration


def _remove_files(folder: str) -> None:
    """Leave no private key behind: `kubernetes` removes its copies at the program's end, and not when it is killed.

    It also remembers them by content, for the next who loads the same kubeconfig, a part of the user's program perhaps.
    """
    remembered: dict[str, str] = getattr(sys.modules.get("kubernetes.config.kube_config"), "_temp_files", {})
    for content, path in list(remembered.items()):
        if os.path.dirname(path) == folder:
            remembered.pop(content, None)
    shutil.rmtree(folder, ignore_errors=True)


def _digest(configuration: Any) -> str:
    read = hashlib.sha256()
    for name in ("ssl_ca_cert", "cert_file", "key_file"):
        path = getattr(configuration, name, None)
        read.update(b"%s=%s;" % (name.encode(), Path(path).read_bytes() if path else b""))
    return read.hexdigest()


def authorization(session: Session, config: ClusterConfig) -> dict[str, str]:
    """The headers that say who asks. May run a credential plugin."""
    try:
        settings = session.configuration.auth_settings()
    except Exception as exc:  # the hook reads files and runs plugins: nothing less says what it may raise
        raise ConfigurationError(
            f"The credentials of the context {config.context!r} in {config.source} cannot be renewed: {exc}"
        ) from exc
    finally:
        if os.path.isdir(session.folder):
            _remove_files(session.folder)
    return {setting["key"]: setting["value"] for setting in settings.values() if setting["value"]}


def same_connections(old: Session, new: Session) -> bool:
    """Whether open connections may go on after a reload. Those made with a client certificate may not."""
    names = ("host", "verify_ssl", "tls_server_name", "proxy")
    before, after = old.configuration, new.configuration
    same = all(getattr(before, name, None) == getattr(after, name, None) for name in names)
    return same and old.digest == new.digest and not getattr(after, "cert_file", None)


def _manager_of_kubernetes(configuration: Any) -> urllib3.PoolManager:
    from kubernetes.client import rest

    manager: urllib3.PoolManager = rest.RESTClientObject(configuration).pool_manager
    return manager


def _manager(login: StaticLogin) -> urllib3.PoolManager:
    """What `kubernetes` would make of the same."""
    import urllib3

    return urllib3.PoolManager(
        cert_reqs=ssl.CERT_REQUIRED if login.verify_ssl else ssl.CERT_NONE,
        ca_certs=login.ssl_ca_cert,
        cert_file=login.cert_file,
        key_file=login.key_file,
    )


def _fit(pool: urllib3.PoolManager, announce: Callable[[object], None], connections: int) -> None:
    """Make it bounded, kept alive by TCP, and telling us its sockets."""
    pool.connection_pool_kw.update(maxsize=connections, block=True, socket_options=_socket_options())
    _share_tls_context(pool.connection_pool_kw)
    pool.pool_classes_by_scheme = {
        scheme: _announcing(kind, announce) for scheme, kind in pool.pool_classes_by_scheme.items()
    }


def _share_tls_context(settings: dict[str, Any]) -> None:
    """Read the certificates once, not once a connection: that costs more than the handshake itself."""
    from urllib3.util import create_urllib3_context

    authority = settings.pop("ca_certs", None)
    authority_data = settings.pop("ca_cert_data", None)
    certificate, key = settings.pop("cert_file", None), settings.pop("key_file", None)
    context = create_urllib3_context(cert_reqs=settings["cert_reqs"])
    if authority or authority_data:
        context.load_verify_locations(cafile=authority, cadata=authority_data)
    elif settings["cert_reqs"] != ssl.CERT_NONE:
        context.load_default_certs()
    if certificate:
        context.load_cert_chain(certificate, key)
    settings["ssl_context"] = context


def _announcing(pool_class: Any, announce: Callable[[object], None]) -> Any:
    """`pool_class` with connections that call `announce(socket)` before they wait for an answer."""

    class Connection(pool_class.ConnectionCls):  # type: ignore[misc]
        response_class = _Response

        def send(self, data: Any) -> None:
            # A server may refuse before it has read all, and closes then: of a Secret above 256 KiB that may not be
            # created, Go reads no more. Its answer is there all the same; urllib3 looks for it after this error alone.
            is_connected = self.sock is not None
            try:
                super().send(data)
            except (ssl.SSLError, ConnectionResetError, TimeoutError) as error:
                if not is_connected:
                    raise
                raise BrokenPipeError(f"the request was not taken: {error}") from error

        def getresponse(self) -> Any:
            announce(self.sock)
            return super().getresponse()

    class Pool(pool_class):  # type: ignore[misc]
        ConnectionCls = Connection
        pool: Any

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            # urllib3 empties the queue that it made when the program exits, before our exit handler runs.
            # No request could get a connection then, and Jobs would stay. So use a queue that it does not know.
            known, self.pool = self.pool, self.QueueCls(self.pool.maxsize)
            while not known.empty():
                self.pool.put(known.get())
            weakref.finalize(self, _close_idle, self.pool).atexit = False

    return Pool


def _close_idle(connections: queue.Queue[Any]) -> None:
    while not connections.empty():
        connection = connections.get()
        if connection is not None:
            connection.close()


class _Response(http.client.HTTPResponse):
    """An answer whose headers must end: http.client takes a connection that ends in them for their end.

    The rest of such headers is missing then, Content-Length with them, and nothing is left to be read: a success
    with an empty body.
    """

    def begin(self) -> None:
        """Read the headers. Raises RemoteDisconnected where they are cut."""
        source: Any = self.fp
        lines: Any = _Lines(source)
        self.fp = lines
        try:
            super().begin()
        finally:
            if self.fp is lines:  # not where a bad status line has closed it
                self.fp = source
        if lines.at_end:
            raise http.client.RemoteDisconnected("the connection ended inside the headers of the answer")


class _Lines:
    """A reader of lines that remembers whether it has come to the end of the connection."""

    def __init__(self, source: Any) -> None:
        self._source = source
        self.at_end = False

    def readline(self, limit: int = -1) -> bytes:
        line = bytes(self._source.readline(limit))
        self.at_end = self.at_end or not line.endswith(b"\n")
        return line

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)


def _socket_options() -> list[tuple[int, int, int]]:
    """No delay; and TCP itself notices a dead peer after about a minute (a laptop that slept)."""
    options = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            options.append((socket.IPPROTO_TCP, getattr(socket, name), value))
    return options


# -- what went wrong


def diagnose(exc: Exception) -> tuple[str, bool]:
    """The reason of a ConnectionFailed, and whether trying again is pointless."""
    from urllib3 import exceptions

    if isinstance(exc, UnreadableAnswer):
        return "unreadable", False
    chain = list(_chain(exc))
    if any(isinstance(one, ssl.SSLError) and not isinstance(one, _TLS_CUTS) for one in chain):
        return "tls", True
    if any(isinstance(one, _TLS_CUTS) for one in chain):
        return "lost", False
    if isinstance(exc, exceptions.SSLError):  # a certificate file that is not there, a host name that does not match
        return "tls", True
    if any(isinstance(one, socket.gaierror) for one in chain):
        return "dns", False
    if isinstance(exc, exceptions.ProxyError):
        return "proxy", False
    if isinstance(exc, exceptions.EmptyPoolError):
        return "busy", False
    if isinstance(exc, exceptions.NewConnectionError) or any(isinstance(one, ConnectionRefusedError) for one in chain):
        return "refused", False
    if isinstance(exc, (exceptions.TimeoutError, TimeoutError)):
        return "timeout", False
    return "lost", False


# What a server that goes away in the middle of a handshake leaves behind; every other SSLError is a verdict.
_TLS_CUTS = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)


def _chain(exc: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while exc is not None and id(exc) not in seen:
        seen.add(id(exc))
        yield exc
        yield from (arg for arg in exc.args if isinstance(arg, BaseException))
        exc = exc.__cause__ or exc.__context__
