"""The Job of a map: how many Pods, and which of their ends concern the Job."""

from __future__ import annotations

import base64
import dataclasses
from typing import Any

import pytest

from kubefunc.backends.kubernetes.objects.job import build_job
from kubefunc.backends.kubernetes.objects.job_spec import Indexed, JobSpec
from kubefunc.backends.kubernetes.objects.pod import pod_deadline
from kubefunc.backends.kubernetes.objects.secrets import build_secrets
from kubefunc.backends.kubernetes.objects.service import build_gang_service
from kubefunc.backends.kubernetes.objects.shards import SHARD_BYTES
from kubefunc.options import Options

CALL = "train-x7k2p9qa"


def spec(
    *,
    chunks: int = 4,
    longest: int = 250,
    parallelism: int = 500,
    files: dict[str, bytes] | None = None,
    **changes: Any,
) -> JobSpec:
    """A map's spec; keywords are options."""
    return JobSpec(
        call=CALL,
        session="s3ss10n",
        function="project.train",
        namespace="team-a",
        options=Options.of(**changes),
        files=files or {"kubefunc.pyz": b"z", "spec.json": b"{}", "key": b"k", "payload": b"p", "items": b"i"},
        indexed=Indexed(items=1000, chunks=chunks, longest=longest, parallelism=parallelism),
    )


def fields(**changes: Any) -> Any:
    """The Job's own fields."""
    made: Any = build_job(spec(**changes))
    return {name: value for name, value in made["spec"].items() if name != "template"}


def main_env(**changes: Any) -> dict[str, Any]:
    """The variables of main."""
    made: Any = build_job(spec(**changes))
    (main,) = [item for item in made["spec"]["template"]["spec"]["containers"] if item["name"] == "main"]
    return {item["name"]: item.get("value", item.get("valueFrom")) for item in main["env"]}


POLICY = {
    "rules": [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "FailIndex", "onExitCodes": {"containerName": "main", "operator": "NotIn", "values": [0, 143]}},
        {"action": "Ignore", "onExitCodes": {"containerName": "courier", "operator": "In", "values": [65]}},
        {
            "action": "FailIndex",
            "onExitCodes": {"containerName": "courier", "operator": "NotIn", "values": [0, 65, 137, 143]},
        },
    ]
}


def test_the_job_of_a_map() -> None:
    """An index is a chunk; each has its own limits, and no number of failed ones ends the others."""
    assert fields() == {
        "completionMode": "Indexed",
        "completions": 4,
        "parallelism": 4,
        "backoffLimitPerIndex": 5,
        "maxFailedIndexes": 4,
        "podFailurePolicy": POLICY,
        "activeDeadlineSeconds": 7 * 24 * 3600,
        "ttlSecondsAfterFinished": 24 * 3600,
    }


def test_a_person_sees_how_many_items_there_are() -> None:
    """On the Job alone: its Pods have a part of them each."""
    made: Any = build_job(spec())
    assert made["metadata"]["annotations"]["kubefunc/items"] == "1000"
    assert "kubefunc/items" not in made["spec"]["template"]["metadata"]["annotations"]


def test_an_index_has_a_limit_of_its_own() -> None:
    """A chunk that fails ends no other one, and a Pod that replaces another knows it."""
    made = fields()
    common = {"completionMode", "completions", "parallelism", "activeDeadlineSeconds", "ttlSecondsAfterFinished"}
    expected = {"backoffLimitPerIndex": 5, "maxFailedIndexes": 4, "podFailurePolicy": POLICY}
    assert {name: value for name, value in made.items() if name not in common} == expected
    assert "KUBEFUNC_FAILURES" in main_env()


def test_never_more_pods_at_once_than_chunks_or_allowed() -> None:
    """Parallelism is the smaller of both."""
    assert fields(chunks=100, parallelism=7)["parallelism"] == 7
    assert fields(chunks=3, parallelism=7)["parallelism"] == 3


def test_a_job_of_very_many_chunks() -> None:
    """Beyond 100,000 the API allows 10,000 failed indexes and no more."""
    assert fields(chunks=100_001)["maxFailedIndexes"] == 10_000


def test_a_pod_learns_that_it_is_a_replacement() -> None:
    """By the annotations that the Job controller gives it."""
    env = main_env()
    path = "metadata.annotations['batch.kubernetes.io/job-index-{}failure-count']"
    assert env["KUBEFUNC_FAILURES"] == {"fieldRef": {"fieldPath": path.format("")}}
    assert env["KUBEFUNC_IGNORED_FAILURES"] == {"fieldRef": {"fieldPath": path.format("ignored-")}}


def test_the_pods_deadline_has_room_for_the_whole_chunk() -> None:
    """``timeout`` is each item's: the longest chunk may take it as often as it has items."""
    one, many = pod_deadline(spec(longest=1, timeout=100)), pod_deadline(spec(longest=50, timeout=100))
    assert one is not None
    assert many is not None
    assert many - one == 49 * 111
    assert pod_deadline(spec()) is None


@pytest.mark.parametrize("payload", [1, SHARD_BYTES - 10, SHARD_BYTES, 3 * SHARD_BYTES])
@pytest.mark.parametrize("items", [0, 5, 900 * 1024])
def test_items_and_payload_share_secrets(payload: int, items: int) -> None:
    """Each Secret is filled before the next is begun; joined by number they are what they were."""
    files = {"key": b"k", "payload": b"p" * payload, "items": b"i" * items}
    made: Any = build_secrets(spec(files=files))
    found: dict[str, bytes] = {}
    for secret in made:
        sizes = [len(base64.b64decode(text)) for text in secret["data"].values()]
        assert sum(sizes) <= SHARD_BYTES
        for name, text in secret["data"].items():
            assert name not in found
            found[name] = base64.b64decode(text)
    for name in ("payload", "items"):
        parts = sorted((key for key in found if key.startswith(f"{name}.")), key=lambda key: int(key.split(".")[1]))
        joined = found[name] if name in found else b"".join(found[part] for part in parts)
        assert joined == files[name]
    assert len(made) == max(1, -(-(payload + items + 1) // SHARD_BYTES))


def test_the_pods_of_a_gang_have_names_in_dns() -> None:
    """By a headless Service with the Job's name, which the Job owns; no Pod alone takes another's place."""
    of = dataclasses.replace(spec(chunks=3, longest=1, gang=3), attempt=2)
    service: Any = build_gang_service(of, "uid-1")
    job: Any = build_job(of)
    name = job["metadata"]["name"]
    assert service["metadata"]["name"] == job["spec"]["template"]["spec"]["subdomain"] == name
    assert service["metadata"]["ownerReferences"][0]["uid"] == "uid-1"
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"]
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": name}
