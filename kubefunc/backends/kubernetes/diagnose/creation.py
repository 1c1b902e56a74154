"""Why the Job controller cannot make a Pod: the words of its Event in, findings out. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from kubefunc import errors
from kubefunc.backends.kubernetes.diagnose.finding import TELL, TRIED_AGAIN, Finding, worded
from kubefunc.backends.kubernetes.diagnose.missing import RECENT_PATIENCE, missing_service_account
from kubefunc.backends.kubernetes.objects import admission
from kubefunc.backends.kubernetes.objects.admission import Refusal, refusal
from kubefunc.backends.kubernetes.objects.demands import COURIER_LIMITS

DEMANDING: Final = (admission.QUOTA_DEMANDS, admission.LIMIT_RANGE)  # what these want containers to state may be added
_BOUNDED_BY: Final = {"cpu": "cpu= and cpu_limit=", "memory": "memory="}


def creation_trouble(message: str) -> Finding:
    """Why the Job controller could not make the Pod: the message of its Event ``FailedCreate``."""
    words = (worded("FailedCreate", message),)
    refused = refusal(message)
    if refused is not None:
        return _FINDINGS[refused.kind](refused, message, words)
    missing = missing_service_account(message, words)
    if missing is not None:
        return missing
    if "is forbidden" in message or "is invalid" in message:
        return Finding(
            errors.AdmissionError,
            "FailedCreate",
            "The cluster's rules do not allow this Pod.",
            "Change the option or the part of pod_template= that the cluster's message names.",
            words,
            RECENT_PATIENCE,
        )
    return Finding(
        errors.PodStartError,
        "FailedCreate",
        "The cluster cannot create the Pod now.",
        TELL,
        words,
        None,
        outlook=TRIED_AGAIN,
    )


Words = tuple[str, ...]


def _quota_demands(refused: Refusal, message: str, words: Words) -> Finding:
    return Finding(
        errors.AdmissionError,
        refused.kind,
        "The namespace has a quota, so every container must say how much CPU and memory it needs.",
        "Set cpu=, cpu_limit= and memory=. Set anything else that the cluster's message names in pod_template=.",
        words,
    )


def _quota_hopeless(refused: Refusal, message: str, words: Words) -> Finding:
    return Finding(
        errors.QuotaExceededError,
        "QuotaExceeded",
        "The call asks for more than the namespace's whole quota, so it could never start.",
        "Ask for less (cpu=, cpu_limit=, memory=, gpu=), or have the quota raised: "
        "`kubectl describe resourcequota` shows it. "
        f"The courier, the second container, counts too: {COURIER_LIMITS}.",
        words,
    )


def _quota_used(refused: Refusal, message: str, words: Words) -> Finding:
    return Finding(
        errors.QuotaExceededError,
        "QuotaExceeded",
        "The namespace's quota is used up.",
        "End what you no longer need. `kubectl describe resourcequota` shows what is used.",
        words,
        None,
        outlook="The call starts when other Pods have ended.",
    )


def _pod_security(refused: Refusal, message: str, words: Words) -> Finding:
    wants_user = "runAsNonRoot" in message or "runAsUser" in message
    return Finding(
        errors.AdmissionError,
        refused.kind,
        f"The namespace accepts only Pods of the security level {refused.name!r}, and this Pod does not comply.",
        "Run as a user other than root: run_as_user=1000."
        if wants_user
        else "Remove from pod_template= what the cluster's message names.",
        words,
    )


def _openshift(refused: Refusal, message: str, words: Words) -> Finding:
    return Finding(
        errors.AdmissionError,
        refused.kind,
        "OpenShift's security rules do not allow this Pod.",
        "Do not set run_as_user=: OpenShift chooses the user. Remove from pod_template= what the message names.",
        words,
    )


def _webhook_denied(refused: Refusal, message: str, words: Words) -> Finding:
    return Finding(
        errors.AdmissionError,
        refused.kind,
        f"A rule of this cluster ({refused.name}) does not allow the Pod.",
        "Set what the rule asks for (labels=, cpu=, memory=, image=, pod_template=), or ask your cluster's "
        "administrator.",
        words,
    )


def _webhook_silent(refused: Refusal, message: str, words: Words) -> Finding:
    return Finding(
        errors.AdmissionError,
        refused.kind,
        f"The admission webhook {refused.name}, which must approve each Pod, does not answer.",
        TELL,
        words,
        None,
        outlook=TRIED_AGAIN,
    )


def _limit_range(refused: Refusal, message: str, words: Words) -> Finding:
    return Finding(
        errors.AdmissionError,
        refused.kind,
        f"The namespace has limits for {refused.name} (a LimitRange), and the Pod is outside of them.",
        f"Set {_BOUNDED_BY.get(refused.name, 'pod_template=')} to a value that the cluster's message allows. "
        f"The sum for the Pod includes the courier, the second container: {COURIER_LIMITS}.",
        words,
    )


def _priority_class(refused: Refusal, message: str, words: Words) -> Finding:
    return Finding(
        errors.PodConfigError,
        refused.kind,
        f"The cluster has no PriorityClass {refused.name!r}.",
        "Correct priority_class=: `kubectl get priorityclasses` lists them.",
        words,
    )


_FINDINGS: Final[Mapping[str, Callable[[Refusal, str, Words], Finding]]] = {
    admission.QUOTA_DEMANDS: _quota_demands,
    admission.QUOTA_HOPELESS: _quota_hopeless,
    admission.QUOTA_USED: _quota_used,
    admission.POD_SECURITY: _pod_security,
    admission.OPENSHIFT: _openshift,
    admission.WEBHOOK_DENIED: _webhook_denied,
    admission.WEBHOOK_SILENT: _webhook_silent,
    admission.LIMIT_RANGE: _limit_range,
    admission.PRIORITY_CLASS: _priority_class,
}
