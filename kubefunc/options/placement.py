"""Where a function runs: the cluster, the nodes, the Pod."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypedDict

from kubefunc.options.kind import Kind, none
from kubefunc.options.option import OBJECT_NAME, SWITCH, Group, PodTemplate, Unset, by_key, option
from kubefunc.options.parsers import mappings, names, taints

PullPolicy: TypeAlias = Literal["Always", "IfNotPresent", "Never"]


def _parsed_templates(value: object) -> object:
    from kubefunc.options import pod_templates  # here, as a Pod that imports kubefunc hardly ever needs it

    return pod_templates.parse(value)


def _merged_templates(below: object, above: object) -> object:
    """Append the templates. None removes the earlier ones."""
    if below is None or above is None:
        return above
    from kubefunc.options import pod_templates

    return pod_templates.joined(*pod_templates.in_order(below), *pod_templates.in_order(above))


class PlacementChanges(TypedDict, total=False):
    """What these options accept."""

    context: str | Unset | None
    namespace: str | Unset | None
    labels: Mapping[str, str] | Unset | None
    annotations: Mapping[str, str] | Unset | None
    node_selector: Mapping[str, str] | Unset | None
    tolerations: Sequence[str | Mapping[str, object]] | Unset | None
    priority_class: str | Unset | None
    image_pull_secrets: Sequence[str] | Unset | None
    image_pull_policy: PullPolicy | Unset | None
    pod_template: PodTemplate | Sequence[PodTemplate] | Unset | None
    owner: Literal["pod"] | Unset | None
    mesh: bool | Unset
    evictable: bool | Unset


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class Placement(Group):
    """Where a function runs."""

    context: str | None = option(
        None,
        Kind(
            "the name of a context of the kubeconfig, or None for the current one",
            names.nonempty,
            nothing=none,
        ),
    )
    """The kubeconfig's context, which names the cluster.

    Default: None, kubectl's current context.
    Local: ignored.
    """

    namespace: str | None = option(
        None, Kind("a namespace's name, or None for kubectl's", names.dns_label, nothing=none)
    )
    """The Kubernetes namespace.

    Default: None, the context's namespace, else ``default``, as with kubectl.
    Local: ignored.
    """

    labels: Mapping[str, str] = option(
        {},
        Kind("a dict of label names to texts, or None", mappings.label_map, mappings.read_mapping, dict),
        merge=by_key,
    )
    """Labels of Job, Pod and Secret, for cost reports, queues or network policies. Merged by key.

    Default: none.
    Local: ignored.
    """

    annotations: Mapping[str, str] = option(
        {},
        Kind("a dict of annotation names to texts, or None", mappings.annotation_map, mappings.read_mapping, dict),
        merge=by_key,
    )
    """Annotations of Job and Pod. Merged by key.

    Default: none.
    Local: ignored.
    """

    node_selector: Mapping[str, str] = option(
        {},
        Kind("a dict of node labels to texts, or None", mappings.node_selector, mappings.read_mapping, dict),
        merge=by_key,
    )
    """Labels that the node must have, in addition to ``kubernetes.io/os: linux``. Merged by key.

    Default: none.
    Local: ignored.
    """

    tolerations: tuple[Mapping[str, object], ...] = option(
        (),
        Kind(
            "a list of tolerations (dicts) or taints such as 'dedicated=ml:NoSchedule', or None",
            taints.tolerations,
            taints.read_tolerations,
            tuple,
        ),
    )
    """Node taints to tolerate, so that the Pod may run on nodes that are reserved for some Pods.

    Each is a dict as in Kubernetes, or a taint as kubectl writes it: ``"dedicated=ml:NoSchedule"``.

    Default: none. (For a node that does not answer, kubefunc sets 30 s instead of Kubernetes' 300 s.)
    Local: ignored.
    """

    priority_class: str | None = option(None, OBJECT_NAME)
    """The PriorityClass. On a full cluster, Pods with a higher priority replace Pods with a lower one.

    Default: None, the cluster's default.
    Local: ignored.
    """

    image_pull_secrets: tuple[str, ...] = option(
        (), Kind("a list of names of Secrets, or None", names.names, names.read_list, tuple)
    )
    """Names of Secrets with the login for the image's registry.

    Default: none. Those of the ServiceAccount are always used.
    Local: ignored.
    """

    image_pull_policy: PullPolicy | None = option(
        None,
        Kind(
            "'Always', 'IfNotPresent', 'Never', or None for Kubernetes' own choice",
            names.one_of("Always", "IfNotPresent", "Never"),
            nothing=none,
        ),
    )
    """When the node pulls the image from the registry: ``Always``, ``IfNotPresent`` or ``Never``.

    Default: None, as Kubernetes: Always for ``:latest``, else IfNotPresent.
    Local: ignored.
    """

    pod_template: PodTemplate | tuple[PodTemplate, ...] | None = option(
        None,
        Kind(
            "a dict with 'metadata' and 'spec' or with the fields of a Pod's spec, a V1PodTemplateSpec, a function "
            "from template to template, a list of these, or None",
            _parsed_templates,
            mappings.read_json,
            none,
        ),
        merge=_merged_templates,
    )
    """Any other field of a Pod, such as volumes: a dict, an object of the Kubernetes client, or a function.

    A dict is merged into the Pod template, with lists merged by name as ``kubectl patch`` does it. The function runs
    in the container ``main``; kubefunc's second container is ``courier``. A function takes the Pod template and
    returns it.

    Templates of several layers are merged in order, from :func:`kubefunc.configure` to ``.options``. None removes those
    before it.

    Default: None.
    Local: ignored.
    """

    owner: Literal["pod"] | None = option(None, Kind("'pod' or None", names.one_of("pod"), nothing=none))
    """With ``"pod"``, the Job belongs to the Pod in which your program runs: it is deleted with that Pod.

    So nothing is left of a program that was killed together with its Pod. The Job must be in the Pod's namespace. The
    Pod's UID comes from its variables ``POD_NAME`` and ``POD_UID`` (downward API), or needs the permission ``get`` on
    ``pods``.

    Default: None, no owner.
    Local: ignored.
    """

    mesh: bool = option(False, SWITCH)
    """Let Istio and Linkerd inject their proxies.

    Default: False. Such a proxy can keep the Pod running after the function has ended, and can block the function's
    first network requests.
    Local: ignored.
    """

    evictable: bool = option(False, SWITCH)
    """Let the Cluster Autoscaler and Karpenter move the Pod to save a node.

    Default: False, since moving a Pod runs its function again.
    Local: ignored.
    """
