"""The Secrets and the Job of a call: read as data, held against what Kubernetes and the design ask for."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from kubefunc.backends.kubernetes.objects.containers import CONTAINER_ORDER
from kubefunc.backends.kubernetes.objects.job import build_job, owner_patch, validate
from kubefunc.backends.kubernetes.objects.job_spec import SECRETS_LIMIT, JobSpec
from kubefunc.backends.kubernetes.objects.origin import Origin, label_value
from kubefunc.backends.kubernetes.objects.secrets import build_secrets
from kubefunc.backends.kubernetes.objects.service import Reach, build_service, reach_of
from kubefunc.backends.kubernetes.objects.shards import SHARD_BYTES
from kubefunc.errors import ConfigurationError
from kubefunc.options import ConfigMapKey, Options, SecretKey
from kubefunc.volumes import PersistentVolumeClaim

FILES = {"kubefunc.pyz": b"z" * 1000, "spec.json": b"{}", "key": b"k" * 32, "payload": b"KFP1..."}
CALL = "train-x7k2p9qa"


def spec(**changes: Any) -> JobSpec:
    """A call's spec; keywords are options, or fields of JobSpec where they are named so."""
    own: dict[str, Any] = {
        name: changes.pop(name) for name in ("files", "attempt", "backoff", "demands") if name in changes
    }
    whole: dict[str, Any] = {
        "call": CALL,
        "session": "s3ss10n",
        "function": "project.train",
        "namespace": "team-a",
        "files": FILES,
        **own,
    }
    return JobSpec(options=Options.of(**changes), **whole)


def pod(**changes: Any) -> Any:
    """The Pod's spec in the Job of such a call."""
    return template(**changes)["spec"]


def template(**changes: Any) -> Any:
    """The Pod template in the Job of such a call."""
    made: Any = build_job(spec(**changes))
    return made["spec"]["template"]


def secret_names(of: JobSpec) -> list[str]:
    """The names of a call's Secrets."""
    made: Any = build_secrets(of)
    return [item["metadata"]["name"] for item in made]


def container(name: str, **changes: Any) -> Any:
    """One container of the Pod of such a call."""
    return next(item for item in pod(**changes)["containers"] if item["name"] == name)


def env(**changes: Any) -> dict[str, Any]:
    """The variables of main by name, as the kubelet reads them; each must stand there once."""
    items = container("main", **changes)["env"]
    assert len({item["name"] for item in items}) == len(items)
    made: Any = build_secrets(spec(**changes))
    held = {item["metadata"]["name"]: item["data"] for item in made}
    return {item["name"]: item.get("value", from_secret(item.get("valueFrom"), held)) for item in items}


def from_secret(source: Any, held: Mapping[str, Mapping[str, str]]) -> Any:
    """The text that a reference to one of the call's own Secrets stands for; any other reference as it is."""
    reference = (source or {}).get("secretKeyRef", {})
    if reference.get("name") not in held:
        return source
    return base64.b64decode(held[reference["name"]][reference["key"]]).decode()


# --- Secrets


def test_a_small_call_is_one_immutable_secret() -> None:
    """The Secret has the Job's name, our labels and the files as base64."""
    (secret,) = build_secrets(spec())
    assert secret == {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": CALL,
            "namespace": "team-a",
            "labels": {
                "app.kubernetes.io/managed-by": "kubefunc",
                "kubefunc/session": "s3ss10n",
                "kubefunc/call": CALL,
                "kubefunc/function": "project.train",
            },
        },
        "type": "Opaque",
        "immutable": True,
        "data": {name: base64.b64encode(data).decode() for name, data in FILES.items()},
    }


def joined(made: list[dict[str, Any]]) -> tuple[bytes, list[str]]:
    """The payload as the runner joins it from the projected volume, and the names of its parts."""
    found: dict[str, bytes] = {}
    for secret in made:
        for name, text in secret["data"].items():
            assert name not in found, "two Secrets with one name: the projected volume would hide one"
            found[name] = base64.b64decode(text)
    if "payload" in found:
        return found["payload"], ["payload"]
    parts = sorted((name for name in found if name.startswith("payload.")), key=lambda name: int(name[8:]))
    return b"".join(found[name] for name in parts), parts


_SMALL = sum(len(data) for name, data in FILES.items() if name != "payload")
_ROOM = SHARD_BYTES - _SMALL


@pytest.mark.parametrize(
    ("size", "count"),
    [
        (0, 1),
        (1, 1),
        (_ROOM, 1),
        (_ROOM + 1, 2),
        (_ROOM + SHARD_BYTES, 2),
        (_ROOM + SHARD_BYTES + 1, 3),
        (SECRETS_LIMIT, 9),
    ],
)
def test_a_large_payload_is_spread_over_secrets(size: int, count: int) -> None:
    """Each Secret stays below 1 MiB of data, and the parts joined in the order of their numbers are the payload."""
    payload = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    made: Any = build_secrets(spec(files={**FILES, "payload": payload}))
    data, parts = joined(made)
    assert data == payload
    assert parts == (["payload"] if count == 1 else [f"payload.{number}" for number in range(count)])
    assert [item["metadata"]["name"] for item in made] == [CALL, *(f"{CALL}-{n}" for n in range(1, count))]
    for item in made:
        assert sum(len(base64.b64decode(text)) for text in item["data"].values()) <= SHARD_BYTES


def test_all_secrets_are_joined_in_one_read_only_volume() -> None:
    """However many Secrets there are, the Pod sees one directory, readable by any user id."""
    of_many = spec(files={**FILES, "payload": b"x" * (3 * SHARD_BYTES)})
    made: Any = build_job(of_many)
    volumes = {item["name"]: item for item in made["spec"]["template"]["spec"]["volumes"]}
    assert volumes["kubefunc-in"]["projected"] == {
        "defaultMode": 0o444,
        "sources": [{"secret": {"name": name}} for name in secret_names(of_many)],
    }
    assert len(build_secrets(of_many)) == 4


def test_a_payload_may_come_later() -> None:
    """Without ``payload`` there is one Secret with the rest: the courier takes the payload in."""
    made: Any = build_secrets(spec(files={"kubefunc.pyz": b"z", "spec.json": b"{}", "key": b"k"}))
    assert [list(secret["data"]) for secret in made] == [["kubefunc.pyz", "spec.json", "key"]]


def test_files_that_no_secret_can_hold_are_refused() -> None:
    """The runner is never cut into pieces: it could not put itself together."""
    with pytest.raises(ValueError, match="more than one Secret holds"):
        build_secrets(spec(files={"kubefunc.pyz": b"z" * SHARD_BYTES}))


def test_the_owner_patch_makes_the_job_own_a_secret() -> None:
    """No blockOwnerDeletion, which would need a permission on OpenShift, and no controller: the Job made it not."""
    assert owner_patch(CALL, "uid-1") == {
        "metadata": {"ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": CALL, "uid": "uid-1"}]}
    }


def test_a_replacing_job_has_a_name_of_its_own() -> None:
    """A new attempt by the client is a new Job with new Secrets, found by the same label."""
    again = spec(attempt=2, files={**FILES, "payload": b"x" * SHARD_BYTES})
    made: Any = build_job(again)
    assert made["metadata"]["name"] == f"{CALL}-r2"
    assert made["metadata"]["labels"]["kubefunc/call"] == CALL
    assert made["metadata"]["annotations"]["kubefunc/attempt"] == "2"
    assert secret_names(again) == [f"{CALL}-r2", f"{CALL}-r2-1"]


# --- the Job


def test_the_job_by_default() -> None:
    """The Job's own fields: nothing stays for ever, and disruptions alone are retried by Kubernetes."""
    made: Any = build_job(spec())
    assert (made["apiVersion"], made["kind"]) == ("batch/v1", "Job")
    assert made["metadata"]["name"] == CALL
    assert made["metadata"]["namespace"] == "team-a"
    assert made["metadata"]["annotations"]["kubefunc/function"] == "project.train"
    fields = dict(made["spec"])
    del fields["template"]
    assert fields == {
        "backoffLimit": 5,
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "Ignore",
                    "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
                },
                {
                    "action": "FailJob",
                    "onExitCodes": {"containerName": "main", "operator": "NotIn", "values": [0, 143]},
                },
                {
                    "action": "Ignore",
                    "onExitCodes": {"containerName": "courier", "operator": "In", "values": [65]},
                },
                {
                    "action": "FailJob",
                    "onExitCodes": {"containerName": "courier", "operator": "NotIn", "values": [0, 65, 137, 143]},
                },
            ]
        },
        "activeDeadlineSeconds": 7 * 24 * 3600,
        "ttlSecondsAfterFinished": 24 * 3600,
    }


def test_the_courier_uses_the_python_that_main_is_given() -> None:
    """A template that changes only ``main``'s interpreter, or a ``PATH`` in ``env``, holds for both containers."""
    command = ["/opt/conda/bin/python", "/kubefunc/in/kubefunc.pyz", "main"]
    made = template(pod_template={"spec": {"containers": [{"name": "main", "command": command}]}})
    courier = made["spec"]["containers"][1]
    assert courier["command"][:2] == ["/opt/conda/bin/python", "-I"]
    assert courier["env"][0]["value"].startswith("/opt/conda/bin:/usr/local/sbin:")  # exec starts python3 there

    main, courier = template(env={"PATH": "/opt/conda/bin:/bin"})["spec"]["containers"]
    assert courier["command"][0] == "python3"
    assert courier["env"] == [each for each in main["env"] if each["name"] == "PATH"]
    assert "env" not in template()["spec"]["containers"][1]


@pytest.mark.parametrize(
    ("before", "found"),
    [
        (["python3", "-X", "dev"], "python3"),
        (["sh", "-c", 'python3 "$0" "$1"; exit $?'], "python3"),
        (["sh", "-c", '. /etc/profile && exec /opt/conda/bin/python3.11 -u "$@"', "sh"], "/opt/conda/bin/python3.11"),
        (["sh", "-c", '"$HOME/bin/python" "$0" "$1"'], "python3"),
        (["/opt/tools/wrapper"], "/opt/tools/wrapper"),
        (["tini", "--"], "python3"),
    ],
)
def test_the_python_in_a_command_is_found(before: list[str], found: str) -> None:
    """Behind options with values, inside a shell's script, or in a wrapper of another name."""
    command = [*before, "/kubefunc/in/kubefunc.pyz", "main"]
    made = template(pod_template={"spec": {"containers": [{"name": "main", "command": command}]}})
    assert made["spec"]["containers"][1]["command"][0] == found


def test_a_courier_that_is_told_its_python_keeps_it() -> None:
    """What a template says of the courier itself stands."""
    main = {"name": "main", "command": ["python3.11", "/kubefunc/in/kubefunc.pyz", "main"]}
    courier = {
        "name": "courier",
        "command": ["/usr/bin/python3.11", "/kubefunc/in/kubefunc.pyz", "courier"],
        "env": [{"name": "PATH", "value": "/usr/bin"}],
    }
    made = template(env={"PATH": "/bin"}, pod_template={"spec": {"containers": [main, courier]}})
    changed = made["spec"]["containers"][1]
    assert (changed["command"], changed["env"]) == (courier["command"], courier["env"])


def test_without_disruptions_nothing_runs_twice() -> None:
    """max_disruptions=0: Ignore would make a new Pod without a cap, so each Ignore becomes FailJob."""
    made: Any = build_job(spec(max_disruptions=0))
    assert made["spec"]["backoffLimit"] == 0
    assert [rule["action"] for rule in made["spec"]["podFailurePolicy"]["rules"]] == ["FailJob"] * 4


def test_durations_are_rounded_up() -> None:
    """Kubernetes takes whole seconds; an early end would be the worse error."""
    made: Any = build_job(spec(ttl=0.1, deadline=59.5))
    assert (made["spec"]["ttlSecondsAfterFinished"], made["spec"]["activeDeadlineSeconds"]) == (1, 60)


def test_a_job_says_whose_it_is() -> None:
    """Labels for selectors, cut and made valid; annotations with the whole of it. An option may not be one of these."""
    of = replace(
        spec(),
        function="Trainer.fit.<locals>.step",
        module="jobs.train",
        origin=Origin("ada@lab", "train.py", "laptop"),
    )
    metadata = build_job(of)["metadata"]
    assert isinstance(metadata, dict)
    assert {name: metadata["labels"][f"kubefunc/{name}"] for name in ("function", "user", "program")} == {
        "function": "Trainer.fit._locals_.step",
        "user": "ada_lab",
        "program": "train.py",
    }
    annotations = {name: metadata["annotations"][f"kubefunc/{name}"] for name in ("function", "module", "host")}
    assert annotations == {"function": "Trainer.fit.<locals>.step", "module": "jobs.train", "host": "laptop"}


@pytest.mark.parametrize(
    "text", ["x" * 200, "<lambda>", "обучить", "a b", "-x-", "", "_" * 70, "ends-in-dash" + "-" * 60]
)
def test_every_name_is_a_valid_label(text: str) -> None:
    """As Kubernetes checks it; what is cut differs by a hash."""
    assert re.fullmatch(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?", label_value(text))
    assert len(label_value(text)) <= 63
    assert label_value("x" * 100) != label_value("x" * 101)


def test_labels_and_annotations_of_the_user() -> None:
    """They stand on Job and Pod, labels on the Secrets too, and never instead of ours."""
    of = spec(labels={"team": "a"}, annotations={"note": "b"})
    made: Any = build_job(of)
    for metadata in (made["metadata"], made["spec"]["template"]["metadata"]):
        assert metadata["labels"]["team"] == "a"
        assert metadata["labels"]["kubefunc/call"] == CALL
        assert metadata["annotations"]["note"] == "b"
    first: Any = build_secrets(of)[0]
    assert first["metadata"]["labels"]["team"] == "a"


def test_the_job_is_stable_json() -> None:
    """The same spec makes the same text, which JSON and YAML can write."""
    of = spec(cpu=1, memory="1Gi", gpu=1, timeout=60, tolerations=["a:NoSchedule"], env={"A": "1"})
    assert json.dumps(build_job(of)) == json.dumps(build_job(of))
    assert json.loads(json.dumps(build_job(of))) == build_job(of)


# --- the Pod


def test_the_pod_by_default() -> None:
    """Every field of the Pod's spec but containers and volumes."""
    fields = dict(pod())
    del fields["containers"], fields["volumes"]
    assert fields == {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 30,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [
            {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 30}
            for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
        ],
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
    }


def test_the_pods_marks() -> None:
    """Meshes and autoscalers are told to leave the Pod alone, and kubectl to show main's log."""
    metadata = template()["metadata"]
    assert metadata["labels"] == {
        "sidecar.istio.io/inject": "false",
        "app.kubernetes.io/managed-by": "kubefunc",
        "kubefunc/session": "s3ss10n",
        "kubefunc/call": CALL,
        "kubefunc/function": "project.train",
    }
    assert {name: value for name, value in metadata["annotations"].items() if "kubefunc" not in name} == {
        "kubectl.kubernetes.io/default-container": "main",
        "sidecar.istio.io/inject": "false",
        "linkerd.io/inject": "disabled",
        "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
        "karpenter.sh/do-not-disrupt": "true",
    }


def test_mesh_and_evictable_take_their_marks_away() -> None:
    """mesh=True lets proxies in, evictable=True lets autoscalers move the Pod.

    The Cluster Autoscaler wants to be told so of a Pod with an emptyDir.
    """
    assert "inject" not in json.dumps(template(mesh=True)["metadata"])
    annotations = template(evictable=True)["metadata"]["annotations"]
    assert annotations["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "true"
    assert not [name for name in annotations if "karpenter" in name]


def test_a_users_own_mark_wins() -> None:
    """What a user writes about a mesh stands instead of our mark."""
    metadata = template(labels={"sidecar.istio.io/inject": "true"}, annotations={"linkerd.io/inject": "enabled"})
    assert metadata["metadata"]["labels"]["sidecar.istio.io/inject"] == "true"
    assert metadata["metadata"]["annotations"]["linkerd.io/inject"] == "enabled"


def test_the_containers_stand_in_one_order() -> None:
    """CONTAINER_ORDER is the one place that says who starts first."""
    assert [item["name"] for item in pod()["containers"]] == list(CONTAINER_ORDER)


def test_main() -> None:
    """What main runs, and where it reads and writes."""
    found = container("main", image="example.org/mine:1", image_pull_policy="Always")
    assert found == {
        "name": "main",
        "image": "example.org/mine:1",
        "imagePullPolicy": "Always",
        "command": ["python3", "/kubefunc/in/kubefunc.pyz", "main"],
        "env": [{"name": "HOME", "value": "/tmp"}, {"name": "PYTHONUNBUFFERED", "value": "1"}],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [
            {"name": "kubefunc-in", "mountPath": "/kubefunc/in", "readOnly": True},
            {"name": "kubefunc-out", "mountPath": "/kubefunc/out"},
            {"name": "kubefunc-tmp", "mountPath": "/tmp"},
        ],
    }


def test_the_courier() -> None:
    """The same image, policy and security as main, none of its variables, a small request and no limit."""
    assert container("courier", image="a:1", image_pull_policy="Always", env={"A": "1"}, cpu=4, gpu=1) == {
        "name": "courier",
        "image": "a:1",
        "imagePullPolicy": "Always",
        "command": ["python3", "-I", "-S", "-E", "/kubefunc/in/kubefunc.pyz", "courier"],
        "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [
            {"name": "kubefunc-in", "mountPath": "/kubefunc/in", "readOnly": True},
            {"name": "kubefunc-out", "mountPath": "/kubefunc/out"},
        ],
    }


@pytest.mark.parametrize(
    ("options", "resources"),
    [
        ({"cpu": 0.5}, {"requests": {"cpu": "500m"}}),
        ({"memory": "4Gi"}, {"requests": {"memory": "4Gi"}, "limits": {"memory": "4Gi"}}),
        ({"memory": ("1Gi", "8Gi")}, {"requests": {"memory": "1Gi"}, "limits": {"memory": "1Gi"}}),
        ({"gpu": 2}, {"limits": {"nvidia.com/gpu": "2"}}),
        (
            {"cpu": 2, "memory": "1Gi", "gpu": {"amd.com/gpu": 1}},
            {"requests": {"cpu": "2", "memory": "1Gi"}, "limits": {"memory": "1Gi", "amd.com/gpu": "1"}},
        ),
    ],
)
def test_resources_of_main(options: dict[str, Any], resources: dict[str, Any]) -> None:
    """cpu is a request alone, memory request and limit, a GPU a limit (its request follows)."""
    assert container("main", **options)["resources"] == resources


def test_a_gpu_brings_its_toleration() -> None:
    """Nodes with GPUs are often tainted with the resource's name."""
    assert {"key": "amd.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod(gpu={"amd.com/gpu": 1})[
        "tolerations"
    ]


def test_tolerations_of_the_user() -> None:
    """They stand beside ours, and instead of ours for the same taint: Kubernetes would take the shorter time."""
    patient = {
        "key": "node.kubernetes.io/unreachable",
        "operator": "Exists",
        "effect": "NoExecute",
        "tolerationSeconds": 900,
    }
    found = pod(tolerations=["dedicated=ml:NoSchedule", patient])["tolerations"]
    assert [(item["key"], item.get("tolerationSeconds")) for item in found] == [
        ("node.kubernetes.io/not-ready", 30),
        ("dedicated", None),
        ("node.kubernetes.io/unreachable", 900),
    ]
    assert pod(tolerations=[{"operator": "Exists"}])["tolerations"] == [{"operator": "Exists"}]


def test_where_the_pod_may_run_and_as_whom() -> None:
    """node_selector, priority_class, image_pull_secrets and service_account land where Kubernetes reads them."""
    found = pod(
        node_selector={"zone": "a"}, priority_class="high", image_pull_secrets=["one", "two"], service_account="sa"
    )
    assert found["nodeSelector"] == {"kubernetes.io/os": "linux", "zone": "a"}
    assert found["priorityClassName"] == "high"
    assert found["imagePullSecrets"] == [{"name": "one"}, {"name": "two"}]
    assert found["serviceAccountName"] == "sa"
    assert found["automountServiceAccountToken"] is True


def test_windows_nodes_can_be_excluded_by_the_user_alone() -> None:
    """node_selector may say another operating system; ours is a default."""
    assert pod(node_selector={"kubernetes.io/os": "other"})["nodeSelector"] == {"kubernetes.io/os": "other"}


# --- packages


def test_packages_go_to_a_volume_of_main_alone() -> None:
    """An emptyDir: the root file system may be read-only. The courier does not see it."""
    found = pod(packages=["numpy"])
    assert {"name": "volume-kubefunc-packages", "emptyDir": {}} in found["volumes"]
    mount = {"name": "volume-kubefunc-packages", "mountPath": "/kubefunc/packages"}
    assert mount in container("main", packages=["numpy"])["volumeMounts"]
    assert mount not in container("courier", packages=["numpy"])["volumeMounts"]
    assert not [each for each in pod()["volumes"] if "packages" in each["name"]]


def test_a_claim_may_keep_the_packages() -> None:
    """It takes the place of the emptyDir, given as a claim or by its name."""
    for cache in ("wheels", PersistentVolumeClaim("wheels")):
        found = pod(packages=["numpy"], package_cache=cache)
        claim = {"name": "volume-kubefunc-packages", "persistentVolumeClaim": {"claimName": "wheels"}}
        assert claim in found["volumes"]
    assert not [each for each in pod(package_cache="wheels")["volumes"] if "packages" in each["name"]]


def test_installing_does_not_count_for_the_timeout() -> None:
    """The Pod's deadline, which does, has the time of ``pull_allowance`` for it once more."""
    without, installing = (pod(timeout=100, packages=given)["activeDeadlineSeconds"] for given in (None, ["numpy"]))
    assert installing == without + 900


# --- the Pod's deadline


def test_without_timeout_the_pod_has_no_deadline() -> None:
    """Only the Job's deadline ends it then."""
    assert "activeDeadlineSeconds" not in pod()


def test_the_pods_deadline_has_room_for_all_that_may_happen() -> None:
    """Pull, every attempt with its end, the back-offs between, the waiting result, and a minute."""
    found = pod(timeout=100, retries=3, backoff=(1.0, 10.0, 50.0))["activeDeadlineSeconds"]
    assert found == 900 + 4 * (100 + 11) + (1 + 10 + 50) + 60 + 600 + 60


def test_an_upload_gets_time_of_its_own() -> None:
    """Without a payload in the Secrets, main waits for it as long as an image may take."""
    late = {name: data for name, data in FILES.items() if name != "payload"}
    assert pod(timeout=1, files=late)["activeDeadlineSeconds"] == pod(timeout=1)["activeDeadlineSeconds"] + 900


def test_the_pods_deadline_stays_within_what_kubernetes_counts() -> None:
    """Kubernetes keeps it in an int32."""
    long = pod(timeout=timedelta(days=20_000), deadline=timedelta(days=20_000), retries=100)
    assert long["activeDeadlineSeconds"] == 2**31 - 1


# --- variables


def test_variables_of_the_user() -> None:
    """Texts, and references to keys of a Secret or ConfigMap; each name once, the user's HOME before ours."""
    found = env(env={"HOME": "/data", "A": "1", "B": SecretKey("db", "pw"), "C": ConfigMapKey("site", "url")})
    assert found == {
        "HOME": "/data",
        "PYTHONUNBUFFERED": "1",
        "A": "1",
        "B": {"secretKeyRef": {"name": "db", "key": "pw"}},
        "C": {"configMapKeyRef": {"name": "site", "key": "url"}},
    }


@pytest.mark.parametrize("value", ["$(HOME)", "$$", "a$", "pa$$word", "$", "$(", "$x", "$$(HOME)", "plain"])
def test_values_arrive_as_they_were_written(value: str) -> None:
    """What the user wrote is literal: Kubernetes expands dollars in a plain value, and not in one from a Secret."""
    (variable,) = (item for item in container("main", env={"A": value})["env"] if item["name"] == "A")
    assert "value" not in variable
    assert env(env={"A": value})["A"] == value


def test_no_value_stands_in_the_job() -> None:
    """Whoever may read Jobs and Pods, but no Secrets, sees names alone; the values are no files in the Pod either."""
    of = spec(env={"TOKEN": "hunter2", "HOME": "/hunter2", "B": SecretKey("db", "pw")})
    assert "hunter2" not in json.dumps(build_job(of))
    made: Any = build_secrets(of)
    assert base64.b64decode(made[0]["data"]["env.TOKEN"]) == b"hunter2"
    volumes = {item["name"]: item for item in pod(env={"TOKEN": "hunter2"})["volumes"]}
    (source,) = volumes["kubefunc-in"]["projected"]["sources"]
    assert [item["key"] for item in source["secret"]["items"]] == list(FILES)
    assert all(item["key"] == item["path"] for item in source["secret"]["items"])


def test_a_second_attempt_reads_the_values_of_its_own_secret() -> None:
    """The first attempt's Secret goes away with its Job."""
    found = container("main", attempt=2, env={"A": "1"})["env"]
    assert found[-1]["valueFrom"]["secretKeyRef"]["name"] == f"{CALL}-r2"
    assert env(attempt=2, env={"A": "1"})["A"] == "1"


def test_values_too_many_for_one_secret_fill_others() -> None:
    """Each Secret keeps below its limit, each value stays whole, and all of payload and values arrive."""
    values = {f"V{number}": chr(97 + number) * 130_000 for number in range(16)}
    files = {**FILES, "payload": b"x" * SHARD_BYTES}
    made: Any = build_secrets(spec(files=files, env=values))
    for item in made:
        assert sum(len(base64.b64decode(text)) for text in item["data"].values()) <= SHARD_BYTES
    found = env(files=files, env=values)
    assert {name: found[name] for name in values} == values
    sources = pod(files=files, env=values)["volumes"][0]["projected"]["sources"]
    listed = {item["key"] for source in sources for item in source["secret"].get("items", [])}
    assert {"key", "payload.0"} <= listed
    assert not [key for key in listed if key.startswith("env.")]
    assert sources[0]["secret"]["name"] == CALL


@pytest.mark.parametrize("name", ["a.b-c_D", "x" * 249, "x" * 250, "x" * 1000])
def test_any_name_of_a_variable_has_a_key(name: str) -> None:
    """A Secret's key has at most 253 characters, the name of a variable any number."""
    made: Any = build_secrets(spec(env={name: "1", name + "y": "2"}))
    assert all(len(key) <= 253 for key in made[0]["data"])
    found = env(env={name: "1", name + "y": "2"})
    assert (found[name], found[name + "y"]) == ("1", "2")


# --- security


def breaches_of_restricted(spec: Any) -> list[str]:
    """What the *restricted* Pod Security Standard has against a Pod (of the fields that we can set)."""
    found = [name for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name)]
    context = spec.get("securityContext", {})
    if context.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        found.append("seccomp")
    if not context.get("runAsNonRoot"):
        found.append("runAsNonRoot")
    if context.get("runAsUser") == 0:
        found.append("runAsUser")
    for item in [*spec["containers"], *spec.get("initContainers", [])]:
        own = item.get("securityContext", {})
        if own.get("allowPrivilegeEscalation") is not False:
            found.append(f"{item['name']}: allowPrivilegeEscalation")
        if own.get("capabilities", {}).get("drop") != ["ALL"]:
            found.append(f"{item['name']}: capabilities")
    allowed = {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
    for volume in spec["volumes"]:
        found += [f"volume {kind}" for kind in volume if kind != "name" and kind not in allowed]
    return found


def test_run_as_user_meets_the_restricted_standard() -> None:
    """With a user id nothing is against the strictest standard; without one, root alone is."""
    assert breaches_of_restricted(pod(run_as_user=1000)) == []
    assert breaches_of_restricted(pod()) == ["runAsNonRoot"]


def test_root_may_be_asked_for() -> None:
    """run_as_user=0 overrules an image's own user; it claims nothing that it does not keep."""
    assert pod(run_as_user=0)["securityContext"] == {"seccompProfile": {"type": "RuntimeDefault"}, "runAsUser": 0}


def test_no_secret_stands_in_the_job() -> None:
    """Payload and key live in Secrets alone; whoever may read Jobs and Pods reads neither."""
    key = b"0123456789abcdef0123456789abcdef"
    text = json.dumps(build_job(spec(files={**FILES, "key": key, "payload": b"PAYLOAD-BYTES"})))
    assert "PAYLOAD-BYTES" not in text
    assert base64.b64encode(key).decode() not in text
    assert key.decode() not in text


# --- pod_template


def test_a_dict_is_merged_by_container_name() -> None:
    """Maps merge, scalars are replaced, containers and their lists merge item by item, and the rest stays."""
    custom = {
        "metadata": {"labels": {"queue": "a"}},
        "spec": {
            "terminationGracePeriodSeconds": 5,
            "nodeSelector": {"disk": "ssd"},
            "tolerations": [{"key": "spot", "operator": "Exists"}],
            "imagePullSecrets": [{"name": "b"}],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
            "containers": [
                {
                    "name": "main",
                    "env": [{"name": "A", "value": "template"}, {"name": "B", "value": "b"}],
                    "volumeMounts": [{"name": "data", "mountPath": "/data", "subPath": "x"}],
                    "resources": {"limits": {"example.org/fpga": 1}},
                    "securityContext": {"readOnlyRootFilesystem": True},
                }
            ],
        },
    }
    plain = template(env={"A": "option"}, image_pull_secrets=["a"], memory="1Gi")
    merged = template(env={"A": "option"}, image_pull_secrets=["a"], memory="1Gi", pod_template=custom)
    assert merged["metadata"]["labels"] == {**plain["metadata"]["labels"], "queue": "a"}
    assert merged["spec"]["terminationGracePeriodSeconds"] == 5
    assert merged["spec"]["nodeSelector"] == {"kubernetes.io/os": "linux", "disk": "ssd"}
    assert merged["spec"]["tolerations"] == [*plain["spec"]["tolerations"], {"key": "spot", "operator": "Exists"}]
    assert merged["spec"]["imagePullSecrets"] == [{"name": "a"}, {"name": "b"}]
    assert merged["spec"]["volumes"][:-1] == plain["spec"]["volumes"]
    main, before = merged["spec"]["containers"][0], plain["spec"]["containers"][0]
    assert {item["name"]: item["value"] for item in main["env"]} == {
        "HOME": "/tmp",
        "PYTHONUNBUFFERED": "1",
        "A": "template",
        "B": "b",
        "KUBEFUNC_STOP_GRACE": "5",  # the supervisor must know it
    }
    assert main["volumeMounts"] == [
        *before["volumeMounts"],
        {"name": "data", "mountPath": "/data", "subPath": "x"},
    ]
    assert main["resources"]["limits"] == {"memory": "1Gi", "example.org/fpga": 1}
    assert main["securityContext"] == {**before["securityContext"], "readOnlyRootFilesystem": True}
    assert main["command"] == before["command"]


def test_a_bare_spec_will_do() -> None:
    """Fields of a Pod's spec may stand at the top."""
    assert pod(pod_template={"runtimeClassName": "gvisor"})["runtimeClassName"] == "gvisor"


def test_none_takes_a_field_away() -> None:
    """On OpenShift, for one, seccompProfile may have to go."""
    assert pod(pod_template={"securityContext": {"seccompProfile": None}})["securityContext"] == {}


def test_an_env_entry_is_replaced_whole() -> None:
    """A value and a valueFrom in one entry would be refused by Kubernetes."""
    reference = {"secretKeyRef": {"name": "db", "key": "pw"}}
    custom = {"containers": [{"name": "main", "env": [{"name": "A", "valueFrom": reference}]}]}
    assert env(env={"A": "text"}, pod_template=custom)["A"] == reference


def test_the_tmp_volume_can_be_another() -> None:
    """A volume of another kind replaces ours; one of the same kind is merged."""
    claim = {"name": "kubefunc-tmp", "persistentVolumeClaim": {"claimName": "scratch"}}
    assert pod(pod_template={"volumes": [claim]})["volumes"][-1] == claim
    limited = {"name": "kubefunc-tmp", "emptyDir": {"sizeLimit": "1Gi"}}
    assert pod(pod_template={"volumes": [limited]})["volumes"][-1] == limited


def test_containers_can_be_added() -> None:
    """Sidecars and init containers stand behind ours."""
    custom = {
        "containers": [{"name": "proxy", "image": "proxy:1"}],
        "initContainers": [{"name": "fetch", "image": "fetch:1"}],
    }
    found = pod(pod_template=custom)
    assert [item["name"] for item in found["containers"]] == [*CONTAINER_ORDER, "proxy"]
    assert found["initContainers"] == [{"name": "fetch", "image": "fetch:1"}]


def test_the_courier_follows_mains_image_and_security() -> None:
    """Both containers share files, so a changed image, pull policy or user of main holds for the courier too."""
    change = {"image": "b:2", "imagePullPolicy": "Never", "securityContext": {"runAsUser": 7}}
    custom = {"containers": [{"name": "main", **change}]}
    found = container("courier", image="a:1", image_pull_policy="Always", pod_template=custom)
    assert (found["image"], found["imagePullPolicy"]) == ("b:2", "Never")
    assert found["securityContext"]["runAsUser"] == 7
    assert found["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_a_courier_of_ones_own_is_left_alone() -> None:
    """What the template says of the courier itself stays."""
    custom = {
        "containers": [
            {"name": "main", "image": "b:2"},
            {"name": "courier", "image": "c:3", "resources": {"limits": {"memory": "128Mi"}}},
        ]
    }
    found = container("courier", image="a:1", pod_template=custom)
    assert found["image"] == "c:3"
    assert found["resources"] == {
        "requests": {"cpu": "10m", "memory": "64Mi"},
        "limits": {"memory": "128Mi"},
    }


@pytest.mark.parametrize(
    ("limits", "guaranteed"),
    [
        ({"cpu": 2}, True),
        ({"cpu": "2000m"}, True),
        ({"cpu": 3}, False),
        ({"cpu": 2, "memory": "1024Mi"}, True),
        ({"cpu": 2, "memory": "2Gi"}, False),
        ({}, False),
    ],
)
def test_a_guaranteed_pod_stays_guaranteed(limits: dict[str, Any], guaranteed: bool) -> None:
    """Where main's limits equal its requests, the courier gets limits too; else it has none."""
    custom = {"containers": [{"name": "main", "resources": {"limits": limits}}]}
    found = container("courier", cpu=2, memory="1Gi", pod_template=custom)["resources"]
    if guaranteed:
        assert found == {
            "requests": {"cpu": "250m", "memory": "64Mi"},
            "limits": {"cpu": "250m", "memory": "64Mi"},
        }
    else:
        assert found == {"requests": {"cpu": "10m", "memory": "64Mi"}}


def test_limits_alone_make_requests() -> None:
    """Kubernetes takes a limit as the request that is not set."""
    custom = {"containers": [{"name": "main", "resources": {"limits": {"cpu": 1, "memory": "1Gi"}}}]}
    assert "limits" in container("courier", pod_template=custom)["resources"]


def test_a_function_gets_the_template_and_returns_it() -> None:
    """It may change whatever it likes in the copy that it is given."""

    def custom(given: dict[str, Any]) -> dict[str, Any]:
        given["spec"]["hostUsers"] = False
        given["spec"]["containers"][0]["image"] = "b:2"
        return given

    of = spec(pod_template=custom)
    made: Any = build_job(of)
    assert made["spec"]["template"]["spec"]["hostUsers"] is False
    assert [item["image"] for item in made["spec"]["template"]["spec"]["containers"]] == ["b:2", "b:2"]
    assert build_job(of) == made, "the function is given a fresh copy each time"


def without(path: str) -> Callable[[Any], Any]:
    """A pod_template function that takes something away; numbers in the path are indexes."""

    def custom(given: Any) -> Any:
        *parents, last = [int(step) if step.isdigit() else step for step in path.split("|")]
        target = given
        for step in parents:
            target = target[step]
        del target[last]
        return given

    return custom


@pytest.mark.parametrize(
    ("custom", "says"),
    [
        (lambda given: None, "the function returned NoneType; it must return the Pod template"),
        (lambda given: {}, "has no 'spec'"),
        (lambda given: {**given, "spec": {**given["spec"], "x": {1}}}, "result['spec']['x']: set cannot be written"),
        (without("spec|containers|0"), "the container 'main' is missing"),
        (without("spec|containers|1"), "the container 'courier' is missing"),
        (without("spec|containers|0|command"), "the container 'main' must run 'python3 /kubefunc/in/kubefunc.pyz"),
        (without("spec|containers|0|volumeMounts|0"), "'main' needs the volume kubefunc-in at /kubefunc/in"),
        (without("spec|containers|1|volumeMounts|1"), "'courier' needs the volume kubefunc-out at /kubefunc/out"),
        (without("spec|volumes|1"), "needs the volume kubefunc-out"),
        (without("spec|restartPolicy"), "restartPolicy must stay 'Never'"),
        (without("metadata|labels|kubefunc/call"), "the label kubefunc/call=train-x7k2p9qa must stay"),
        (without("metadata"), "the label app.kubernetes.io/managed-by=kubefunc must stay"),
        ({"restartPolicy": "OnFailure"}, "`retries` is the option for that"),
        ({"metadata": {"labels": {"kubefunc/session": "x"}}}, "the label kubefunc/session=s3ss10n must stay"),
        ({"containers": [{"image": "x"}]}, "pod_template.spec.containers[0] has no 'name'"),
        ({"containers": {"name": "x"}}, "pod_template.spec.containers: a list of dicts is needed"),
        ({"containers": [{"name": "main", "env": ["A=1"]}]}, "containers[main].env: a list of dicts"),
        ({"containers": [{"name": "main", "command": ["sh"]}]}, "another interpreter in place of python3 is fine"),
        (
            {"containers": [{"name": "main", "resources": {"limits": {"cpu": "2x", "memory": "1Gi"}}}]},
            "resources of 'main': 'x' is not a unit",
        ),
    ],
)
def test_a_template_that_breaks_the_call_is_refused(custom: Any, says: str) -> None:
    """What the result's way back needs must stay; the message says what is missing."""
    with pytest.raises(ConfigurationError) as caught:
        build_job(spec(pod_template=custom))
    assert says in str(caught.value)
    assert str(caught.value).startswith("pod_template")


def test_a_functions_own_error_is_its_own() -> None:
    """An error in a user's function is not dressed up as ours."""

    def custom(given: Any) -> Any:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        build_job(spec(pod_template=custom))


def test_another_interpreter_is_fine() -> None:
    """An image may keep its Python elsewhere."""
    conda = ["/opt/conda/bin/python", "/kubefunc/in/kubefunc.pyz", "main"]
    custom = {"containers": [{"name": "main", "command": conda}]}
    assert container("main", pod_template=custom)["command"] == conda


def test_making_a_job_changes_nothing_of_what_it_is_made_of() -> None:
    """Options serve many calls: neither they nor module constants pick anything up."""
    custom = {"containers": [{"name": "main", "resources": {"limits": {"cpu": 1}}}], "tolerations": [{"key": "a"}]}
    options = Options.of(cpu=1, memory="1Gi", pod_template=custom)
    of = replace(spec(), options=options)
    before = json.dumps(options.pod_template)
    first = json.dumps(build_job(of))
    assert json.dumps(build_job(of)) == first
    assert json.dumps(options.pod_template) == before
    assert container("courier")["resources"] == {"requests": {"cpu": "10m", "memory": "64Mi"}}


# --- volumes


def test_volumes_are_mounted_where_the_function_and_init_containers_run() -> None:
    """Not in the courier, which only hands out the result."""
    prepares = {"initContainers": [{"name": "prepare", "image": "busybox"}]}
    made = pod(volumes={"/data": PersistentVolumeClaim("corpus", read_only=True)}, pod_template=prepares)
    mount = {"name": "volume-data", "mountPath": "/data", "readOnly": True}
    containers = [*made["containers"], *made["initContainers"]]
    seen = {each["name"]: mount in each.get("volumeMounts", []) for each in containers}
    assert seen == {"main": True, "courier": False, "prepare": True}
    claim = {"claimName": "corpus", "readOnly": True}
    assert {"name": "volume-data", "persistentVolumeClaim": claim} in made["volumes"]


# -- ports and Services


def test_ports_stand_in_main_alone() -> None:
    """By name and number; without service= nothing else changes."""
    assert container("main", ports={"http": 8080})["ports"] == [{"name": "http", "containerPort": 8080}]
    assert "ports" not in container("courier", ports={"http": 8080})
    assert "readinessProbe" not in container("main", ports={"http": 8080})
    assert build_service(spec(ports={"http": 8080}), "uid-1") is None


def test_a_service_leads_to_the_pods_of_all_jobs_of_its_call() -> None:
    """It goes with the Job that owns it, and sends nothing to Pods that do not listen, or are about to end."""
    serving = spec(ports={"http": 8080, "admin": 9}, service="scores", attempt=2)
    made: Any = build_service(serving, "uid-1")
    assert made["metadata"]["name"] == "scores"
    assert made["metadata"]["ownerReferences"] == [
        {"apiVersion": "batch/v1", "kind": "Job", "name": f"{CALL}-r2", "uid": "uid-1"}
    ]
    assert made["spec"]["selector"] == {"kubefunc/call": CALL}
    assert made["spec"]["ports"] == [
        {"name": "http", "port": 8080, "targetPort": "http"},
        {"name": "admin", "port": 9, "targetPort": "admin"},
    ]
    main = container("main", ports={"http": 8080, "admin": 9}, service="scores")
    assert main["readinessProbe"]["tcpSocket"] == {"port": "http"}
    assert main["lifecycle"] == {"preStop": {"sleep": {"seconds": 2}}}


def test_who_attaches_reads_ports_and_service_from_the_job() -> None:
    """Whatever set them."""
    job: Any = build_job(spec(ports={"http": 8080}, service="scores"))
    assert reach_of("team-a", job) == Reach("team-a", {"http": 8080}, "scores")
    assert reach_of("team-a", build_job(spec())) == Reach("team-a", {}, None)


def test_a_service_without_ports_is_refused() -> None:
    """Before anything is sent."""
    with pytest.raises(ConfigurationError, match=r"service='scores' needs ports="):
        validate(spec(service="scores"))
