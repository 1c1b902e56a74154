"""Requests, watches and exec streams on a real API server, where its own ways of saying things count."""

from __future__ import annotations

import hashlib
import json
import queue
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kubefunc.backends.kubernetes.api.exec import run
from kubefunc.backends.kubernetes.api.exec_errors import (
    ExecFailed,
    ExecRefused,
    ExecUnavailable,
    StreamClosed,
    TransportError,
)
from kubefunc.backends.kubernetes.api.requests import Api, ApiError, JsonDict, as_error, find_config
from kubefunc.backends.kubernetes.api.transfer import Outcome, ResultBuffer, ResultStream, upload
from kubefunc.backends.kubernetes.api.watcher import TailWatcher, Watcher, WatchState
from kubefunc.errors import AdmissionError, ConfigurationError, KubefuncError, PermissionDeniedError
from tests.cluster.cluster import Cluster
from tests.cluster.pods import pod, wait_for_phase
from tests.cluster.spaces import Space

SIZE = 30_000_001
BIG = "/tmp/big"
MAKE_BIG = f"import os, time; open('{BIG}.new', 'wb').write(os.urandom({SIZE})); os.rename('{BIG}.new', '{BIG}')"
READER = f"""
import os, struct, sys, time
while not os.path.exists('{BIG}'):
    os.write(1, b'.'); time.sleep(0.2)
file = open('{BIG}', 'rb')
offset = file.seek(int(sys.argv[1]))
os.write(1, b'R' + struct.pack('!QQ', {SIZE}, offset))
limit = int(sys.argv[2])
while block := file.read(min(1 << 20, limit)):
    view, limit = memoryview(block), limit - len(block)
    while view:
        view = view[os.write(1, view):]
    if not limit:
        break
os.read(0, 1) == b'A' and open('/tmp/ack', 'w').close()
"""
TAKE = """
import os, struct
(left,) = struct.unpack('!Q', os.read(0, 8))
with open('/tmp/taken', 'wb') as file:
    while left:
        block = os.read(0, min(left, 1 << 20))
        left -= len(block)
        file.write(block)
os.write(1, b'K')
"""


@pytest.fixture
def api(kube: Space) -> Iterator[Api]:
    """A client with exactly our Role."""
    client = api_of(kube.kubeconfig)
    yield client
    client.close()


def api_of(kubeconfig: Path) -> Api:
    """A client for a kubeconfig."""
    config = find_config(None, {"KUBECONFIG": str(kubeconfig)})
    assert config is not None
    return Api(config)


def start(kube: Space, program: str = "import time; time.sleep(600)") -> str:
    """A running Pod."""
    kube.admin.apply(pod("pod-1", program))
    wait_for_phase(kube.admin, "pod-1", "Running")
    return "pod-1"


def python(program: str, *arguments: str) -> list[str]:
    """A command."""
    return ["python3", "-I", "-S", "-E", "-c", program, *arguments]


def test_a_large_result_comes_whole_and_resumes_after_a_cut(kube: Space, api: Api) -> None:
    """30 MB through the kubelet: the first reader dies halfway, the second sends the rest, the ACK arrives."""
    name = start(kube, f"{MAKE_BIG}; time.sleep(600)")
    buffer = ResultBuffer()
    half = ResultStream(api, kube.namespace, name, python(READER, "0", str(SIZE // 2)), "main")
    threading.Timer(5.0, half.close).start()  # the reader waits for an ACK that does not come
    with half, pytest.raises(TransportError):
        half.receive(buffer)
    assert buffer.received == SIZE // 2
    rest = ResultStream(api, kube.namespace, name, python(READER, str(buffer.received), str(SIZE)), "main")
    with rest:
        assert rest.receive(buffer) is Outcome.RESULT
        rest.ack()
    run(api, kube.namespace, name, ["test", "-e", "/tmp/ack"], container="main")
    words = run(api, kube.namespace, name, ["sha256sum", BIG], container="main")
    assert words.split()[0].decode() == hashlib.sha256(buffer.data).hexdigest()


def test_a_large_upload_arrives_whole(kube: Space, api: Api) -> None:
    """20 MB on stdin, acknowledged only when all of it is there."""
    name = start(kube)
    data = bytes(range(256)) * 80_000
    upload(api, kube.namespace, name, python(TAKE), data, container="main")
    words = run(api, kube.namespace, name, ["sha256sum", "/tmp/taken"], container="main")
    assert words.split()[0].decode() == hashlib.sha256(data).hexdigest()


def test_many_small_commands_lose_nothing(kube: Space, api: Api) -> None:
    """Output and exit status race on different channels; 40 commands in 8 threads lose no byte of it."""
    name = start(kube)
    wrong: list[bytes] = []

    def some() -> None:
        for _ in range(5):
            out = run(api, kube.namespace, name, ["sh", "-c", "seq 1 2000"], container="main")
            if out.split() != [str(number).encode() for number in range(1, 2001)]:
                wrong.append(out)

    threads = [threading.Thread(target=some) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_what_an_exec_that_fails_says(kube: Space, api: Api) -> None:
    """No Pod, no container, no program, an exit code, no permission: told apart."""
    name = start(kube)
    with pytest.raises(ExecUnavailable, match="not found"):
        run(api, kube.namespace, "nobody", ["true"], container="main")
    with pytest.raises(ExecUnavailable, match="courier"):
        run(api, kube.namespace, name, ["true"])
    with pytest.raises(ExecUnavailable, match="no-such-program"):
        run(api, kube.namespace, name, ["no-such-program"], container="main")
    with pytest.raises(ExecFailed) as failed:
        run(api, kube.namespace, name, ["sh", "-c", "echo no >&2; exit 7"], container="main")
    assert (failed.value.exit_code, failed.value.stderr) == (7, b"no\n")
    with pytest.raises(ExecRefused, match="pods/exec"):
        run(api_of(kube.without("pods/exec")), kube.namespace, name, ["true"], container="main")


def test_a_container_that_has_ended(kube: Space, api: Api) -> None:
    """Exec needs a running container: afterwards it is unavailable, not a hang."""
    kube.admin.apply(pod("pod-1", "pass"))
    wait_for_phase(kube.admin, "pod-1", "Succeeded")
    with pytest.raises(ExecUnavailable):
        run(api, kube.namespace, "pod-1", ["true"], container="main")


def test_a_pod_that_is_deleted_ends_its_streams(kube: Space, api: Api) -> None:
    """Who waits for a result in a Pod hears of its end as an error, and soon."""
    name = start(kube)
    errors: list[TransportError] = []

    def wait() -> None:
        command = ["sh", "-c", "printf .; exec sleep 600"]
        try:
            with ResultStream(api, kube.namespace, name, command, "main", silence=60) as stream:
                stream.receive(ResultBuffer())
        except TransportError as exc:
            errors.append(exc)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.5)
    kube.admin.run("delete", "pod", name, "--grace-period=1")
    thread.join(20)
    assert errors


def test_closing_a_stream_that_waits(kube: Space, api: Api) -> None:
    """close() from another thread ends the wait at once."""
    name = start(kube)
    stream = ResultStream(api, kube.namespace, name, ["sleep", "600"], "main")
    with stream:
        threading.Timer(0.3, stream.close).start()
        began = time.monotonic()
        with pytest.raises(StreamClosed):
            stream.receive(ResultBuffer())
    assert time.monotonic() - began < 1.0


# -- requests


def job(name: str, image: str = "x", namespace: str | None = None) -> JsonDict:
    """A Job that is never meant to run."""
    template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": image}]}}
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {"suspend": True, "template": template},
    }


def jobs(namespace: str) -> str:
    """The collection's path."""
    return f"/apis/batch/v1/namespaces/{namespace}/jobs"


def refusal(api: Api, path: str, body: JsonDict) -> KubefuncError:
    """Our error for a POST that the cluster refuses."""
    with pytest.raises(ApiError) as caught:
        api.request("POST", path, body=body)
    error = as_error(caught.value)
    assert caught.value.message in str(error)
    return error


def test_the_clusters_refusals_become_our_errors(kube: Space, api: Api) -> None:
    """A missing permission, a namespace that is not ours, a field that is wrong: class, words and advice."""
    denied = refusal(api_of(kube.without("jobs:create")), jobs(kube.namespace), job("a"))
    assert isinstance(denied, PermissionDeniedError)
    assert 'apiGroups: ["batch"], resources: ["jobs"], verbs: ["create"]' in str(denied)
    invalid = refusal(api, jobs(kube.namespace), job("a", image=""))
    assert isinstance(invalid, AdmissionError)
    assert "spec.template.spec.containers[0].image" in str(invalid)
    absent = refusal(api_of(kube.admin.kubeconfig), jobs("no-such-namespace"), job("a"))
    assert isinstance(absent, ConfigurationError)
    assert "'no-such-namespace' does not exist" in str(absent)


def test_a_name_that_exists_already(kube: Space, api: Api) -> None:
    """A second POST of the same name says AlreadyExists: how a POST that was sent twice is recognised."""
    api.request("POST", jobs(kube.namespace), body=job("a"))
    with pytest.raises(ApiError) as caught:
        api.request("POST", jobs(kube.namespace), body=job("a"))
    assert caught.value.already_exists


def test_warnings_of_the_server_are_kept(kube: Space, api: Api) -> None:
    """An unknown field is dropped by the server with a Warning header."""
    body = job("a")
    body["spec"]["noSuchField"] = 1
    reply = api.request("POST", jobs(kube.namespace), query={"fieldValidation": "Warn"}, body=body)
    assert any("noSuchField" in warning for warning in reply.warnings)


# -- watches


def test_pods_and_events_are_seen_as_they_happen(kube: Space, api: Api) -> None:
    """A watch of Pods tells every step; a tail of Events tells that the container has started, at once."""
    seen: queue.Queue[tuple[str, JsonDict]] = queue.Queue()
    events: queue.Queue[JsonDict] = queue.Queue()
    core = f"/api/v1/namespaces/{kube.namespace}"
    selector = {"fieldSelector": "reason=Started,involvedObject.fieldPath=spec.containers{main}"}
    pods = Watcher(api, f"{core}/pods", {}, lambda kind, obj: seen.put((kind, obj)))
    tail = TailWatcher(api, f"{core}/events", selector, lambda kind, obj: events.put(obj))
    for watcher in (pods, tail):
        watcher.start()
        assert watcher.wait_synced(10)
    start(kube)
    kinds = [seen.get(timeout=10)[0]]
    assert events.get(timeout=10)["involvedObject"]["name"] == "pod-1"
    kube.admin.delete("pod", "pod-1", "--grace-period=0", "--force")
    while kinds[-1] != "DELETED":
        kinds.append(seen.get(timeout=10)[0])
    assert kinds[0] == "ADDED"
    assert set(kinds[1:-1]) == {"MODIFIED"}
    for watcher in (pods, tail):
        watcher.stop()
        watcher.join(5)


def test_a_watch_without_permission(kube: Space) -> None:
    """No permission on events: said once, in the server's words; nothing else stops."""
    states: list[tuple[WatchState, str]] = []
    path = f"/api/v1/namespaces/{kube.namespace}/events"
    tail = TailWatcher(
        api_of(kube.without("events")), path, {}, print, lambda state, text: states.append((state, text))
    )
    tail.start()
    tail.join(10)
    assert tail.forbidden
    assert [state for state, _ in states] == [WatchState.FORBIDDEN, WatchState.STOPPED]
    assert 'cannot list resource "events"' in states[0][1]


@pytest.mark.alone
def test_an_api_server_that_restarts(kube: Space, api: Api, hermetic: Cluster) -> None:
    """Requests and watches that live through a restart neither fail nor lose anything."""
    seen: queue.Queue[tuple[str, Any]] = queue.Queue()
    path = f"/api/v1/namespaces/{kube.namespace}/secrets"
    watcher = Watcher(
        api,
        f"/api/v1/namespaces/{kube.namespace}/pods",
        {},
        lambda kind, obj: seen.put((kind, obj["metadata"]["name"])),
    )
    watcher.start()
    assert watcher.wait_synced(10)
    failures: list[BaseException] = []
    done = threading.Event()

    def keep_asking(number: int) -> None:
        count = 0
        while not done.is_set():
            count += 1
            body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": f"s-{number}-{count}"}}
            try:
                post(api, path, body)
            except BaseException as exc:  # noqa: BLE001  (reported by the test)
                failures.append(exc)
                return
            time.sleep(0.05)

    threads = [threading.Thread(target=keep_asking, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    hermetic.restart_api_server()
    kube.admin.apply(pod("after", "pass"))
    assert seen.get(timeout=30) == ("ADDED", "after")
    time.sleep(1)
    done.set()
    for thread in threads:
        thread.join(70)
    watcher.stop()
    assert not failures, json.dumps([str(one) for one in failures])


def post(api: Api, path: str, body: JsonDict) -> None:
    """Create; that it exists after a second attempt means that the first one came through."""
    try:
        api.request("POST", path, body=body)
    except ApiError as exc:
        if not (exc.already_exists and exc.attempts > 1):
            raise
