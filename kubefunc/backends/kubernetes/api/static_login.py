"""Credentials that a kubeconfig holds as they are: a token, a client certificate.

They are read here, without `kubernetes`: its import takes longer than all else that a program does before its first
request. Everything that is not plain (plug-ins, proxies, several files, entries that are not known here or broken) is
left to `kubernetes`, and so is saying what is wrong with it.
"""

from __future__ import annotations

import base64
import binascii
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kubefunc.backends.kubernetes.api.kubeconfig import IN_CLUSTER, ClusterConfig, entries_of

_CLUSTER_KEYS = frozenset(
    "server certificate-authority certificate-authority-data insecure-skip-tls-verify extensions".split()
)
_USER_KEYS = frozenset("token client-certificate client-certificate-data client-key client-key-data extensions".split())
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")


@dataclass(frozen=True)
class StaticLogin:
    """What of a `kubernetes` Configuration is used, with the same names.

    Attributes:
        token: in an Authorization header; or none.
        ssl_ca_cert, cert_file, key_file: paths.
    """

    host: str
    verify_ssl: bool = True
    ssl_ca_cert: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    token: str | None = field(default=None, repr=False)
    tls_server_name: None = None
    proxy: None = None

    def auth_settings(self) -> dict[str, dict[str, str]]:
        """The headers that say who asks."""
        if self.token is None:
            return {}
        return {"BearerToken": {"key": "authorization", "value": f"Bearer {self.token}"}}


def static_login(config: ClusterConfig, folder: str, environ: Mapping[str, str]) -> StaticLogin | None:
    """The credentials of a kubeconfig where they are plain, else None.

    Args:
        config: from ``find_config``.
        folder: where certificates are written that stand in the kubeconfig.
        environ: the environment, which may name a proxy.
    """
    if config.source == IN_CLUSTER or len(config.files) != 1 or _has_proxy(environ):
        return None
    cluster, user = entries_of(config)
    is_plain = _CLUSTER_KEYS.issuperset(cluster) and _USER_KEYS.issuperset(user) and _are_texts(cluster, user)
    is_login = "token" in user or ("client-certificate" in _named(user) and "client-key" in _named(user))
    if not is_plain or not is_login:
        return None
    login = StaticLogin(config.host, token=user.get("token"))
    return login if config.host.startswith("http://") else _with_certificates(login, cluster, user, config, folder)


def _with_certificates(
    login: StaticLogin, cluster: Mapping[str, Any], user: Mapping[str, Any], config: ClusterConfig, folder: str
) -> StaticLogin | None:
    base = os.path.dirname(os.path.abspath(config.source))
    try:
        return StaticLogin(
            host=login.host,
            verify_ssl=not cluster.get("insecure-skip-tls-verify", False),
            ssl_ca_cert=_file(cluster, "certificate-authority", base, folder),
            cert_file=_file(user, "client-certificate", base, folder),
            key_file=_file(user, "client-key", base, folder),
            token=login.token,
        )
    except (OSError, binascii.Error, ValueError):  # `kubernetes` says what is wrong
        return None


def _has_proxy(environ: Mapping[str, str]) -> bool:
    if any(environ.get(name) or environ.get(name.upper()) for name in _PROXIES):
        return True
    if sys.platform not in ("darwin", "win32"):
        return False
    from urllib.request import getproxies  # the system's settings

    return bool(getproxies())


def _are_texts(cluster: Mapping[str, Any], user: Mapping[str, Any]) -> bool:
    """Whether every value has the type that it should have; empty ones are left to `kubernetes`."""
    values = [value for name, value in (*cluster.items(), *user.items()) if name not in _NO_TEXTS]
    insecure = cluster.get("insecure-skip-tls-verify", False)
    return all(isinstance(value, str) and value for value in values) and isinstance(insecure, bool)


_NO_TEXTS = ("extensions", "insecure-skip-tls-verify")


def _named(user: Mapping[str, Any]) -> set[str]:
    return {name.removesuffix("-data") for name in user}


def _file(entry: Mapping[str, Any], name: str, base: str, folder: str) -> str | None:
    """The path of what an entry has as data, or as a file, in this order. Raises OSError or ValueError."""
    data = entry.get(f"{name}-data")
    if data is not None:
        path = os.path.join(folder, name)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(base64.b64decode(data))
        return path
    if name not in entry:
        return None
    path = os.path.normpath(os.path.join(base, entry[name]))
    os.stat(path)
    return path
