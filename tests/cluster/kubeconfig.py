"""Kubeconfig files, written as JSON (which is YAML)."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Server:
    """An API server: its URL and the certificates (PEM) that sign for it, none where the system's do."""

    url: str
    authority: bytes | None

    def entry(self) -> dict[str, str]:
        """Its part of a kubeconfig."""
        if self.authority is None:
            return {"server": self.url}
        return {"server": self.url, "certificate-authority-data": base64.b64encode(self.authority).decode()}


def server_of(entry: Mapping[str, str]) -> Server:
    """The server that a kubeconfig's cluster entry (flattened: certificates inside) names."""
    authority = entry.get("certificate-authority-data")
    return Server(entry["server"], base64.b64decode(authority) if authority else None)


def write_kubeconfig(path: Path, server: Server, token: str, namespace: str = "default") -> Path:
    """Write a kubeconfig with one context of that namespace for the bearer of the token."""
    context = {"cluster": "test", "user": "user", "namespace": namespace}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": server.entry()}],
        "users": [{"name": "user", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": context}],
        "current-context": "test",
    }
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
        json.dump(content, stream, indent=1)
    return path
