"""``volumes=`` and ``publish=`` on a real cluster: each kind read and written, and what is said where one is wrong."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kubefunc import ConfigMapKey, SecretKey, errors
from kubefunc.volumes import ConfigMap, EmptyDir, HostPath, ImageVolume, PersistentVolumeClaim, Secret
from tests.cluster import mounting
from tests.cluster.cluster import Cluster
from tests.cluster.conftest import ClusterUnderTest, fresh_session
from tests.cluster.spaces import Space, make_space, remove_space
from tests.cluster.waiting import eventually
from tests.cluster.witness import Witness, witnessing
from tests.conftest import ROOT, clean_environment

pytestmark = pytest.mark.xdist_group("volumes")

SOON = 15.0  # the aim is 3 s; a loaded machine may add to that, waiting for something in vain adds more


@pytest.fixture(scope="module")
def kube(cluster: ClusterUnderTest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Space]:
    """A namespace with a ConfigMap, a Secret, and a claim whose volume is a directory of the node."""
    space = make_space(cluster.admin, tmp_path_factory.mktemp("volumes"))
    directory = tmp_path_factory.mktemp("persistent")
    directory.chmod(0o777)
    data, single = ({"hostPath": {"path": str(directory / n), "type": "DirectoryOrCreate"}} for n in "ab")
    silent = {"nfs": {"server": "192.0.2.1", "path": "/"}}  # an address of documentation: nobody answers
    for name, mode, source in (
        ("data", "ReadWriteOnce", data),
        ("single", "ReadWriteOncePod", single),
        ("silent", "ReadWriteMany", silent),
    ):
        space.admin.apply(volume_of(space, name, [mode], source))
        space.admin.apply(claim_of(space, name, [mode]))
    space.admin.apply(claim_of(space, "unbound", ["ReadWriteOnce"]))
    space.admin.run("create", "configmap", "app", "--from-literal=app.yaml=a: 1", "--from-literal=other=b")
    space.admin.run("create", "secret", "generic", "login", "--from-literal=password=hunter2")
    yield space
    remove_space(space)
    names = [f"{space.namespace}-{name}" for name in ("data", "single", "silent", "unbound")]
    space.admin.run("delete", "persistentvolume", "--ignore-not-found", "--wait=false", *names)


def volume_of(space: Space, name: str, modes: list[str], source: dict[str, Any]) -> dict[str, Any]:
    """A PersistentVolume that only the claim of this name can have."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"{space.namespace}-{name}"},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": modes,
            "storageClassName": space.namespace,
            "persistentVolumeReclaimPolicy": "Retain",
            "claimRef": {"namespace": space.namespace, "name": name},
            **source,
        },
    }


def claim_of(space: Space, name: str, modes: list[str]) -> dict[str, Any]:
    """A PersistentVolumeClaim."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": space.namespace},
        "spec": {
            "accessModes": modes,
            "storageClassName": space.namespace,
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }


@pytest.fixture
def calling(kube: Space, monkeypatch: pytest.MonkeyPatch) -> Iterator[Space]:
    """``kube``, with this process as its caller."""
    monkeypatch.setenv("KUBECONFIG", str(kube.kubeconfig))
    with fresh_session():
        yield kube


@pytest.fixture(scope="module")
def witness(kube: Space) -> Iterator[Witness]:
    """Sees what the cluster says, and when."""
    with witnessing(kube.admin) as witness:
        yield witness


@pytest.fixture(scope="module")
def overfull(kube: Space, tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    """A program whose function writes too much. The kubelet measures once a minute, so it starts before all else."""
    program = (
        "from kubefunc.volumes import EmptyDir\n"
        "from tests.cluster import mounting\n"
        "fill = mounting.fill.options(volumes={'/scratch': EmptyDir('1Mi')})\n"
        "error = fill.remote('/scratch/x', 5_000_000).exception()\n"
        "print(type(error).__name__, error)\n"
    )
    environ = {**clean_environment(tmp_path_factory.mktemp("home")), "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env={**environ, "KUBECONFIG": str(kube.kubeconfig)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        yield process
        process.kill()


# --- each kind, read and written


@pytest.mark.usefixtures("calling", "overfull")
def test_what_each_kind_of_volume_gives_to_the_function() -> None:
    """A claim, a file of a ConfigMap, a Secret's key under another name, two empty directories and the node's files."""
    function = mounting.contents.options(
        volumes={
            "/data": PersistentVolumeClaim("data", sub_path="new"),
            "/conf/app.yaml": ConfigMap("app", sub_path="app.yaml"),
            "/secret": Secret("login", items={"password": "pw"}, mode=0o400),
            "/scratch": EmptyDir("1Gi"),
            "/dev/shm": EmptyDir("10Mi", memory=True),
            "/node": HostPath("/etc/hostname", type="File", read_only=True),
            "/absent": ConfigMap("absent", optional=True),
        }
    )
    found = function.remote("/data", "/conf/app.yaml", "/secret/pw", "/scratch", "/dev/shm", "/absent").result()
    assert found == {
        "/data": [],
        "/conf/app.yaml": "a: 1",
        "/secret/pw": "hunter2",
        "/scratch": [],
        "/dev/shm": [],
        "/absent": [],
    }
    assert mounting.mode_of.options(volumes=function._layer["volumes"]).remote("/secret/pw").result() == "0o400"


@pytest.mark.usefixtures("calling")
def test_a_claim_keeps_what_one_call_wrote_for_the_next(capsys: pytest.CaptureFixture[str]) -> None:
    """And for a map, which is told before it starts that the claim is for one node at a time."""
    data = {"/data": PersistentVolumeClaim("data")}
    assert mounting.write.options(volumes=data).remote("/data/here", "text").result() == "text"
    reading = mounting.contents.options(volumes={"/in": PersistentVolumeClaim("data", read_only=True)})
    assert reading.remote("/in/here").result() == {"/in/here": "text"}
    assert "ReadWriteOnce" not in capsys.readouterr().err
    items = [(f"/data/{number}", str(number)) for number in range(4)]
    assert mounting.write.options(volumes=data).starmap(items, chunksize=2).result() == ["0", "1", "2", "3"]
    assert "ReadWriteOnce, so it can be used on one node at a time" in capsys.readouterr().err


@pytest.mark.usefixtures("calling")
def test_an_init_container_prepares_a_volume_for_the_function() -> None:
    """It sees the same volumes, without listing them."""
    prepare = {
        "name": "prepare",
        "image": "python:3.11-slim",
        "command": ["python3", "-c", "open('/scratch/ready', 'w').write('yes')"],
    }
    function = mounting.contents.options(volumes={"/scratch": EmptyDir()}, pod_template={"initContainers": [prepare]})
    assert function.remote("/scratch/ready").result() == {"/scratch/ready": "yes"}


# --- what is wrong with one


@pytest.mark.parametrize(
    ("volume", "said", "words"),
    [
        (PersistentVolumeClaim("gone"), 'claim \\\\"gone\\\\" not found', "PersistentVolumeClaim 'gone'"),
        (ConfigMap("gone"), 'configmap \\\\"gone\\\\" not found', "The ConfigMap 'gone'"),
        (Secret("gone"), 'secret \\\\"gone\\\\" not found', "The Secret 'gone'"),
        (ConfigMap("app", items={"none": "x"}), "non-existent config key", "has no key 'none'"),
        (ConfigMap("app", sub_path="none"), "non-existent config key", "has no key 'none'"),
        (HostPath("/etc/hostname", type="Directory"), "type check failed", "/etc/hostname is not a directory"),
    ],
    ids=["claim", "configmap", "secret", "key", "sub_path", "type"],
)
def test_a_mount_that_cannot_work_is_told_soon(
    volume: Any, said: str, words: str, calling: Space, witness: Witness
) -> None:
    """A call and a map end with an error that names object and option, soon after the cluster's first word of it."""
    function = mounting.contents.options(volumes={"/here": volume})
    call, items = function.remote("/here"), function.map(["/here"] * 2)
    failures = [(call.id, call.exception(60)), (items.id, items.calls[0].exception(60))]
    ended = time.monotonic()
    for job, error in failures:
        assert isinstance(error, errors.PodConfigError)
        assert words in str(error)
        assert f'volumes={{"/here": {type(volume).__name__}(...)}}' in str(error)
        eventually(lambda job=job: witness.first(job, said), 20, f"the cluster says {said} of {job}")
        knew = witness.first(job, said)
        assert knew is not None
        print(f"{ended - knew:.1f} s after the cluster knew")
        assert ended - knew < SOON


@pytest.mark.usefixtures("calling")
def test_a_mount_that_may_work_later_is_said_soon(capsys: pytest.CaptureFixture[str], witness: Witness) -> None:
    """A call and a map wait for a file server, and say so. (The node has no NFS at all, but who knows that?)"""
    function = mounting.contents.options(volumes={"/in": PersistentVolumeClaim("silent")})
    starts: list[Callable[[], Any]] = [lambda: function.remote("/in"), lambda: function.map(["/in"] * 2, chunksize=1)]
    for start in starts:
        waiting, said = start(), io.StringIO()

        def is_told(job: str = waiting.id, said: io.StringIO = said) -> bool:
            said.write(capsys.readouterr().err)
            return re.search(rf"{job}: waiting .*The node cannot mount the volume at /in", said.getvalue()) is not None

        eventually(is_told, 150, "a line about the mount")
        knew = witness.first(waiting.id, "FailedMount")
        assert knew is not None
        assert time.monotonic() - knew < SOON
        assert waiting.cancel()


def test_a_claim_that_is_bound_later_is_waited_for(
    calling: Space, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """No error: a line says that the claim has no volume yet, and the call runs when it has."""
    call = mounting.write.options(volumes={"/data": PersistentVolumeClaim("unbound")}).remote("/data/x", "text")
    eventually(lambda: "The PersistentVolumeClaim 'unbound' (/data) has no volume yet" in capsys.readouterr().err, 60)
    tmp_path.chmod(0o777)
    source = {"hostPath": {"path": str(tmp_path / "volume"), "type": "DirectoryOrCreate"}}
    calling.admin.apply(volume_of(calling, "unbound", ["ReadWriteOnce"], source))
    assert call.result(120) == "text"


@pytest.mark.usefixtures("calling")
def test_a_sub_path_through_a_file_ends_the_call() -> None:
    """Kubernetes would try for ever."""
    mounting.write.options(volumes={"/data": PersistentVolumeClaim("data")}).remote("/data/file", "x").result()
    through = {"/data": PersistentVolumeClaim("data", sub_path="file/below")}
    error = mounting.contents.options(volumes=through).remote("/data").exception(60)
    assert isinstance(error, errors.PodConfigError)
    assert 'Correct sub_path= in volumes={"/data": PersistentVolumeClaim(...)}' in str(error)


@pytest.mark.usefixtures("calling")
def test_a_directory_over_a_file_of_the_image_ends_the_call() -> None:
    """It is not told as an image without Python."""
    error = mounting.contents.options(volumes={"/etc/passwd": EmptyDir()}).remote("/etc").exception(60)
    assert isinstance(error, errors.PodConfigError)
    assert "The volume cannot be mounted at /etc/passwd" in str(error)


@pytest.mark.usefixtures("calling")
@pytest.mark.parametrize(
    ("volume", "words"),
    [
        (PersistentVolumeClaim("data", read_only=True), "is mounted with read_only=True"),
        (ConfigMap("app"), "is read-only: write elsewhere"),
    ],
    ids=["claim", "configmap"],
)
def test_a_write_to_a_read_only_volume_is_the_functions_own_exception(volume: Any, words: str) -> None:
    """With a note that names the option."""
    error = mounting.write.options(volumes={"/data": volume}).remote("/data/x", "text").exception(60)
    assert isinstance(error, OSError)
    assert error.filename == "/data/x"
    if sys.version_info >= (3, 11):
        assert any(words in note for note in error.__notes__)


@pytest.mark.usefixtures("calling")
def test_a_full_volume_in_memory_is_the_functions_own_exception() -> None:
    """With a note that names the option; the exception itself names no file."""
    call = mounting.fill.options(volumes={"/scratch": EmptyDir("1Mi", memory=True)}).remote("/scratch/x", 5_000_000)
    error = call.exception(60)
    assert isinstance(error, OSError)
    if sys.version_info >= (3, 11):
        assert any("is full: raise its size" in note for note in error.__notes__)


@pytest.mark.usefixtures("calling")
def test_a_map_on_a_claim_for_one_pod_is_refused() -> None:
    """Its second Pod would wait for ever; one Pod at a time is fine."""
    function = mounting.write.options(volumes={"/data": PersistentVolumeClaim("single")})
    items = [("/data/x", "a"), ("/data/y", "b")]
    error = function.starmap(items, chunksize=1).calls[0].exception(60)
    assert isinstance(error, errors.ConfigurationError)
    assert "ReadWriteOncePod, so only one Pod can use it" in str(error)
    assert function.starmap(items, chunksize=2, max_parallelism=1).result(60) == ["a", "b"]
    gang = function.options(gang=2).remote("/data/x", "a").exception(60)
    assert "only one Pod can use it, and a gang has 2. Use a ReadWriteMany claim." in str(gang)


def test_image_volumes_on_a_server_that_does_not_know_them(calling: Space, hermetic: Cluster) -> None:
    """It would leave the volume out without a word; nothing is started."""
    error = mounting.contents.options(volumes={"/models": ImageVolume("models:1")}).remote("/models").exception(60)
    assert isinstance(error, errors.ConfigurationError)
    assert "this cluster has no image volumes" in str(error)
    assert not any(name.startswith("job.batch/contents") for name in calling.leftovers() if "contents" in name)


# --- results as objects


def data_of(space: Space, kind: str, name: str) -> dict[str, Any]:
    """An object, as the administrator sees it."""
    (found,) = (each for each in space.admin.get(kind) if each["metadata"]["name"] == name)
    return dict(found)


def test_a_published_result_is_mounted_by_another_call(calling: Space) -> None:
    """It is there when result() returns; other keys stay; bytes and texts may take turns."""
    scores, raw = ConfigMapKey("scores", "result"), ConfigMapKey("scores", "raw")
    assert mounting.give.options(publish=raw).remote(b"\xff").result() == b"\xff"
    for value, text in ((b"\x00", None), ({"loss": 0.5}, '{"loss": 0.5}')):
        assert mounting.give.options(publish=scores).remote(value).result() == value
        there = data_of(calling, "configmaps", "scores")
        assert there.get("data", {}).get("result") == text
    assert there["binaryData"] == {"raw": base64.b64encode(b"\xff").decode()}
    mounting.give.options(publish=SecretKey("token", "key")).remote("s3cret").result()
    volumes = {"/scores": ConfigMap("scores"), "/token": Secret("token", sub_path="key")}
    found = mounting.contents.options(volumes=volumes).remote("/scores/result", "/token").result()
    assert found == {"/scores/result": '{"loss": 0.5}', "/token": "s3cret"}


def test_what_is_owned_by_the_job_goes_with_it(calling: Space) -> None:
    """The Job stays for ttl= with keep="always"."""
    owned = ConfigMapKey("owned", "result", owned=True)
    call = mounting.give.options(publish=owned, keep="always").remote(1)
    assert call.result() == 1
    assert data_of(calling, "configmaps", "owned")["metadata"]["ownerReferences"][0]["name"] == call.id
    call.discard()
    eventually(
        lambda: all(each["metadata"]["name"] != "owned" for each in calling.admin.get("configmaps")),
        what="the ConfigMap is gone",
    )


def test_a_detached_call_is_published_by_the_program_that_attaches(calling: Space, tmp_path: Path) -> None:
    """Which need not know of publish=."""
    call = mounting.give.options(publish=ConfigMapKey("later", "result"), detach=True).remote([1, 2])
    program = f"import kubefunc\ncall = kubefunc.attach({call.id!r})\nprint(call.result())\ncall.discard()\n"
    environ = {**clean_environment(tmp_path), "KUBECONFIG": str(calling.kubeconfig), "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, "-c", program], env=environ, text=True, capture_output=True, timeout=120, check=False
    )
    assert ended.stdout == "[1, 2]\n", ended.stderr
    assert data_of(calling, "configmaps", "later")["data"] == {"result": "[1, 2]"}


def test_many_calls_publish_into_one_object_at_once(calling: Space) -> None:
    """Each its own key; that the object is created or changed meanwhile is no error."""
    calls = [mounting.give.options(publish=ConfigMapKey("many", f"k{n}")).remote(n) for n in range(6)]
    assert [call.result(120) for call in calls] == list(range(6))
    assert data_of(calling, "configmaps", "many")["data"] == {f"k{n}": str(n) for n in range(6)}


def immutable(space: Space) -> None:
    """An object that nobody may change."""
    space.admin.run("create", "configmap", "target", "--from-literal=a=b")
    space.admin.run("patch", "configmap", "target", "--patch", '{"immutable": true}')


def nearly_full(space: Space) -> None:
    """An object with no room for much."""
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "target"}, "data": {"a": "x" * 900_000}}
    space.admin.run("create", "--filename=-", stdin=json.dumps(body))


@pytest.mark.parametrize(
    ("prepare", "words"),
    [(immutable, "The ConfigMap 'target' is immutable"), (nearly_full, "would be larger than 1 MiB")],
)
def test_an_object_that_cannot_take_the_result(prepare: Callable[[Space], None], words: str, calling: Space) -> None:
    """The error says why, and has the result."""
    calling.admin.run("delete", "configmap", "target", "--ignore-not-found")
    prepare(calling)
    value = "y" * 200_000
    error = mounting.give.options(publish=ConfigMapKey("target", "result")).remote(value).exception(60)
    assert isinstance(error, errors.PublishError)
    assert words in str(error)
    assert error.value == value


def test_a_user_who_may_not_publish_is_told_the_rule(kube: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    """The result is not lost."""
    monkeypatch.setenv("KUBECONFIG", str(kube.without("configmaps")))
    with fresh_session():
        error = mounting.give.options(publish=ConfigMapKey("refused", "result")).remote(1).exception(60)
        assert isinstance(error, errors.PublishError)
        rule = '{apiGroups: [""], resources: ["configmaps"], verbs: ["patch"]}'
        assert f"add this rule to the user's Role: {rule}" in str(error)
        assert error.value == 1


def test_a_map_starts_without_the_permission_to_read_its_claim(
    kube: Space, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is said of its access mode then."""
    monkeypatch.setenv("KUBECONFIG", str(kube.without("persistentvolumeclaims")))
    with fresh_session():
        function = mounting.write.options(volumes={"/data": PersistentVolumeClaim("data")})
        assert function.starmap([("/data/p", "a"), ("/data/q", "b")], chunksize=1).result(120) == ["a", "b"]
    assert "ReadWriteOnce" not in capsys.readouterr().err


def test_a_full_volume_on_disk_is_told_as_storage(overfull: subprocess.Popen[str]) -> None:
    """The kubelet evicts the Pod; the error names path, size and option."""
    told, _ = overfull.communicate(timeout=180)
    assert told.startswith("EvictedError The function wrote more to /scratch than the volume may hold (1Mi)")
    assert 'volumes={"/scratch": EmptyDir("...")}' in told
