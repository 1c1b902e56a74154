"""The small API server of :mod:`kubefunc.testing`, for tests that answer its requests themselves."""

from __future__ import annotations

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
    "upgrade_answer",
    "write_kubeconfig",
]


def config_of(url: str, folder: Path, **user: str) -> ClusterConfig:
    """What a kubeconfig in this folder says that leads to a server, with this user's credentials."""
    path = folder / "kubeconfig"
    write_kubeconfig(path, url, user)
    config = find_config(None, {"KUBECONFIG": str(path)})
    assert config is not None
    return config
