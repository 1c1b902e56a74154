"""Further fields of the Job and its Pod, which options set in Kubernetes' own words."""

from __future__ import annotations

from typing import Any

import pytest

from kubefunc import errors
from kubefunc.backends.kubernetes.objects.job import validate
from kubefunc.options import Options, parse_changes
from tests.unit.test_manifest import CALL, build_job, container, pod, spec, template

SPREAD = {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule"}


def job(**changes: Any) -> Any:
    """The Job of a call with these options."""
    return build_job(spec(**changes))


def merged(name: str, *layers: object) -> Any:
    """The option after all of these layers."""
    return getattr(Options.from_layers(*(parse_changes("layer", **{name: each}) for each in layers)), name)


# --- the Pod


def test_each_option_stands_where_kubernetes_has_it() -> None:
    """Nothing of it is there without the option."""
    made = pod(
        runtime_class="gvisor",
        affinity={"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {}}},
        host_aliases={"10.0.0.7": ["db", "db.internal"], "10.0.0.8": "cache"},
    )
    assert made["runtimeClassName"] == "gvisor"
    assert list(made["affinity"]) == ["nodeAffinity"]
    assert made["hostAliases"][1] == {"ip": "10.0.0.8", "hostnames": ["cache"]}
    plain = pod()
    assert plain.keys().isdisjoint({"runtimeClassName", "affinity", "hostAliases", "initContainers"})


def test_a_spread_without_a_selector_counts_the_pods_of_its_call() -> None:
    """One with a selector keeps it."""
    own = {**SPREAD, "labelSelector": {"matchLabels": {"app": "x"}}}
    default, kept = pod(topology_spread=[SPREAD, own])["topologySpreadConstraints"]
    assert default["labelSelector"] == {"matchLabels": {"kubefunc/call": CALL}}
    assert kept["labelSelector"] == {"matchLabels": {"app": "x"}}


def test_sidecars_are_native_ones() -> None:
    """They start before init containers, and a restart policy keeps them from holding the Job."""
    proxy, prepare = pod(
        init_containers=[{"name": "prepare", "command": ["true"]}],
        sidecars=[{"name": "proxy", "image": "envoy:1"}],
        image="python:3.11-slim",
    )["initContainers"]
    assert (proxy["name"], proxy["image"], proxy["restartPolicy"]) == ("proxy", "envoy:1", "Always")
    assert (prepare["image"], prepare.get("restartPolicy")) == ("python:3.11-slim", None)
    assert prepare["securityContext"]["allowPrivilegeEscalation"] is False


def test_a_security_context_is_split_as_kubernetes_splits_it() -> None:
    """Both containers get the same: they read and write the same files. What kubefunc sets stays beside it."""
    wanted = {"fsGroup": 1000, "runAsUser": 1000, "readOnlyRootFilesystem": True}
    made = pod(security_context=wanted)["securityContext"]
    assert made == {"seccompProfile": {"type": "RuntimeDefault"}, "fsGroup": 1000, "runAsUser": 1000}
    for name in ("main", "courier"):
        context = container(name, security_context=wanted)["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert "fsGroup" not in context


def test_a_pod_template_is_merged_over_these() -> None:
    """It has the last word, as over every other option."""
    assert pod(runtime_class="gvisor", pod_template={"runtimeClassName": "kata"})["runtimeClassName"] == "kata"


def test_a_queue_is_a_label_of_job_and_pod() -> None:
    """Kueue reads it from the Job."""
    assert job(queue="team-a")["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"
    assert template(queue="team-a")["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"


# --- layers


def test_mappings_and_containers_merge_by_key() -> None:
    """None removes what earlier layers set."""
    assert merged("security_context", {"fsGroup": 1}, {"runAsGroup": 2}) == {"fsGroup": 1, "runAsGroup": 2}
    both = merged("sidecars", [{"name": "a", "image": "1"}, {"name": "b"}], [{"name": "a", "image": "2"}])
    assert [(each["name"], each.get("image")) for each in both] == [("a", "2"), ("b", None)]
    assert merged("sidecars", [{"name": "a"}], None) == ()
    assert merged("host_aliases", {"10.0.0.1": "a"}, {"10.0.0.2": "b"}) == {"10.0.0.1": ("a",), "10.0.0.2": ("b",)}


# --- what is refused, before anything is sent


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"affinity": {"node_affinity": {}}}, r"affinity\['node_affinity'\].*did you mean 'nodeAffinity'"),
        ({"affinity": {"nodeSelector": {}}}, r"affinity\['nodeSelector'\].*nodeAffinity, podAffinity"),
        ({"affinity": "zone-a"}, r"affinity='zone-a'.*write a dict"),
        ({"topology_spread": [{"maxSkew": 1}]}, r"topology_spread\[0\].*topologyKey is missing"),
        ({"topology_spread": SPREAD}, r"topology_spread.*write a list of dicts"),
        ({"sidecars": [{"image": "envoy:1"}]}, r"sidecars\[0\].*needs a name"),
        ({"init_containers": [{"name": "main"}]}, r"init_containers\[0\]\['name'\]='main'.*kubefunc's own container"),
        ({"sidecars": [{"name": "a"}, {"name": "a"}]}, r"sidecars\[1\]\['name'\]='a'.*two containers"),
        ({"host_aliases": {"db": ["10.0.0.7"]}}, r"host_aliases\['db'\].*no IP address"),
        ({"host_aliases": {"10.0.0.7": [7]}}, r"host_aliases\['10.0.0.7'\].*list of host names"),
        ({"security_context": {"fsgroup": 1}}, r"security_context\['fsgroup'\].*no such field"),
        ({"queue": "Team A"}, r"queue='Team A'.*lower-case"),
        ({"backoff_limit": -1}, r"backoff_limit=-1.*from 0 to 1000"),
        ({"backoff_limit": 2, "max_disruptions": 0}, r"backoff_limit=2.*max_disruptions=0.*leave one of the two out"),
        ({"queue": "a", "labels": {"kueue.x-k8s.io/queue-name": "b"}}, r"queue='a'.*name two queues"),
        ({"run_as_user": 1, "security_context": {"runAsUser": 2}}, r"run_as_user=1.*name two users"),
        ({"job_template": {"suspend": True}}, r"job_template\['suspend'\].*put its fields under 'spec'"),
        ({"job_template": {"spec": []}}, r"job_template\['spec'\].*must be a dict"),
        ({"job_template": {"spec": {"backoff_limit": 1}}}, r"did you mean 'backoffLimit'"),
    ],
)
def test_a_wrong_value_is_refused(options: dict[str, Any], told: str) -> None:
    """Naming the option, the place in its value, and what to write instead."""
    with pytest.raises(errors.ConfigurationError, match=told):
        Options.of(**options)


# --- the Job


def test_backoff_limit_is_the_job_controllers_own() -> None:
    """By default as many Pods are replaced as ``max_disruptions`` says; drained Pods are never counted there."""
    assert job(max_disruptions=7)["spec"]["backoffLimit"] == 7
    limited = job(backoff_limit=1)["spec"]
    assert limited["backoffLimit"] == 1
    assert limited["podFailurePolicy"]["rules"][0]["action"] == "Ignore"


def test_a_job_template_is_merged_into_the_job() -> None:
    """A dict, or a function that gets a copy."""
    made = job(job_template={"metadata": {"annotations": {"team": "a"}}, "spec": {"suspend": True}})
    assert made["metadata"]["annotations"]["team"] == "a"
    assert made["metadata"]["labels"]["kubefunc/call"] == CALL
    assert made["spec"]["suspend"] is True

    def suspended(whole: dict[str, Any]) -> dict[str, Any]:
        whole["spec"]["suspend"] = True
        return whole

    assert job(job_template=suspended)["spec"]["suspend"] is True


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"spec": {"template": {"spec": {"hostNetwork": True}}}}, r"spec\.template must stay: pod_template="),
        ({"spec": {"backoffLimit": 99}}, r"spec\.backoffLimit must stay: backoff_limit="),
        ({"spec": {"ttlSecondsAfterFinished": 1}}, r"spec\.ttlSecondsAfterFinished must stay: ttl="),
        ({"spec": {"managedBy": "example.org/other"}}, r"spec\.managedBy must stay"),
        ({"metadata": {"name": "other"}}, r"metadata\.name must stay"),
        ({"metadata": {"labels": {"kubefunc/call": "x"}}}, r"the label kubefunc/call=.* must stay"),
        (lambda whole: None, r"returned NoneType"),
        (lambda whole: {**whole, "kind": "CronJob"}, r"kind must stay 'Job'"),
        (lambda whole: {"apiVersion": "batch/v1", "kind": "Job"}, r"no 'spec'"),
    ],
)
def test_a_job_template_cannot_take_away_what_is_needed(changed: Any, told: str) -> None:
    """It is refused in the caller's thread, with the option that is for it."""
    with pytest.raises(errors.ConfigurationError, match=f"job_template: .*{told}"):
        validate(spec(job_template=changed))
