"""What a cluster says of a ``pod_template``: the fields that it does not know, and its warnings."""

from __future__ import annotations

import pytest
from kubernetes import client

from kubefunc import errors
from tests.cluster import mapped
from tests.cluster.spaces import Space
from tests.cluster.waiting import nothing_left, pod_security

WAIT = 60
TYPO = {"spec": {"Volumes": [], "containers": [{"name": "main", "resources": {"limit": {"cpu": "1"}}}]}}


def test_a_field_that_kubernetes_does_not_have_is_an_error(calling: Space) -> None:
    """With its place and what was meant, for calls and maps; the server alone would leave it out without a word."""
    call = mapped.variable.options(pod_template=TYPO).remote("A")
    with pytest.raises(errors.AdmissionError) as raised:
        call.result(WAIT)
    told = str(raised.value)
    assert "pod_template.spec.Volumes" in told
    assert "pod_template.spec.containers[0].resources.limit" in told
    assert "did you mean 'limits'?" in told
    with pytest.raises(errors.AdmissionError, match=r"resources\.limit"):
        mapped.double.options(pod_template=TYPO).map(range(4)).result(WAIT)
    nothing_left(calling)


def test_an_object_of_the_kubernetes_client(calling: Space) -> None:
    """A V1PodTemplateSpec does what the same words in a dict do."""
    main = client.V1Container(name="main", env=[client.V1EnvVar(name="A", value="by an object")])
    template = client.V1PodTemplateSpec(spec=client.V1PodSpec(containers=[main]))
    assert mapped.variable.options(pod_template=template).remote("A").result(WAIT) == "by an object"
    nothing_left(calling)


def test_what_the_cluster_warns_of_is_shown_once(calling: Space, capsys: pytest.CaptureFixture[str]) -> None:
    """On stderr, for the first of several calls that get the same warning."""
    pod_security(calling, "warn")
    calls = [mapped.double.remote(n) for n in range(3)]
    assert [call.result(WAIT) for call in calls] == [0, 2, 4]
    said = [line for line in capsys.readouterr().err.splitlines() if "the cluster warns: would violate" in line]
    assert len(said) == 1
    nothing_left(calling)
