"""What pod_template takes, and how templates of several layers come together."""

from __future__ import annotations

from typing import Any

import pytest
from kubernetes import client

from kubefunc.backends.kubernetes.objects.template import customised
from kubefunc.errors import ConfigurationError
from kubefunc.options import Options, environment_layer, origins, parse_changes

POD = {"metadata": {}, "spec": {"containers": [{"name": "main"}]}}


def pod_of(*layers: Any) -> dict[str, Any]:
    """The Pod template that templates of these layers, the weakest first, make of ours."""
    options = Options.from_layers(*(parse_changes("@remote", pod_template=each) for each in layers))
    return POD if options.pod_template is None else customised(POD, options.pod_template)


def label(name: str) -> Any:
    """A function that adds a label of this name, and counts how often it did."""

    def add(template: dict[str, Any]) -> dict[str, Any]:
        labels = template["metadata"].setdefault("labels", {})
        labels[name] = str(int(labels.get(name, 0)) + 1)
        return template

    return add


def test_objects_of_the_kubernetes_client_are_templates() -> None:
    """A V1PodTemplateSpec, a V1PodSpec, and objects inside dicts: as the JSON that the client would send."""
    mount = client.V1VolumeMount(name="data", mount_path="/data", read_only=True)
    main = client.V1Container(name="main", volume_mounts=[mount])
    metadata = client.V1ObjectMeta(labels={"my_team": "a"})
    whole = client.V1PodTemplateSpec(metadata=metadata, spec=client.V1PodSpec(containers=[main], host_ipc=True))
    told = {"name": "main", "volumeMounts": [{"name": "data", "mountPath": "/data", "readOnly": True}]}
    made = pod_of(whole)
    assert made == {"metadata": {"labels": {"my_team": "a"}}, "spec": {"containers": [told], "hostIPC": True}}
    assert pod_of(client.V1PodSpec(containers=[main]))["spec"]["containers"] == [told]
    assert pod_of({"spec": {"containers": [main]}})["spec"]["containers"] == [told]
    assert pod_of(lambda _: whole) == made


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ({"spec": {"containers": [{"name": "main", "volume_mounts": []}]}}, "'volumeMounts'"),
        ({"spec": {"service_account_name": "x"}}, "'serviceAccountName'"),
        ({"spec": {"volumes": [{"name": "a", "empty_dir": {"size_limit": "1Gi"}}]}}, "'emptyDir'"),
    ],
)
def test_names_in_snake_case_are_refused(template: dict[str, Any], says: str) -> None:
    """The Python client writes them so, Kubernetes does not: the message has the place and the right name."""
    with pytest.raises(ConfigurationError, match=f"@remote: pod_template\\['spec'\\].*did you mean {says}") as caught:
        parse_changes("@remote", pod_template=template)
    assert "?." not in str(caught.value)
    with pytest.raises(ConfigurationError, match=f"the function's result\\['spec'\\].*{says}"):
        pod_of(lambda _: template)


def test_names_that_users_make_up_may_have_underscores() -> None:
    """Labels, annotations, node labels, resources, and what drivers of volumes read."""
    free = {
        "metadata": {"labels": {"a_b": "x"}, "annotations": {"c_d": "y"}},
        "spec": {
            "nodeSelector": {"e_f": "z"},
            "volumes": [{"name": "v", "csi": {"driver": "d", "volumeAttributes": {"g_h": "1"}}}],
            "containers": [{"name": "main", "resources": {"limits": {"example.com/i_j": "1"}}}],
        },
    }
    assert pod_of(free)["metadata"] == free["metadata"]


def test_templates_of_all_layers_apply() -> None:
    """One after another, configure()'s first: dicts merge, a function sees what those before it made."""
    of_the_team = {"metadata": {"labels": {"team": "a"}}, "spec": {"nodeSelector": {"zone": "1"}}}
    of_the_function = {"spec": {"nodeSelector": {"disk": "ssd"}}}
    made = pod_of(of_the_team, of_the_function, label("seen"))
    assert made["metadata"]["labels"] == {"team": "a", "seen": "1"}
    assert made["spec"]["nodeSelector"] == {"zone": "1", "disk": "ssd"}
    assert pod_of([of_the_team, of_the_function])["spec"] == made["spec"]


def test_none_wipes_the_templates_below() -> None:
    """So that .options(pod_template=None) is our own Pod again, and what follows begins there."""
    assert pod_of({"hostUsers": False}, None) == POD
    assert pod_of({"hostUsers": False}, None, {"hostIPC": True})["spec"] == {**POD["spec"], "hostIPC": True}


def test_a_function_in_two_layers_is_applied_once() -> None:
    """It may add to lists, which would then have it twice."""
    once = label("seen")
    assert pod_of(once, {"metadata": {"labels": {"x": "y"}}}, once)["metadata"]["labels"]["seen"] == "1"


def test_the_sources_of_a_merged_template_are_told() -> None:
    """As for env: ``kubefunc config`` names them all."""
    layers = (
        parse_changes("configure()", pod_template={"hostUsers": False}),
        environment_layer({"KUBEFUNC_POD_TEMPLATE": '{"hostIPC": true}'}),
    )
    assert origins(*layers)["pod_template"] == "configure() + KUBEFUNC_POD_TEMPLATE"
