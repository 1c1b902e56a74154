"""What the cluster says of a Pod's volumes names the option; its words were taken from Kubernetes 1.34."""

from __future__ import annotations

import time
from typing import Any

import pytest

from kubefunc import errors
from kubefunc.backends.kubernetes.attempts.waiting import Waiting
from kubefunc.backends.kubernetes.diagnose import ending, starting
from kubefunc.backends.kubernetes.diagnose.finding import Finding
from kubefunc.backends.kubernetes.objects import views
from kubefunc.backends.kubernetes.objects.user_volumes import (
    Mounted,
    mount_in_init_containers,
    mounted,
    pod_volumes,
    user_mounts,
)
from kubefunc.volumes import ConfigMap, EmptyDir, HostPath, ImageVolume, PersistentVolumeClaim, Secret, Volume

VOLUMES: dict[str, Volume] = {
    "/data": PersistentVolumeClaim("corpus", sub_path="a/b", read_only=True),
    "/conf/app.yaml": ConfigMap("app", sub_path="app.yaml"),
    "/s": Secret("login", items={"password": "pw"}, mode=0o400),
    "/scratch": EmptyDir("1Mi"),
    "/models": ImageVolume("registry.example/models:1"),
    "/h": HostPath("/mnt", type="Directory"),
}
SPEC: dict[str, Any] = {
    "nodeName": "node-1",
    "volumes": [{"name": "kubefunc-in"}, *pod_volumes(VOLUMES)],
    "containers": [{"name": "main", "image": "python:3.11-slim", "volumeMounts": user_mounts(VOLUMES)}],
}


def pod(**status: Any) -> views.Pod:
    """A Pod with these volumes, as a watch tells of it."""
    return views.pod_view({"metadata": {"name": "f-x"}, "spec": SPEC, "status": status})


def of_event(reason: str, words: str) -> Finding:
    """What an Event of that Pod means."""
    finding = starting.event_trouble([{"reason": reason, "message": words}], pod().volumes)
    assert finding is not None
    return finding


# --- in the Pod


def test_each_kind_of_volume_in_the_words_of_kubernetes() -> None:
    """The sources as the API writes them; a sub_path of a ConfigMap is an item, so that it must exist."""
    sources = {str(each.pop("name")): each for each in pod_volumes(VOLUMES)}
    assert sources == {
        "volume-data": {"persistentVolumeClaim": {"claimName": "corpus", "readOnly": True}},
        "volume-conf-app-yaml": {"configMap": {"name": "app", "items": [{"key": "app.yaml", "path": "app.yaml"}]}},
        "volume-s": {
            "secret": {"secretName": "login", "items": [{"key": "password", "path": "pw"}], "defaultMode": 256}
        },
        "volume-scratch": {"emptyDir": {"sizeLimit": "1Mi"}},
        "volume-models": {"image": {"reference": "registry.example/models:1"}},
        "volume-h": {"hostPath": {"path": "/mnt", "type": "Directory"}},
    }


def test_what_cannot_be_written_is_mounted_read_only() -> None:
    """Kubernetes mounts a ConfigMap read-only in any case; here the manifest says so."""
    found = {str(each["mountPath"]): each for each in user_mounts(VOLUMES)}
    assert {path for path, each in found.items() if each.get("readOnly")} == {
        "/data",
        "/conf/app.yaml",
        "/s",
        "/models",
    }
    assert found["/data"]["subPath"] == "a/b"


def test_init_containers_see_the_volumes_too() -> None:
    """A mount of their own at the same path stays."""
    own = {"name": "other", "mountPath": "/data"}
    initial = {"name": "init", "volumeMounts": [own]}
    template: dict[str, Any] = {"spec": {"initContainers": [initial]}}
    mount_in_init_containers(template, VOLUMES)
    (changed,) = template["spec"]["initContainers"]
    paths = [each["mountPath"] for each in changed["volumeMounts"]]
    assert paths == ["/data", *(path for path in VOLUMES if path != "/data")]
    assert initial["volumeMounts"] == [own]


def test_the_volumes_are_read_back_from_the_pod() -> None:
    """Also from a Pod that another program has started."""
    assert mounted(SPEC)[:2] == (
        Mounted("volume-data", "/data", "PersistentVolumeClaim", "corpus"),
        Mounted("volume-conf-app-yaml", "/conf/app.yaml", "ConfigMap", "app"),
    )


# --- what keeps a Pod from starting


@pytest.mark.parametrize(
    ("words", "message", "advice"),
    [
        (
            'MountVolume.SetUp failed for volume "volume-conf-app-yaml" : configmap "app" not found',
            "The ConfigMap 'app', which is to be mounted at /conf/app.yaml, does not exist",
            'volumes={"/conf/app.yaml": ConfigMap(...)}',
        ),
        (
            'MountVolume.SetUp failed for volume "volume-s" : secret "login" not found',
            "The Secret 'login', which is to be mounted at /s,",
            'volumes={"/s": Secret(...)}',
        ),
        (
            'MountVolume.SetUp failed for volume "volume-s" : references non-existent secret key: password',
            "The Secret 'login', which is to be mounted at /s, has no key 'password'",
            "correct items= or sub_path=",
        ),
        (
            'MountVolume.SetUp failed for volume "volume-h" : hostPath type check failed: /mnt is not a directory',
            "volume at /h: /mnt is not a directory",
            'type= in volumes={"/h": HostPath(...)}',
        ),
    ],
)
def test_a_mount_that_cannot_work_ends_the_call(words: str, message: str, advice: str) -> None:
    """At the kubelet's first Event: nothing of this passes by itself."""
    finding = of_event("FailedMount", words)
    assert finding.error is errors.PodConfigError
    assert finding.fatal_after == 0.0
    assert message in finding.message
    assert advice in finding.advice
    assert words in finding.words[0]


def test_a_mount_that_may_work_later_is_told_at_once() -> None:
    """A file server that does not answer: the call waits, and says for what without waiting five seconds."""
    finding = of_event("FailedMount", 'MountVolume.SetUp failed for volume "pv-nfs" : mount failed\nMounting: mount')
    assert (finding.fatal_after, finding.at_once) == (None, True)
    assert finding.words[0].endswith("mount failed Mounting: mount")
    assert finding.message == "The node cannot mount the volume at /data."
    assert 'volumes={"/data": PersistentVolumeClaim(...)}' in finding.advice


def test_news_of_a_mount_does_not_wait_for_the_next_line() -> None:
    """What was said before it does not hold it back; the same trouble is not said again at once."""
    waiting = Waiting()
    waiting.looks.say(time.monotonic())
    assert not waiting.has_urgent_news
    waiting.found(of_event("FailedMount", 'MountVolume.SetUp failed for volume "pv-nfs" : mount failed'))
    assert waiting.has_urgent_news
    waiting.looks.say(time.monotonic())
    waiting.found(of_event("FailedMount", 'MountVolume.SetUp failed for volume "pv-nfs" : mount failed again'))
    assert not waiting.has_urgent_news


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.", "has no volume yet"),
        ("0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind.", "has no volume yet"),
        (
            "1 node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode.",
            "in use elsewhere",
        ),
    ],
)
def test_a_claim_that_may_be_bound_later_is_said_and_waited_for(words: str, message: str) -> None:
    """A volume that is being provisioned is no error."""
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": words}
    spec = {name: value for name, value in SPEC.items() if name != "nodeName"}
    waiting = views.pod_view({"metadata": {"name": "f-x"}, "spec": spec, "status": {"conditions": [condition]}})
    finding = starting.start_trouble(waiting)
    assert finding is not None
    assert (finding.fatal_after, finding.at_once) == (None, True)
    assert "'corpus' (/data)" in finding.message
    assert message in finding.message


def test_a_volume_in_use_on_another_node_is_said() -> None:
    """ReadWriteOnce means one node."""
    words = 'Multi-Attach error for volume "pvc-1" Volume is already used by pod(s) g-y'
    finding = of_event("FailedAttachVolume", words)
    assert "one node, or one Pod, at a time" in finding.message
    assert finding.fatal_after is None


def test_a_claim_that_does_not_exist() -> None:
    """The scheduler says so, with its status."""
    words = '0/1 nodes are available: persistentvolumeclaim "corpus" not found. not found'
    finding = of_event("FailedScheduling", words)
    assert "The PersistentVolumeClaim 'corpus', which is to be mounted at /data, does not exist" in finding.message
    assert finding.fatal_after == 0.0


def test_a_sub_path_through_a_file() -> None:
    """The container cannot be created, and the kubelet would try for ever."""
    words = 'failed to prepare subPath for volumeMount "volume-data" of container "main"'
    waiting = {"waiting": {"reason": "CreateContainerConfigError", "message": words}}
    finding = starting.start_trouble(pod(containerStatuses=[{"name": "main", "state": waiting}]))
    assert finding is not None
    assert "The sub_path of the volume at /data" in finding.message
    assert finding.fatal_after == 0.0


def test_a_directory_over_a_file_of_the_image() -> None:
    """The container's start fails, which would look as if the image had no Python."""
    words = (
        'failed to create shim task: OCI runtime create failed: error mounting "/var/lib/kubelet/pods/1/volumes/'
        'kubernetes.io~empty-dir/volume-scratch" to rootfs at "/scratch": not a directory: unknown'
    )
    ended = {"terminated": {"exitCode": 128, "reason": "StartError", "message": words}}
    finding = ending.main_trouble(pod(phase="Failed", containerStatuses=[{"name": "main", "state": ended}]))
    assert finding is not None
    assert (finding.error, finding.reason) == (errors.PodConfigError, "MountFailed")
    assert "cannot be mounted at /scratch" in finding.message


def test_an_image_of_a_volume_that_cannot_be_pulled() -> None:
    """The kubelet reports it as if it were the container's own."""
    words = 'failed to pull and unpack image "registry.example/models:1": not found'
    waiting = {"waiting": {"reason": "ErrImagePull", "message": words}}
    finding = starting.start_trouble(pod(containerStatuses=[{"name": "main", "state": waiting}]))
    assert finding is not None
    assert "to be mounted at /models" in finding.message


# --- what ends it


def test_a_full_directory_is_told_as_storage_with_its_option() -> None:
    """The kubelet evicts the Pod."""
    words = 'Usage of EmptyDir volume "volume-scratch" exceeds the limit "1Mi". '
    finding = ending.pod_end_trouble(pod(phase="Failed", reason="Evicted", message=words))
    assert finding is not None
    assert finding.error is errors.EvictedError
    assert "more to /scratch than the volume may hold (1Mi)" in finding.message
    assert 'volumes={"/scratch": EmptyDir("...")}' in finding.advice
