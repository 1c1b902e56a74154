"""``python -m tests.bench.simulated PODS``: what it costs a client to follow so many Pods of one map.

A cluster of 1,000 Pods is not to be had for a test. Here a small API server, in a process of its own, answers the real
client, and tells of each Pod what a real cluster has told of one (``pod_events.jsonl``, with names, UIDs and the
result exchanged). Prints the seconds of CPU that the client used, from ``.map()`` to its last result.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import pickle
import queue
import resource
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubefunc
from kubefunc import remote
from kubefunc.runner import CHUNK, TERMINATION_ENVELOPE
from kubefunc.runner.protocol import records, wire
from tests.local.api_server import Peer, Request, Server

RECORDED = Path(__file__).with_name("pod_events.jsonl")
JOB_UID = "52d8b848-f1fd-4c2b-9aef-570a67103627"


class SimulatedCluster:
    """Takes one map's Secret and Job, and has its Pods run all at once; forbids exec."""

    def __init__(self) -> None:
        self._key = b""
        self._job: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def __call__(self, request: Request, peer: Peer) -> None:
        """Answer one request."""
        if dict(request.query).get("watch") == "true":
            return self._watch(request, peer)
        if request.path.endswith("/exec"):
            return peer.refuse(403, "Forbidden", "exec is not simulated")
        if request.method == "GET":
            return peer.json(
                200, {"kind": "List", "apiVersion": "v1", "items": [], "metadata": {"resourceVersion": "1"}}
            )
        return peer.json(201 if request.method == "POST" else 200, self._made(request))

    def _made(self, request: Request) -> dict[str, Any]:
        if request.method != "POST":
            return {"kind": "Status", "apiVersion": "v1", "status": "Success"}
        made: dict[str, Any] = request.json()
        if request.path.endswith("/selfsubjectrulesreviews"):
            every: dict[str, list[str]] = {"verbs": ["*"], "apiGroups": ["*"], "resources": ["jobs", "pods"]}
            return {**made, "status": {"incomplete": False, "resourceRules": [every]}}
        made["metadata"]["uid"] = JOB_UID
        if request.path.endswith("/secrets"):
            self._key = base64.b64decode(made["data"]["key"])
        elif request.path.endswith("/jobs"):
            self._job.put(made)
        return made

    def _watch(self, request: Request, peer: Peer) -> None:
        peer.start_chunks()
        while request.path.endswith("/pods"):
            for line in self._pods(self._job.get()):
                peer.chunk(line)
        peer.wait_gone()

    def _pods(self, job: dict[str, Any]) -> Iterator[bytes]:
        """Stage by stage, as the Pods of a cluster that starts them together."""
        name, count = job["metadata"]["name"], job["spec"]["completions"]
        session = job["metadata"]["labels"]["kubefunc/session"]
        version = 1
        for stage in RECORDED.read_text().splitlines(keepends=True):
            known = stage.replace("@JOB@", name).replace("@JOB-UID@", JOB_UID).replace("@SESSION@", session)
            for number in range(count):
                version += 1
                told = known.replace("@POD@", f"{name}-{number}-abcde").replace(
                    "@POD-UID@", f"{JOB_UID[:-6]}{number:06}"
                )
                told = told.replace("@INDEX@", str(number)).replace("@VERSION@", str(version))
                yield told.replace(
                    "@MESSAGE@", _message(self._key, name, number) if "@MESSAGE@" in told else ""
                ).encode()


def _message(key: bytes, call: str, number: int) -> str:
    """What a chunk of one trivial item leaves."""
    body = pickle.dumps(2 * number)
    block = records.seal_block(key, call, number, 0, records.pack_record(number, 1.0, 2.0, 1, b"", len(body)) + body)
    header = {"outcome": CHUNK, "call": call, "chunk": number, "blocks": 1, "complete": True, "printed": 0}
    data = zlib.compress(block + wire.tail(header, key))
    return TERMINATION_ENVELOPE + binascii.b2a_base64(data, newline=False).decode()


def serve() -> None:
    """The server, until its caller ends: it writes where it can be reached."""
    with Server(SimulatedCluster()) as server:
        print(server.url, flush=True)
        sys.stdin.read()


def follow(pods: int) -> float:
    """Seconds of CPU for a map with so many Pods; the client's first words with the server are not counted."""
    kubefunc.configure(backend="kubernetes", verbose=False, progress=False)
    doubled = remote(lambda n: 2 * n)
    doubled.map(range(1)).result(60)
    begun = _used()
    if doubled.map(range(pods), chunksize=1).result(120) != [2 * n for n in range(pods)]:
        raise RuntimeError("wrong results")
    return _used() - begun


def _used() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Server and client."""
    if sys.argv[1] == "serve":
        return serve()
    command = [sys.executable, "-m", "tests.bench.simulated", "serve"]
    with (
        tempfile.TemporaryDirectory() as directory,
        subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server,
    ):
        if server.stdout is None or server.stdin is None:
            raise RuntimeError("no pipes")
        cluster = {"name": "simulated", "cluster": {"server": server.stdout.readline().strip()}}
        context = {"name": "simulated", "context": {"cluster": "simulated", "namespace": "team"}}
        config = {"current-context": "simulated", "contexts": [context], "clusters": [cluster]}
        path = Path(directory, "kubeconfig")
        path.write_text(json.dumps(config))
        os.environ["KUBECONFIG"] = str(path)
        print(follow(int(sys.argv[1])))
        server.stdin.close()
    return None


if __name__ == "__main__":
    main()
