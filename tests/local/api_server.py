"""The small API server of :mod:`kubefunc.testing`, for tests that answer its requests themselves."""

from __future__ import annotations

import json
import ssl
from pathlib import Path

from kubefunc.backends.kubernetes.api.kubeconfig import ClusterConfig, find_config
from kubefunc.testing.api_server import (
    Gone,
    Handler,
    Peer,
    Request,
    Server,
    frame,
    upgrade_answer,
    write_kubeconfig,
)

__all__ = [
    "Gone",
    "Handler",
    "Peer",
    "Request",
    "Server",
    "config_of",
    "frame",
    "tls",
    "upgrade_answer",
    "write_kubeconfig",
]


def tls(certificate: Path) -> ssl.SSLContext:
    """The server's side."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def config_of(url: str, folder: Path, authority: Path | None = None, **user: str) -> ClusterConfig:
    """What a kubeconfig in this folder says that leads to a server, with this user's credentials."""
    path = folder / "kubeconfig"
    write_kubeconfig(path, url, user)
    if authority is not None:
        content = json.loads(path.read_text())
        content["clusters"][0]["cluster"]["certificate-authority"] = str(authority)
        path.write_text(json.dumps(content))
    config = find_config(None, {"KUBECONFIG": str(path)})
    assert config is not None
    return config
