"""What ours is measured against: a bare Job, and kubectl exec."""

from __future__ import annotations

import json
import secrets
import threading
import time
from pathlib import Path
from typing import Any

from kubefunc.backends.kubernetes import configured
from kubefunc.backends.kubernetes.api.requests import Api
from kubefunc.backends.kubernetes.api.watcher import Watcher

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
        self._missing: dict[str, set[int]] = {}
        self._times: dict[str, float] = {}
        path = f"/api/v1/namespaces/{self.namespace}/pods"
        self._watcher = Watcher(self.api, path, {"labelSelector": "bench=bare"}, self._on_pod)
        self._watcher.start()
        if not self._watcher.wait_synced(10):
            raise RuntimeError("the watch of bare Jobs does not start")

    def run(self) -> float:
        """Seconds from the POST of a Job to its Pod's ``terminated`` in the watch."""
        return self._run(_job(f"bare-{secrets.token_hex(4)}"), 1)

    def run_many(self, pods: int, containers: int, secret: str | None) -> float:
        """The same of an Indexed Job: to the end of its last Pod. With a Secret: it is mounted as ours is."""
        return self._run(_indexed(f"bare-{secrets.token_hex(4)}", pods, containers, secret), pods)

    def _run(self, job: dict[str, Any], pods: int) -> float:
        name = job["metadata"]["name"]
        self._ended[name] = threading.Event()
        self._missing[name] = set(range(pods))
        begun = time.perf_counter()
        self.api.request("POST", f"/apis/batch/v1/namespaces/{self.namespace}/jobs", body=job)
        if not self._ended[name].wait(600):
            raise RuntimeError(f"the bare Job {name} did not end within 600 s")
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
        if job not in self._ended or not any("terminated" in status["state"] for status in statuses):
            return
        index = pod["metadata"].get("annotations", {}).get("batch.kubernetes.io/job-completion-index", "0")
        self._missing[job].discard(int(index))
        if not self._missing[job]:
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


def _indexed(name: str, pods: int, containers: int, secret: str | None) -> dict[str, Any]:
    """Pods whose containers start Python and end; their volumes are those of a map's Pods."""
    job = _job(name)
    job["spec"] |= {"completionMode": "Indexed", "completions": pods, "parallelism": pods}
    pod = job["spec"]["template"]["spec"]
    mounts = [] if secret is None else [{"name": "in", "mountPath": "/in"}, {"name": "out", "mountPath": "/out"}]
    pod["containers"] = [
        {"name": f"c{number}", "image": IMAGE, "command": ["python3", "-c", "pass"], "volumeMounts": mounts}
        for number in range(containers)
    ]
    if secret is not None:
        projected = {"sources": [{"secret": {"name": secret}}]}
        pod["volumes"] = [
            {"name": "in", "projected": projected},
            *({"name": n, "emptyDir": {}} for n in ("out", "tmp")),
        ]
        pod["containers"][0]["volumeMounts"] = [*mounts, {"name": "tmp", "mountPath": "/tmp"}]
    return job


def sleeper(name: str, script: str) -> dict[str, Any]:
    """A Pod that runs this shell script and stays."""
    container = {"name": "main", "image": IMAGE, "command": ["sh", "-c", f"{script}; sleep 3600"]}
    spec = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [container]}
    return json.loads(json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}))  # type: ignore[no-any-return]
