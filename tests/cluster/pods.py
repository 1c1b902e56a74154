"""Bare Pods, for tests of the cluster and as a measure beside kubefunc's own."""

from __future__ import annotations

from tests.cluster.images import python_image_name
from tests.cluster.kubectl import Kubectl

IMAGE = python_image_name("3.11")


def pod(name: str, program: str, image: str = IMAGE) -> dict[str, object]:
    """A Pod that runs a Python program once."""
    main = {"name": "main", "image": image, "command": ["python3", "-c", program]}
    spec = {"restartPolicy": "Never", "automountServiceAccountToken": False, "containers": [main]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def wait_for_phase(admin: Kubectl, name: str, phase: str) -> None:
    """Block until the Pod is in that phase."""
    admin.run("wait", f"pod/{name}", f"--for=jsonpath={{.status.phase}}={phase}", "--timeout=60s")
