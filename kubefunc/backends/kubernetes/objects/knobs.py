"""Further fields of the Pod and of the Job that options set in Kubernetes' own words. Pure."""

from __future__ import annotations

import copy
from typing import Any, Final, cast

from kubefunc.backends.kubernetes.objects.job_spec import JobSpec
from kubefunc.backends.kubernetes.objects.labels import CALL_LABEL, own_labels
from kubefunc.backends.kubernetes.objects.security import CONTAINER_SECURITY
from kubefunc.backends.kubernetes.objects.template import Json, deep_copy, items, made_by, merged
from kubefunc.errors import ConfigurationError
from kubefunc.options import Options
from kubefunc.options.kube_objects import CONTAINER_SECURITY as CONTAINER_FIELDS

# What a job_template must leave as it is, and the option that is for it.
_KEPT: Final = {
    "template": "pod_template=",
    "backoffLimit": "backoff_limit=",
    "backoffLimitPerIndex": "backoff_limit=",
    "activeDeadlineSeconds": "deadline=",
    "ttlSecondsAfterFinished": "ttl=",
    "parallelism": "f.map(..., max_parallelism=...)",
    "completions": "",
    "completionMode": "",
    "podFailurePolicy": "",
    "maxFailedIndexes": "",
    "selector": "",
    "manualSelector": "",
    "managedBy": "",
}


def with_knobs(template: Json, spec: JobSpec) -> Json:
    """The Pod template with what these options add."""
    options = spec.options
    fields: Json = {
        "runtimeClassName": options.runtime_class,
        "affinity": options.affinity,
        "topologySpreadConstraints": [_spread(dict(each), spec) for each in options.topology_spread],
        "initContainers": _beside(options),
        "hostAliases": [{"ip": ip, "hostnames": list(hosts)} for ip, hosts in options.host_aliases.items()],
    }
    fields = {name: copy.deepcopy(value) for name, value in fields.items() if value}
    if not fields and not options.security_context:
        return template
    changed = deep_copy(template)
    pod = cast(Json, changed["spec"])
    pod.update(fields)
    _add_security(pod, options)
    return changed


def _spread(constraint: dict[str, Any], spec: JobSpec) -> Json:
    return {"labelSelector": {"matchLabels": {CALL_LABEL: spec.call}}, **constraint}


def _beside(options: Options) -> list[Json]:
    """Sidecars first: containers that prepare may need a proxy, too. A restart policy makes them native sidecars."""
    sidecars = [{**each, "restartPolicy": "Always"} for each in options.sidecars]
    return [_completed(dict(each), options) for each in (*sidecars, *options.init_containers)]


def _completed(container: dict[str, Any], options: Options) -> Json:
    return {"image": options.resolved_image, "securityContext": deep_copy(CONTAINER_SECURITY), **container}


def _add_security(pod: Json, options: Options) -> None:
    wanted = options.security_context
    own = {name: value for name, value in wanted.items() if name in CONTAINER_FIELDS}
    shared = {name: value for name, value in wanted.items() if name not in CONTAINER_FIELDS}
    pod["securityContext"] = {**cast(Json, pod["securityContext"]), **copy.deepcopy(shared)}
    for container in items(pod["containers"], "spec.containers"):
        container["securityContext"] = {**cast(Json, container["securityContext"]), **copy.deepcopy(own)}


def backoff_limit(options: Options) -> int:
    """How many Pods that failed from outside are replaced."""
    return options.max_disruptions if options.backoff_limit is None else options.backoff_limit


def customised_job(job: Json, spec: JobSpec) -> Json:
    """The Job with a user's ``job_template`` merged into it.

    Raises:
        ConfigurationError: the template takes away what kubefunc needs.
    """
    custom = spec.options.job_template
    if custom is None:
        return job
    if callable(custom):
        changed = made_by(custom, job, option="job_template", what="the Job as a dict")
    else:
        changed = merged(job, custom, at="job_template")
    _check(job, changed, spec)
    return changed


def _check(before: Json, after: Json, spec: JobSpec) -> None:
    for name in ("apiVersion", "kind"):
        if after.get(name) != before[name]:
            raise ConfigurationError(f"job_template: {name} must stay {before[name]!r}")
    old, new = cast(Json, before["spec"]), after.get("spec")
    if not isinstance(new, dict):
        raise ConfigurationError("job_template: the result has no 'spec'")
    for name, option in _KEPT.items():
        if cast(Json, new).get(name) != old.get(name):
            advice = f"{option} is for that" if option else "kubefunc needs it as it is"
            raise ConfigurationError(f"job_template: spec.{name} must stay: {advice}")
    _check_metadata(before, after, spec)


def _check_metadata(before: Json, after: Json, spec: JobSpec) -> None:
    old, new = cast(Json, before["metadata"]), after.get("metadata")
    found = cast(Json, new) if isinstance(new, dict) else {}
    for name in ("name", "namespace"):
        if found.get(name) != old[name]:
            raise ConfigurationError(f"job_template: metadata.{name} must stay: the Job is found by it")
    labels = found.get("labels")
    for key, value in own_labels(spec).items():
        if not isinstance(labels, dict) or cast(Json, labels).get(key) != value:
            raise ConfigurationError(f"job_template: the label {key}={value} must stay: the Job is found by it")
