"""A small cluster for tests: a real HTTP server with list, watch, logs and exec, whose Pods are local processes."""

from __future__ import annotations

import contextlib
import re
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from kubefunc.testing.api_server import Gone, Peer, Request, Server, write_kubeconfig
from kubefunc.testing.jobs import JOBS, PODS, SECRETS, JobController
from kubefunc.testing.pod import Container, PodProcesses, read_all
from kubefunc.testing.store import Json, Store

if TYPE_CHECKING:
    from typing_extensions import Self

NAMESPACE = "default"
STDIN, STDOUT, STDERR, CLOSED = 0, 1, 2, 255  # channels of exec
BINARY, CLOSE = 2, 8  # opcodes of websocket frames
OK, CREATED, NOT_FOUND, CONFLICT = 200, 201, 404, 409
_PATH = re.compile(
    r"/(?:api/v1|apis/[^/]+/[^/]+)/namespaces/(?P<namespace>[^/]+)/(?P<resource>[^/]+)(?:/(?P<name>[^/]+))?"
    r"(?:/(?P<sub>[^/]+))?"
)


class SmallCluster:
    """The cluster that :func:`kubefunc.testing.cluster` starts.

    Attributes:
        created: the Jobs that were created, in order, as they were sent.
    """

    def __init__(self) -> None:
        self.created: list[Json] = []
        self._directory = tempfile.TemporaryDirectory(prefix="kubefunc-testing-", ignore_cleanup_errors=True)
        self._store = Store()
        self._jobs = JobController(self._store, Path(self._directory.name))
        self._server = Server(self._answer)

    @property
    def jobs(self) -> list[Json]:
        """The Jobs that are there now."""
        return self._store.items(JOBS)[0]

    @property
    def pods(self) -> list[Json]:
        """The Pods that are there now."""
        return self._store.items(PODS)[0]

    @property
    def secrets(self) -> list[Json]:
        """The Secrets that are there now."""
        return self._store.items(SECRETS)[0]

    def delete_pod(self, name: str) -> None:
        """Delete a Pod, as the drain of a node does. Its Job makes another one."""
        self._jobs.delete_pod(name)

    @property
    def kubeconfig(self) -> Path:
        """A file that leads to this cluster."""
        path = Path(self._directory.name, "kubeconfig")
        write_kubeconfig(path, self._server.url, {})
        return path

    def __enter__(self) -> Self:
        self._server.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._jobs.close()
        self._store.close()
        try:
            self._server.__exit__(kind, exc, trace)
        finally:
            self._directory.cleanup()

    # -- answers

    def _answer(self, request: Request, peer: Peer) -> None:
        if request.path.endswith("/selfsubjectrulesreviews"):
            every = {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}
            status = {"incomplete": False, "resourceRules": [every], "nonResourceRules": []}
            return peer.json(CREATED, {**request.json(), "status": status})
        if request.path == "/version":
            return peer.json(OK, {"major": "1", "minor": "34", "gitVersion": "v1.34.0"})
        at = _PATH.fullmatch(request.path)
        if at is None:
            return _not_found(peer, request.path)
        if at["sub"] in ("log", "exec"):
            return self._stream(request, peer, at["name"], at["sub"])
        if at["name"] is None:
            return self._answer_for_all(request, peer, at["namespace"], at["resource"])
        return self._answer_for_one(request, peer, at["resource"], at["name"])

    def _answer_for_all(self, request: Request, peer: Peer, namespace: str, resource: str) -> None:
        query = dict(request.query)
        selector = query.get("labelSelector", "")
        if request.method == "POST":
            return self._create(request.json(), peer, namespace, resource)
        if query.get("watch") == "true":
            peer.start_chunks()
            for event, obj in self._store.watch(resource, selector, int(query.get("resourceVersion") or 0)):
                peer.event(event, obj)
            return peer.cut()
        items, version = self._store.items(resource, selector)
        return peer.json(
            OK, {"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": str(version)}, "items": items}
        )

    def _create(self, obj: Json, peer: Peer, namespace: str, resource: str) -> None:
        obj = {**obj, "metadata": {**obj["metadata"], "namespace": namespace}}
        made = self._store.add(resource, obj)
        if made is None:
            name = obj["metadata"]["name"]
            return peer.refuse(CONFLICT, "AlreadyExists", f'{resource} "{name}" already exists')
        peer.json(CREATED, made)
        if resource == JOBS:
            self.created.append(obj)
            self._jobs.reconcile(made["metadata"]["name"])
        return None

    def _answer_for_one(self, request: Request, peer: Peer, resource: str, name: str) -> None:
        found = self._change(request, resource, name)
        if found is None:
            return _not_found(peer, f'{resource} "{name}"')
        if request.method == "DELETE":
            found = {"kind": "Status", "apiVersion": "v1", "status": "Success"}
        return peer.json(OK, found)

    def _change(self, request: Request, resource: str, name: str) -> Json | None:
        """The object after what the request asks for, or before its end."""
        if request.method == "GET":
            return self._store.get(resource, name)
        if request.method == "DELETE":
            ends = {JOBS: self._jobs.delete, PODS: self._jobs.delete_pod}
            return ends[resource](name) if resource in ends else self._store.remove(resource, name)
        changed = self._store.change(resource, name, request.json())
        if resource == JOBS:
            self._jobs.reconcile(name)
        return changed

    # -- containers

    def _stream(self, request: Request, peer: Peer, pod: str, kind: str) -> None:
        query = dict(request.query)
        processes = self._jobs.processes(pod)
        container = None if processes is None else processes.containers.get(query.get("container", ""))
        if processes is None or container is None or self._store.get(PODS, pod) is None:
            return _not_found(peer, f'pods "{pod}"')
        if kind == "log":
            return _send_log(peer, container, follows=query.get("follow") == "true")
        return _execute(request, peer, processes, container)


def _not_found(peer: Peer, what: str) -> None:
    peer.refuse(NOT_FOUND, "NotFound", f"{what} not found")


def _send_log(peer: Peer, container: Container, *, follows: bool) -> None:
    peer.start_chunks()
    for data in container.log(follows=follows):
        peer.chunk(data)
    peer.chunk(b"")


def _execute(request: Request, peer: Peer, processes: PodProcesses, container: Container) -> None:
    """Run a command in a container, with its streams on channels of a websocket."""
    command = processes.command(container.name, [value for key, value in request.query if key == "command"])
    peer.upgrade(request)
    with container.execute(command) as process:
        readers = [
            threading.Thread(target=read_all, args=(stream, _sender(peer, channel)), daemon=True)
            for channel, stream in ((STDOUT, process.stdout), (STDERR, process.stderr))
        ]
        for thread in readers:
            thread.start()
        threading.Thread(target=_feed, args=(peer, process.stdin), daemon=True).start()
        for thread in readers:
            thread.join()
        code = process.wait()
    if code == 0:
        return peer.status(status="Success")
    cause = {"reason": "ExitCode", "message": str(code)}
    return peer.status(status="Failure", reason="NonZeroExitCode", details={"causes": [cause]})


def _sender(peer: Peer, channel: int) -> Any:
    def send(data: bytes) -> None:
        with contextlib.suppress(Gone):  # a client that has left reads no more; the command hears that by its stdin
            peer.data(channel, data)

    return send


def _feed(peer: Peer, stdin: Any) -> None:
    """What the client sends, to the process; the end of the one is that of the other."""
    with contextlib.suppress(Gone, OSError, ValueError):
        while True:
            opcode, payload = peer.receive()
            if opcode == CLOSE or payload[:2] == bytes([CLOSED, STDIN]):
                break
            if opcode == BINARY and payload[:1] == bytes([STDIN]):
                stdin.write(payload[1:])
    with contextlib.suppress(OSError):
        stdin.close()
