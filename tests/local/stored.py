"""A namespace with Jobs of several programs, as a real HTTP server: what the command line reads and deletes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.local.api_server import Peer, Request

JsonDict = dict[str, Any]
RUNS, FAILED, WAITS, MAP = (
    f"{name}-{letter * 16}" for name, letter in (("train", "a"), ("load", "b"), ("wait", "c"), ("score", "d"))
)


def job(call: str, *conditions: str, created: str = "2026-11-27T10:00:00Z", **spec: Any) -> JsonDict:
    """A Job of ours. Each condition is a type, such as ``Failed``."""
    labels = {"app.kubernetes.io/managed-by": "kubefunc", "kubefunc/call": call}
    return {
        "metadata": {
            "name": call,
            "namespace": "team",
            "uid": f"uid-{call}",
            "creationTimestamp": created,
            "labels": labels,
            "annotations": {
                "kubefunc/function": call.rpartition("-")[0],
                "kubefunc/items": str(spec.get("completions", 1)),
            },
        },
        "spec": spec,
        "status": {
            "conditions": [
                {"type": each, "status": "True", "reason": "Test", "lastTransitionTime": "2026-11-27T10:09:00Z"}
                for each in conditions
            ]
        },
    }


def pod(call: str, main: JsonDict | None, *, index: int | None = None, node: str | None = "node-1") -> JsonDict:
    """A Pod of that Job, whose container ``main`` is in this state."""
    owner = {"kind": "Job", "name": call, "uid": f"uid-{call}", "controller": True}
    labels = {
        "app.kubernetes.io/managed-by": "kubefunc",
        "kubefunc/call": call,
        "batch.kubernetes.io/controller-uid": f"uid-{call}",
    }
    if index is not None:
        labels["batch.kubernetes.io/job-completion-index"] = str(index)
    name = call if index is None else f"{call}-{index}"
    return {
        "metadata": {
            "name": f"{name}-x1y2z",
            "namespace": "team",
            "uid": f"pod-{name}",
            "labels": labels,
            "ownerReferences": [owner],
        },
        "spec": {"containers": [{"name": "main", "image": "python"}], **({"nodeName": node} if node else {})},
        "status": {"phase": "Pending", "containerStatuses": [{"name": "main", "state": main}] if main else []},
    }


RUNNING: JsonDict = {"running": {"startedAt": "2026-11-27T10:00:02Z"}}


def ended(exit_code: int) -> JsonDict:
    """A container that has ended."""
    times = {"startedAt": "2026-11-27T10:00:02Z", "finishedAt": "2026-11-27T10:00:05Z"}
    return {"terminated": {"exitCode": exit_code, "reason": "Error", "message": "kubefunc:envelope:", **times}}


@dataclass
class StoredCalls:
    """The handler of a :class:`tests.local.api_server.Server`. ``logs``: what each Pod has printed, by its name."""

    jobs: list[JsonDict]
    pods: list[JsonDict]
    logs: dict[str, bytes] = field(default_factory=dict[str, bytes])
    deleted: list[str] = field(default_factory=list[str])

    def __call__(self, request: Request, peer: Peer) -> None:
        """Answer one request."""
        kind, _, name = request.path.partition("/namespaces/team/")[2].partition("/")
        kind = kind or request.path.rpartition("/")[2]
        if request.method == "DELETE":
            self.deleted.append(f"{kind}/{name}")
            peer.json(200, {"kind": "Status", "status": "Success"})
        elif name.endswith("/log"):
            self._log(name.removesuffix("/log"), peer)
        elif kind in ("jobs", "pods", "events"):
            peer.json(200, _list(request, getattr(self, kind, [])))
        else:
            peer.refuse(404, "NotFound", "the server could not find the requested resource")

    def _log(self, pod: str, peer: Peer) -> None:
        if pod not in self.logs:
            peer.refuse(400, "BadRequest", f'container "main" in pod "{pod}" is waiting to start')
            return
        data = self.logs[pod]
        head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(data)}\r\n\r\n"
        peer.send(head.encode() + data)


def _list(request: Request, objects: Sequence[JsonDict]) -> JsonDict:
    """Those with the labels that are asked for, one a page."""
    query = dict(request.query)
    wanted = dict(pair.split("=") for pair in query.get("labelSelector", "").split(",") if pair)
    found = [each for each in objects if wanted.items() <= each["metadata"]["labels"].items()]
    at = int(query.get("continue", "0"))
    more = {"continue": str(at + 1)} if at + 1 < len(found) else {}
    return {"metadata": {"resourceVersion": "7", **more}, "items": found[at : at + 1]}


def four_calls() -> StoredCalls:
    """One that runs, one that raised, one that waits for a node, and a map of which one item has failed."""
    waiting = pod(WAITS, None, node=None)
    waiting["status"]["conditions"] = [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1: Insufficient cpu."}
    ]
    score = job(MAP, completionMode="Indexed", completions=3, created="2026-11-27T10:00:03Z")
    return StoredCalls(
        jobs=[
            job(RUNS),
            job(FAILED, "Failed", created="2026-11-27T10:00:01Z"),
            job(WAITS, created="2026-11-27T10:00:02Z"),
            score,
        ],
        pods=[
            pod(RUNS, RUNNING),
            pod(FAILED, ended(64)),
            waiting,
            *(pod(MAP, state, index=index) for index, state in enumerate((ended(0), ended(64), RUNNING))),
        ],
        logs={
            f"{RUNS}-x1y2z": b"epoch 1\nepoch 2\n",
            f"{FAILED}-x1y2z": b"\x1b[31mred\x1b[0m \x1b]0;title\x07\n",
            f"{MAP}-0-x1y2z": b"item 0\n",
            f"{MAP}-2-x1y2z": b"item 2\nitem 2 again\n",
        },
    )


def write_kubeconfig(path: Path, url: str) -> None:
    """A kubeconfig whose context names the namespace ``team`` of this server."""
    content = {
        "current-context": "dev",
        "contexts": [{"name": "dev", "context": {"cluster": "c", "user": "u", "namespace": "team"}}],
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
    }
    path.write_text(json.dumps(content))
