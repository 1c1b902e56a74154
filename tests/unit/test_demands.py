"""What a namespace demands of each container, in the words of Kubernetes 1.34, and what becomes of a Pod then."""

from __future__ import annotations

from typing import Any

import pytest

from kubefunc.backends.kubernetes.objects.demands import NOTHING, Demands, demanded, grown, meeting
from kubefunc.backends.kubernetes.objects.job import build_job
from kubefunc.errors import ConfigurationError
from kubefunc.options import Options
from tests.unit.test_manifest import spec

QUOTA = (
    'Error creating: pods "f-x" is forbidden: failed quota: q: must specify limits.cpu for: courier,main; '
    "limits.memory for: courier,main; requests.cpu for: main; requests.memory for: main"
)
BOUNDS = (
    'Error creating: pods "f-x" is forbidden: [minimum cpu usage per Container is 100m, but request is 10m, '
    "minimum memory usage per Container is 128Mi, but request is 64Mi, maximum cpu usage per Container is 2, but limit "
    "is 4, cpu max limit to request ratio per Container is 2, but provided ratio is 200.000000]"
)
EVERYTHING = frozenset({"limits.cpu", "limits.memory", "requests.cpu", "requests.memory"})


def resources(demands: Demands, **options: Any) -> dict[str, Any]:
    """Those of each container of a Pod that meets the demands, by its name."""
    pod = build_job(spec(demands=demands, **options))["spec"]["template"]["spec"]  # type: ignore[index]
    return {each["name"]: each["resources"] for each in [*pod["containers"], *pod.get("initContainers", [])]}


def test_what_refusals_demand() -> None:
    """A quota names what is to be stated, a LimitRange its bounds; other words demand nothing."""
    assert demanded(QUOTA) == Demands(EVERYTHING)
    assert demanded("failed quota: q: must specify cpu for: main") == Demands(frozenset({"requests.cpu"}))
    assert demanded(BOUNDS) == Demands(
        frozenset(), {"cpu": "100m", "memory": "128Mi"}, {"cpu": "2"}, frozenset({"cpu"})
    )
    unstated = "maximum memory usage per Pod is 2Gi.  No limit is specified"
    assert demanded(unstated) == Demands(frozenset({"limits.memory"}))
    assert demanded("exceeded quota: q, requested: limits.cpu=1, used: limits.cpu=0, limited: limits.cpu=0") == NOTHING


def test_each_container_states_what_a_quota_demands() -> None:
    """The courier, init containers, and ``main``: of what a person has asked for, nothing changes."""
    prepare = {"name": "prepare", "image": "i", "resources": {"requests": {"memory": "2Gi"}}}
    found = resources(demanded(QUOTA), cpu=0.5, pod_template={"initContainers": [prepare]})
    assert found["main"] == {
        "requests": {"cpu": "500m", "memory": "1Gi"},
        "limits": {"cpu": "500m", "memory": "1Gi"},
    }
    assert found["courier"] == {
        "requests": {"cpu": "10m", "memory": "64Mi"},
        "limits": {"cpu": "250m", "memory": "64Mi"},
    }
    assert found["prepare"]["limits"] == {"cpu": "250m", "memory": "2Gi"}
    unasked = resources(demanded(QUOTA))["main"]
    assert unasked == {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}}
    set_here = resources(demanded(QUOTA), cpu=0.5, cpu_limit=2, memory="4Gi")["main"]
    assert set_here == {"requests": {"cpu": "500m", "memory": "4Gi"}, "limits": {"cpu": "2", "memory": "4Gi"}}


def test_containers_beside_main_are_kept_within_the_bounds() -> None:
    """What ``main`` asks for is its author's to change."""
    found = resources(demanded(BOUNDS), cpu=1)
    assert found["courier"] == {
        "requests": {"cpu": "250m", "memory": "128Mi"},
        "limits": {"cpu": "250m"},
    }
    assert found["main"] == {"requests": {"cpu": "1"}, "limits": {"cpu": "1"}}


def test_what_is_met_already_is_not_tried_again() -> None:
    """The same words once more demand nothing new; narrower bounds do, and bounds only ever get narrower."""
    met = demanded(QUOTA) | demanded(BOUNDS)
    assert grown(met, QUOTA) is None
    assert grown(met, BOUNDS.replace("100m", "50m")) is None
    narrower = grown(met, BOUNDS.replace("100m", "500m"))
    assert narrower is not None
    assert narrower.least == {"cpu": "500m", "memory": "128Mi"}


def test_without_demands_nothing_is_added() -> None:
    """The very same template comes back."""
    template: dict[str, object] = {"spec": {"containers": [{"name": "main"}]}}
    assert meeting(template, NOTHING) is template


def test_cpu_limit() -> None:
    """It is a limit beside the request; more cannot be requested than may be used."""
    assert resources(NOTHING, cpu=0.5, cpu_limit="2")["main"] == {"requests": {"cpu": "500m"}, "limits": {"cpu": "2"}}
    guaranteed = resources(NOTHING, cpu=1, cpu_limit=1, memory="1Gi")
    assert guaranteed["courier"]["limits"] == guaranteed["courier"]["requests"]
    with pytest.raises(ConfigurationError, match="cpu='2' is more than cpu_limit='1'"):
        Options(cpu=2, cpu_limit=1)
