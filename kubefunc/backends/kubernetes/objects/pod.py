"""The Pod template of a call, before a user's ``pod_template`` is merged into it."""

from __future__ import annotations

import math
from typing import Final

from kubefunc.backends.kubernetes.objects.containers import CONTAINER_ORDER, container
from kubefunc.backends.kubernetes.objects.job_spec import JobSpec
from kubefunc.backends.kubernetes.objects.labels import pod_annotations, pod_labels
from kubefunc.backends.kubernetes.objects.security import pod_security
from kubefunc.backends.kubernetes.objects.template import Json, join_tolerations, without_none
from kubefunc.backends.kubernetes.objects.volumes import volumes
from kubefunc.options import Options
from kubefunc.runner import ITEMS, PAYLOAD, STOP_GRACE

_LOST_NODE_GRACE: Final = 30  # Kubernetes' default of 300 s is a long time to wait for a dead node
_ATTEMPT_GRACE: Final = 11.0  # seconds that the supervisor gives a child to write its stacks and to exit
_DEADLINE_SLACK: Final = 60.0
MOST_SECONDS: Final = 2**31 - 1  # Kubernetes keeps seconds in an int32


def pod_template(spec: JobSpec) -> Json:
    """Two containers that share ``/kubefunc/in`` (Secrets, read-only) and ``/kubefunc/out`` (an emptyDir)."""
    options = spec.options
    return {
        "metadata": {
            "labels": pod_labels(spec),
            "annotations": pod_annotations(spec),
        },
        "spec": without_none(
            {
                "restartPolicy": "Never",  # a podFailurePolicy demands it
                "activeDeadlineSeconds": pod_deadline(spec),
                "terminationGracePeriodSeconds": STOP_GRACE,
                "serviceAccountName": options.service_account,
                # A token volume costs the start 0.2 s, beside what it may be stolen for.
                "automountServiceAccountToken": options.service_account is not None,
                "enableServiceLinks": False,
                "subdomain": spec.name if options.gang is not None else None,  # gives each Pod a name in DNS
                "priorityClassName": options.priority_class,
                "imagePullSecrets": [{"name": name} for name in options.image_pull_secrets] or None,
                "nodeSelector": {"kubernetes.io/os": "linux", **options.node_selector},
                "tolerations": _tolerations(options),
                "securityContext": pod_security(options.run_as_user),
                "containers": [container(spec, name) for name in CONTAINER_ORDER],
                "volumes": volumes(spec),
            }
        ),
    }


def pod_deadline(spec: JobSpec) -> int | None:
    """Seconds after which the kubelet ends the Pod: the backstop for a supervisor that failed to.

    It counts from the Pod's start, image pull included, and would fail a Pod whose ``main`` ended well; so it
    has room for the pull, for every attempt, and for the longest time that a result may wait.
    """
    options = spec.options
    if options.timeout is None:
        return None
    initial, factor, most = spec.backoff
    # An upload may take as long again, and so may the packages.
    waits = 1 + (not all_in_secrets(spec)) + (options.packages is not None)
    starting = options.pull_allowance * waits
    one_after_another = 1 if spec.indexed is None else spec.indexed.longest
    attempts = (options.retries + 1) * (options.timeout + _ATTEMPT_GRACE) * one_after_another
    backoffs = sum(min(most, initial * factor**number) for number in range(options.retries)) * one_after_another
    waiting = options.fetch_grace + options.result_wait
    return min(MOST_SECONDS, math.ceil(starting + attempts + backoffs + waiting + _DEADLINE_SLACK))


def all_in_secrets(spec: JobSpec) -> bool:
    """Whether nothing is brought to the running Pod."""
    return PAYLOAD in spec.files and (spec.indexed is None or ITEMS in spec.files)


def _tolerations(options: Options) -> list[Json]:
    """Give a lost node up soon, accept nodes that are kept for the GPUs asked for, and what the user says."""
    lost = [
        {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": _LOST_NODE_GRACE}
        for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
    ]
    gpus = [{"key": name, "operator": "Exists", "effect": "NoSchedule"} for name in options.gpu or {}]
    return join_tolerations([*lost, *gpus], options.tolerations)
