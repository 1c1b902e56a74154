"""A thin hand on kubectl: arguments in, parsed JSON out."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.cache import cache_root


class KubectlError(RuntimeError):
    """kubectl said no; the message is the command and its words."""


@dataclass(frozen=True)
class Kubectl:
    """kubectl with one kubeconfig and one namespace.

    Objects are plain dicts, as the API server sends them.
    """

    kubeconfig: Path
    namespace: str = "default"

    def run(self, *arguments: str, stdin: str = "", timeout: float = 60) -> str:
        """Run kubectl; return its output. Raises KubectlError with its words when it fails."""
        whose = ["--kubeconfig", str(self.kubeconfig), "--namespace", self.namespace]
        done = subprocess.run(
            ["kubectl", *whose, *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
            input=stdin,
            # The cache of discovery would else be left in the home directory.
            env={**os.environ, "KUBECACHEDIR": str(cache_root() / "kubectl")},
        )
        if done.returncode:
            raise KubectlError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def get(self, *arguments: str) -> Any:
        """``get("pods", "-l", "app=x")`` is the list of objects; ``get("pod", "name")`` the one object."""
        answer = json.loads(self.run("get", "-o", "json", *arguments))
        return answer.get("items", answer)

    def apply(self, manifest: object) -> None:
        """Create or change the object of a manifest (a dict)."""
        self.run("apply", "-f", "-", stdin=json.dumps(manifest))

    def delete(self, *arguments: str) -> None:
        """Delete and wait until it is gone; what is not there is fine."""
        self.run("delete", "--ignore-not-found", *arguments)
