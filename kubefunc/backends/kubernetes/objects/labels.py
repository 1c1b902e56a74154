"""Labels and annotations: those that kubefunc sets, and those of Kubernetes that it reads."""

from __future__ import annotations

from typing import Final

from kubefunc import __version__
from kubefunc.backends.kubernetes.objects.isolation import isolation_labels
from kubefunc.backends.kubernetes.objects.job_spec import JobSpec
from kubefunc.backends.kubernetes.objects.origin import label_value
from kubefunc.backends.kubernetes.objects.published import PUBLISH_ANNOTATION, written
from kubefunc.options import Options
from kubefunc.options.fields import QUEUE_LABEL
from kubefunc.runner import MAIN

MANAGED_BY_LABEL: Final = "app.kubernetes.io/managed-by"
MANAGED_BY: Final = "kubefunc"
SESSION_LABEL: Final = "kubefunc/session"
CALL_LABEL: Final = "kubefunc/call"
FUNCTION_LABEL: Final = "kubefunc/function"  # for selectors; the annotation of the same name has the whole name
USER_LABEL: Final = "kubefunc/user"
PROGRAM_LABEL: Final = "kubefunc/program"
POOL_LABEL: Final = "kubefunc/pool"  # of warm workers: those with the same value can take each other's place
FUNCTION_ANNOTATION: Final = "kubefunc/function"
MODULE_ANNOTATION: Final = "kubefunc/module"
HOST_ANNOTATION: Final = "kubefunc/host"
ATTEMPT_ANNOTATION: Final = "kubefunc/attempt"
VERSION_ANNOTATION: Final = "kubefunc/version"
ITEMS_ANNOTATION: Final = "kubefunc/items"
SERVICE_ANNOTATION: Final = "kubefunc/service"

# Set by the Job controller.
JOB_NAME_LABEL: Final = "batch.kubernetes.io/job-name"
COMPLETION_INDEX: Final = "batch.kubernetes.io/job-completion-index"
INDEX_FAILURES: Final = "batch.kubernetes.io/job-index-failure-count"
INDEX_IGNORED_FAILURES: Final = "batch.kubernetes.io/job-index-ignored-failure-count"


def labels(spec: JobSpec) -> dict[str, str]:
    """Of Job, Pod and Secret."""
    queue = {} if spec.options.queue is None else {QUEUE_LABEL: spec.options.queue}
    return {**_whose(spec), **spec.options.labels, **queue, **own_labels(spec)}


def _whose(spec: JobSpec) -> dict[str, str]:
    """For people: ``kubectl get jobs -l kubefunc/user=ada``."""
    told = {FUNCTION_LABEL: spec.function, USER_LABEL: spec.origin.user, PROGRAM_LABEL: spec.origin.program}
    return {name: value for name, text in told.items() if (value := label_value(text))}


def own_labels(spec: JobSpec) -> dict[str, str]:
    """Those by which a Job, its Pods and its Secrets are found."""
    own = {MANAGED_BY_LABEL: MANAGED_BY, SESSION_LABEL: spec.session, CALL_LABEL: spec.call}
    pool = {POOL_LABEL: spec.pool} if spec.pool else {}
    return {**own, **pool, **isolation_labels(spec.options)}


def pod_labels(spec: JobSpec) -> dict[str, str]:
    """Istio looks at its label first; the annotation below is for its older releases."""
    return {**({} if spec.options.mesh else {"sidecar.istio.io/inject": "false"}), **labels(spec)}


def job_annotations(spec: JobSpec) -> dict[str, str]:
    """Of the Job: what it runs, for people and for those who attach."""
    size = {} if spec.indexed is None else {ITEMS_ANNOTATION: str(spec.indexed.items)}
    to, service = spec.options.publish, spec.options.service
    publish = {} if to is None else {PUBLISH_ANNOTATION: written(to)}
    reach = {} if service is None else {SERVICE_ANNOTATION: service}
    return {**_notes(spec), **size, **publish, **reach, **spec.options.annotations}


def pod_annotations(spec: JobSpec) -> dict[str, str]:
    """Of the Pod: the same, and what other programs in the cluster are to leave alone."""
    return {**_notes(spec), **_notes_to_others(spec.options), **spec.options.annotations}


def _notes(spec: JobSpec) -> dict[str, str]:
    told = {MODULE_ANNOTATION: spec.module, HOST_ANNOTATION: spec.origin.host}
    return {
        FUNCTION_ANNOTATION: spec.function,
        ATTEMPT_ANNOTATION: str(spec.attempt),
        VERSION_ANNOTATION: __version__,
        **{name: text for name, text in told.items() if text},
    }


def _notes_to_others(options: Options) -> dict[str, str]:
    notes = {"kubectl.kubernetes.io/default-container": MAIN}
    if not options.mesh:
        notes |= {"sidecar.istio.io/inject": "false", "linkerd.io/inject": "disabled"}
    # Without a word the Cluster Autoscaler never moves a Pod that has an emptyDir, as ours do.
    notes["cluster-autoscaler.kubernetes.io/safe-to-evict"] = "true" if options.evictable else "false"
    if not options.evictable:
        notes["karpenter.sh/do-not-disrupt"] = "true"
    return notes
