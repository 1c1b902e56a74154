"""The cluster's two binaries: ``node`` (control plane, kubelet, kube-proxy, etcd) and ``dns`` (CoreDNS)."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.cluster import needs
from tests.cluster.cache import cached

KUBERNETES_VERSION = "v1.34.4"
_HERE = Path(__file__).parent
_SOURCE_FILES = ("go.mod", "go.sum", "main.go")


def _link_flags() -> str:
    # Without these the API server calls itself v0.0.0-master and kubectl warns of version skew.
    major, minor, _ = KUBERNETES_VERSION.removeprefix("v").split(".")
    values = {"gitVersion": KUBERNETES_VERSION, "gitMajor": major, "gitMinor": minor}
    package = "k8s.io/component-base/version"
    return "-s -w " + " ".join(f"-X {package}.{key}={value}" for key, value in values.items())


def _built(name: str, link_flags: str) -> Path:
    """The binary of the Go module in the directory of that name, built on first use."""
    source = _HERE / name

    def build(directory: Path) -> None:
        needs.require_go()
        subprocess.run(
            ["go", "build", "-trimpath", "-ldflags", link_flags, "-o", str(directory / name), "."],
            cwd=source,
            env={**os.environ, "CGO_ENABLED": "0"},
            check=True,
        )

    made_from = [(source / file).read_bytes() for file in _SOURCE_FILES]
    return cached(name, [*made_from, link_flags.encode()], build) / name


def node_binary() -> Path:
    """The path of the node binary; its first build takes 7 minutes and 3 GB of Go's cache on two cores."""
    return _built("node", _link_flags())


def dns_binary() -> Path:
    """The path of CoreDNS. Not a part of ``node``, whose dependencies it would raise beyond what Kubernetes tests."""
    return _built("dns", "-s -w")
