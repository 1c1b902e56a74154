"""The Job of a call: data in, a dict out."""

from __future__ import annotations

import math
from typing import Final

from kubefunc.backends.kubernetes.objects.checks import (
    checked_containers,
    containers_of,
    courier_follows_main,
    tell_stop_grace,
)
from kubefunc.backends.kubernetes.objects.containers import ARCHIVE_PATH, keep_guaranteed
from kubefunc.backends.kubernetes.objects.demands import meeting
from kubefunc.backends.kubernetes.objects.interpreter import share_python
from kubefunc.backends.kubernetes.objects.isolation import isolated
from kubefunc.backends.kubernetes.objects.job_spec import JobSpec
from kubefunc.backends.kubernetes.objects.knobs import backoff_limit, customised_job, with_knobs
from kubefunc.backends.kubernetes.objects.labels import job_annotations, labels
from kubefunc.backends.kubernetes.objects.pod import MOST_SECONDS, all_in_secrets, pod_template
from kubefunc.backends.kubernetes.objects.template import Json, customised
from kubefunc.backends.kubernetes.objects.user_volumes import mount_in_init_containers
from kubefunc.backends.kubernetes.objects.volumes import OUT_VOLUME
from kubefunc.backends.reach import check_reach
from kubefunc.options import Options
from kubefunc.runner import COURIER, COURIER_ENDS, EXIT_COURIER_TERMINATED, EXIT_TERMINATED, EXIT_VALUE, MAIN

_MANY_COMPLETIONS: Final = 100_000
_MOST_FAILED_OF_MANY: Final = 10_000


def validate(spec: JobSpec) -> None:
    """Refuse what cannot work, before anything is sent.

    Raises:
        ConfigurationError: ``pod_template`` takes away what kubefunc needs, or its resources are no quantities;
            ``service`` has no ports.
    """
    check_reach(spec.options)
    if spec.options.job_template is None:
        _final_template(spec)
    else:
        build_job(spec)


def build_job(spec: JobSpec) -> Json:
    """The Job of a call.

    Raises:
        ConfigurationError: ``pod_template`` or ``job_template`` takes away what kubefunc needs.
    """
    options = spec.options
    job: Json = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": spec.name,
            "namespace": spec.namespace,
            "labels": labels(spec),
            "annotations": job_annotations(spec),
            **({} if spec.owner is None else {"ownerReferences": [dict(spec.owner)]}),
        },
        "spec": {
            **_repetition(spec),
            # The TTL counts from the Job's end; only this ends a Job whose Pod never starts.
            "activeDeadlineSeconds": _job_deadline(options),
            "ttlSecondsAfterFinished": math.ceil(options.ttl),
            "template": _final_template(spec),
        },
    }
    return customised_job(job, spec)


def _job_deadline(options: Options) -> int:
    """A detached result may wait in its Pod for longer than the function ran: the Job must not end before that."""
    waiting = options.result_wait if options.detach else 0.0
    return min(MOST_SECONDS, math.ceil(options.deadline + waiting))


def owner_patch(job_name: str, job_uid: str) -> Json:
    """The merge patch that gives a Secret to its Job, so that deleting the Job deletes the Secret.

    ``blockOwnerDeletion`` stays away: where OwnerReferencesPermissionEnforcement is on (OpenShift) it needs a
    further permission.
    """
    return {"metadata": {"ownerReferences": [owner_of_job(job_name, job_uid)]}}


def owner_of_job(name: str, uid: str) -> Json:
    """The ownerReference by which an object is deleted with a Job."""
    return {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": uid}


def _repetition(spec: JobSpec) -> Json:
    """How many Pods there are, and when another takes the place of one."""
    most, limit = spec.options.max_disruptions, backoff_limit(spec.options)
    indexed = spec.indexed
    if indexed is None:
        return {"backoffLimit": limit, "podFailurePolicy": {"rules": _failure_rules(most, "FailJob")}}
    return {
        "completionMode": "Indexed",
        "completions": indexed.chunks,
        "parallelism": min(indexed.chunks, indexed.parallelism),
        "backoffLimitPerIndex": limit,
        # A Job that fails kills the Pods whose results are still to be fetched: so no number of them fails it.
        "maxFailedIndexes": _most_failed(indexed.chunks),
        "podFailurePolicy": {"rules": _failure_rules(most, "FailIndex")},
    }


def _most_failed(chunks: int) -> int:
    return chunks if chunks <= _MANY_COMPLETIONS else _MOST_FAILED_OF_MANY


def _failure_rules(max_disruptions: int, end: str) -> list[Json]:
    """Which ends of a Pod are the Job controller's business; it takes the first rule that matches.

    What no rule matches counts against ``backoffLimit``: SIGTERM without a result, a Pod deleted by hand (a
    plain DELETE sets no DisruptionTarget), a courier that was killed. A courier that ends by an error of its own would
    do so each time, and the function would run each time. ``end``: how to fail, the Job or the index.
    """
    disrupted = "Ignore" if max_disruptions else end  # Ignore has no cap, so "never again" must fail
    return [
        {"action": disrupted, "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": end, "onExitCodes": _exit_codes(MAIN, "NotIn", EXIT_VALUE, EXIT_TERMINATED)},
        {"action": disrupted, "onExitCodes": _exit_codes(COURIER, "In", EXIT_COURIER_TERMINATED)},
        {"action": end, "onExitCodes": _exit_codes(COURIER, "NotIn", *COURIER_ENDS)},
    ]


def _exit_codes(container: str, operator: str, *codes: int) -> Json:
    return {"containerName": container, "operator": operator, "values": sorted(codes)}


def _final_template(spec: JobSpec) -> Json:
    template, containers = _customised(spec)
    mount_in_init_containers(template, spec.options.volumes)
    share_python(containers[MAIN], containers[COURIER], ARCHIVE_PATH)
    keep_guaranteed(containers)
    return meeting(template, spec.demands)


def _customised(spec: JobSpec) -> tuple[Json, dict[str, Json]]:
    """Our Pod template with the user's merged into it, and its containers by name."""
    limited = (OUT_VOLUME,) if all_in_secrets(spec) else ()  # else what is uploaded goes there too
    template = isolated(with_knobs(pod_template(spec), spec), spec.options, limited)
    if spec.options.pod_template is None:
        return template, containers_of(template)
    changed = customised(template, spec.options.pod_template)
    containers = checked_containers(spec, changed)
    tell_stop_grace(changed, containers[MAIN])
    courier_follows_main(containers_of(template)[MAIN], containers)
    return changed, containers
