"""The Job controller and the kubelet of the small cluster: Pods of Jobs, run one after another or at once."""

from __future__ import annotations

import contextlib
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

from kubefunc.testing.pod import INDEX, PodProcesses
from kubefunc.testing.store import Json, Store, now

JOBS, PODS, SECRETS = "jobs", "pods", "secrets"
ENDED = ("Succeeded", "Failed")
NODE = "this-machine"
GRACE = 5.0  # seconds from SIGTERM to SIGKILL: a test shall not wait as long as a node does
CONTROLLER = "batch.kubernetes.io/controller-uid"


class JobController:
    """Runs the Pods of the Jobs in a store. A Pod that is deleted while it runs is replaced; one that fails is not."""

    def __init__(self, store: Store, directory: Path) -> None:
        self._store = store
        self._directory = directory
        self._lock = threading.RLock()
        self._processes: dict[str, PodProcesses] = {}
        self._begun: dict[str, set[int]] = {}  # by the Job's UID, the indexes that have had a Pod
        self._threads: list[threading.Thread] = []
        self._number = 0
        self._is_closed = False

    def processes(self, pod: str) -> PodProcesses | None:
        """Of the Pod of this name, also after its end."""
        return self._processes.get(pod)

    def reconcile(self, name: str) -> None:
        """Start the Pods that a Job may have and has not, and write down how far it is."""
        with self._lock:
            job = self._store.get(JOBS, name)
            if job is None or self._is_closed or job["spec"].get("suspend"):
                return
            pods = self._pods_of(job)
            running = [each for each in pods if each["status"]["phase"] not in ENDED]
            spec = job["spec"]
            begun = self._begun.setdefault(job["metadata"]["uid"], set())
            waiting = [index for index in range(spec.get("completions") or 1) if index not in begun]
            failed = any(each["status"]["phase"] == "Failed" for each in pods) and "backoffLimitPerIndex" not in spec
            if not failed:
                for index in waiting[: max(0, spec.get("parallelism", 1) - len(running))]:
                    begun.add(index)
                    self._start(job, index)
            self._report(job, self._pods_of(job))

    def delete(self, name: str) -> Json | None:
        """Delete a Job with its Pods and all that it owns."""
        with self._lock:
            job = self._store.remove(JOBS, name)
            if job is None:
                return None
            for pod in self._pods_of(job):
                self.delete_pod(pod["metadata"]["name"])
            for secret in self._store.items(SECRETS)[0]:
                owners = secret["metadata"].get("ownerReferences", ())
                if job["metadata"]["uid"] in [each["uid"] for each in owners]:
                    self._store.remove(SECRETS, secret["metadata"]["name"])
            return job

    def delete_pod(self, name: str) -> Json | None:
        """Delete a Pod: its processes get SIGTERM, then SIGKILL. Its Job makes another one, if it still needs one."""
        with self._lock:
            pod = self._store.change(PODS, name, {"metadata": {"deletionTimestamp": now()}})
            if pod is None:
                return None
            self._store.remove(PODS, name)
            self._end(self._processes[name])
            job = self._store.get(JOBS, pod["metadata"]["labels"]["job-name"])
            if job is not None and pod["status"]["phase"] not in ENDED:
                self._begun[job["metadata"]["uid"]].discard(int(pod["metadata"]["labels"].get(INDEX, 0)))
                self.reconcile(job["metadata"]["name"])
            return pod

    def _end(self, processes: PodProcesses) -> None:
        processes.end()
        timer = threading.Timer(GRACE, processes.end, (signal.SIGKILL,))
        timer.daemon = True
        timer.start()

    def close(self) -> None:
        """Kill everything, and return when it is gone."""
        with self._lock:
            self._is_closed = True
            for processes in self._processes.values():
                processes.end(signal.SIGKILL)
        for thread in self._threads:
            thread.join(GRACE)

    def _pods_of(self, job: Json) -> list[Json]:
        return self._store.items(PODS, f"{CONTROLLER}={job['metadata']['uid']}")[0]

    def _start(self, job: Json, index: int) -> None:
        pod = self._store.add(PODS, self._pod(job, index))
        if pod is None:
            return
        name = pod["metadata"]["name"]
        directory = self._directory / name
        directory.mkdir()
        processes = PodProcesses(pod, lambda secret: self._store.get(SECRETS, secret), directory)
        self._processes[name] = processes

        def run() -> None:
            processes.run(lambda: self._changed(name, processes))
            with contextlib.suppress(OSError):
                shutil.rmtree(directory / "volumes")
            self.reconcile(job["metadata"]["name"])

        thread = threading.Thread(target=run, name="kubefunc-testing", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _changed(self, name: str, processes: PodProcesses) -> None:
        self._store.change(PODS, name, {"status": processes.status()})

    def _pod(self, job: Json, index: int) -> Json:
        template, metadata = job["spec"]["template"], job["metadata"]
        self._number += 1
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": metadata["name"], "uid": metadata["uid"]}
        labels = {**template["metadata"].get("labels", {}), CONTROLLER: metadata["uid"]}
        labels |= {"batch.kubernetes.io/job-name": metadata["name"], "job-name": metadata["name"]}
        annotations = dict(template["metadata"].get("annotations", {}))
        middle = ""
        if job["spec"].get("completionMode") == "Indexed":
            labels[INDEX] = annotations[INDEX] = str(index)
            middle = f"{index}-"
        about: dict[str, Any] = {
            "name": f"{metadata['name']}-{middle}{self._number:05d}",
            "namespace": metadata["namespace"],
            "labels": labels,
            "annotations": annotations,
            "ownerReferences": [{**owner, "controller": True, "blockOwnerDeletion": True}],
        }
        spec = {**template["spec"], "nodeName": NODE}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": about, "spec": spec, "status": {"phase": "Pending"}}

    def _report(self, job: Json, pods: list[Json]) -> None:
        phases = [each["status"]["phase"] for each in pods]
        counts = {"succeeded": phases.count("Succeeded"), "failed": phases.count("Failed")}
        status: dict[str, Any] = {**counts, "active": len(phases) - sum(counts.values())}
        per_index = "backoffLimitPerIndex" in job["spec"]
        completions = job["spec"].get("completions") or 1
        if counts["succeeded"] == completions:
            status["conditions"] = [{"type": "Complete", "status": "True"}]
        elif counts["failed"] and (not per_index or sum(counts.values()) == completions):
            reason = "FailedIndexes" if per_index else "BackoffLimitExceeded"
            status["conditions"] = [
                {"type": "Failed", "status": "True", "reason": reason, "message": "a Pod of the Job has failed"}
            ]
        if status != {key: job.get("status", {}).get(key) for key in status}:
            self._store.change(JOBS, job["metadata"]["name"], {"status": status})
