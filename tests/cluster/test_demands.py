"""Namespaces whose quota or LimitRange demands something of every container."""

from __future__ import annotations

import sys

import pytest

from kubefunc import errors
from tests.cluster import failing, mapped
from tests.cluster.spaces import Space
from tests.cluster.waiting import eventually, nothing_left

WAIT = 60
QUOTA = {
    "apiVersion": "v1",
    "kind": "ResourceQuota",
    "metadata": {"name": "all-must-say"},
    "spec": {"hard": {"requests.cpu": "1", "limits.cpu": "1500m", "requests.memory": "2Gi", "limits.memory": "2Gi"}},
}
BOUNDS = {
    "apiVersion": "v1",
    "kind": "LimitRange",
    "metadata": {"name": "bounds"},
    "spec": {
        "limits": [
            {
                "type": "Container",
                "min": {"cpu": "50m", "memory": "128Mi"},
                "max": {"cpu": "600m", "memory": "1Gi"},
                "maxLimitRequestRatio": {"cpu": "2"},
            }
        ]
    },
}


def enforce(space: Space, rule: dict[str, object]) -> None:
    """Apply a quota or a LimitRange; a quota counts once the cluster has written its status."""
    space.admin.apply(rule)
    if rule is QUOTA:
        eventually(lambda: bool(space.admin.get("resourcequota", "all-must-say").get("status")), what="its status")


def prepared(command: str) -> dict[str, object]:
    """A template with a container before the function."""
    image = f"python:{sys.version_info.major}.{sys.version_info.minor}-slim"
    return {"spec": {"initContainers": [{"name": "prepare", "image": image, "command": ["python3", "-c", command]}]}}


def test_a_quota_on_limits_refuses_nobody(calling: Space, capsys: pytest.CaptureFixture[str]) -> None:
    """Calls, maps and init containers run, without an option; a line says once which limits the function has."""
    enforce(calling, QUOTA)
    assert failing.double.remote(4).result(WAIT) == 8
    assert mapped.double.options(cpu_limit=0.25, memory="128Mi").map(range(4)).result(WAIT) == [0, 2, 4, 6]
    small = failing.double.options(cpu=0.25, memory="128Mi", pod_template=prepared("print('ready')"))
    assert small.remote(5).result(WAIT) == 10
    said = [line for line in capsys.readouterr().err.splitlines() if "demands limits" in line]
    assert len(said) == 1
    assert "cpu_limit= and memory=" in said[0]
    nothing_left(calling, 60)


def test_the_advice_of_a_quota_that_is_too_small_helps(calling: Space) -> None:
    """The limits that are taken where none are set may be too large: the error names the options that set them."""
    hard = {"limits.cpu": "600m", "limits.memory": "512Mi"}
    calling.admin.apply({**QUOTA, "spec": {"hard": hard}})
    eventually(lambda: bool(calling.admin.get("resourcequota", "all-must-say").get("status")), what="its status")
    with pytest.raises(errors.QuotaExceededError) as raised:
        failing.double.remote(4).result(WAIT)
    assert raised.value.diagnosis is not None
    advice = raised.value.diagnosis.advice
    assert "cpu_limit=" in advice
    assert "memory=" in advice
    assert "250m CPU, 64Mi memory" in advice
    assert failing.double.options(cpu_limit=0.35, memory="448Mi").remote(4).result(WAIT) == 8
    nothing_left(calling, 60)


def test_bounds_for_containers_are_met_by_those_beside_the_function(calling: Space) -> None:
    """The courier asks for less than the minimum: it gets that. What the function asks for is told, with the option."""
    enforce(calling, BOUNDS)
    assert failing.double.options(cpu=0.5, memory="256Mi").remote(4).result(WAIT) == 8
    with pytest.raises(errors.AdmissionError, match="memory") as raised:
        failing.double.options(cpu=0.5, memory="100Mi").remote(4).result(WAIT)
    assert raised.value.diagnosis is not None
    assert "minimum memory usage per Container is 128Mi" in str(raised.value)
    assert "Set memory= to a value that the cluster's message allows." in raised.value.diagnosis.advice
    nothing_left(calling, 60)
