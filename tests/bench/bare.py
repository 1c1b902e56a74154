"""What ours is measured against: a bare Job, and kubectl exec."""

from __future__ import annotations

import json
import secrets
import threading
import time
from pathlib import Path
from typing import Any

from kubefunc.backends.kubernetes import configured
from kubefunc.backends.kubernetes.api import Api
from kubefunc.backends.kubernetes.watcher import Watcher

IMAGE = "python:3.11-slim"


class BareJobs:
    """Jobs of one container without any volume, followed by one warm watch: the least that a Job can be."""

    def __init__(self, kubeconfig: Path) -> None:
        config = configured(None, {"KUBECONFIG": str(kubeconfig)})
        if config is None:
            raise RuntimeError(f"no cluster in {kubeconfig}")
        self.api = Api(config)
        self.namespace = config.namespace
        self._ended: dict[str, threading.Event] = {}
        self._times: dict[str, float] = {}
        path = f"/api/v1/namespaces/{self.namespace}/pods"
        self._watcher = Watcher(self.api, path, {"labelSelector": "bench=bare"}, self._on_pod)
        self._watcher.start()
        if not self._watcher.wait_synced(10):
            raise RuntimeError("the watch of bare Jobs does not start")

    def run(self) -> float:
        """Seconds from the POST of a Job to its Pod's ``terminated`` in the watch."""
        name = f"bare-{secrets.token_hex(4)}"
        self._ended[name] = threading.Event()
        begun = time.perf_counter()
        self.api.request("POST", f"/apis/batch/v1/namespaces/{self.namespace}/jobs", body=_job(name))
        if not self._ended[name].wait(60):
            raise RuntimeError(f"the bare Job {name} did not end within 60 s")
        taken = self._times[name] - begun
        self.api.request(
            "DELETE",
            f"/apis/batch/v1/namespaces/{self.namespace}/jobs/{name}",
            body={"propagationPolicy": "Background"},
        )
        return taken

    def _on_pod(self, kind: str, pod: dict[str, Any]) -> None:
        job = pod["metadata"].get("labels", {}).get("job-name", "")
        statuses = pod.get("status", {}).get("containerStatuses", [])
        if job in self._ended and any("terminated" in status["state"] for status in statuses):
            self._times.setdefault(job, time.perf_counter())
            self._ended[job].set()

    def close(self) -> None:
        """End the watch."""
        self._watcher.stop()


def _job(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {
            "backoffLimit": 0,
            "template": {
                "metadata": {"labels": {"bench": "bare"}},
                "spec": {
                    "restartPolicy": "Never",
                    "automountServiceAccountToken": False,
                    "enableServiceLinks": False,
                    "containers": [{"name": "main", "image": IMAGE, "command": ["true"]}],
                },
            },
        },
    }


def sleeper(name: str, script: str) -> dict[str, Any]:
    """A Pod that runs this shell script and stays."""
    container = {"name": "main", "image": IMAGE, "command": ["sh", "-c", f"{script}; sleep 3600"]}
    spec = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [container]}
    return json.loads(json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}))  # type: ignore[no-any-return]
