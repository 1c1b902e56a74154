"""The node binary: control plane, kubelet and etcd in one, built from ``node/``."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.cluster import needs
from tests.cluster.cache import cached

KUBERNETES_VERSION = "v1.34.4"
_SOURCE = Path(__file__).parent / "node"
_SOURCE_FILES = ("go.mod", "go.sum", "main.go")


def _link_flags() -> str:
    # Without these the API server calls itself v0.0.0-master and kubectl warns of version skew.
    major, minor, _ = KUBERNETES_VERSION.removeprefix("v").split(".")
    values = {"gitVersion": KUBERNETES_VERSION, "gitMajor": major, "gitMinor": minor}
    package = "k8s.io/component-base/version"
    return "-s -w " + " ".join(f"-X {package}.{key}={value}" for key, value in values.items())


def _build(directory: Path) -> None:
    needs.require_go()
    subprocess.run(
        ["go", "build", "-trimpath", "-ldflags", _link_flags(), "-o", str(directory / "node"), "."],
        cwd=_SOURCE,
        env={**os.environ, "CGO_ENABLED": "0"},
        check=True,
    )


def node_binary() -> Path:
    """The path of the node binary; built on first use (7 minutes and 3 GB of Go's cache on two cores)."""
    made_from = [(_SOURCE / name).read_bytes() for name in _SOURCE_FILES]
    return cached("node", [*made_from, _link_flags().encode()], _build) / "node"
