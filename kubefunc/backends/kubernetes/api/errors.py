"""What the API server answers when it refuses, and the one mapping from that to kubefunc's errors. Pure."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, TypeAlias

from kubefunc.backends.kubernetes.objects import admission
from kubefunc.backends.kubernetes.objects.admission import quota_is_hopeless, refusal
from kubefunc.backends.kubernetes.objects.spelling import similar_field
from kubefunc.diagnosis import Diagnosis, Phase
from kubefunc.errors import (
    AdmissionError,
    AuthenticationError,
    ClusterError,
    ClusterUnreachableError,
    ConfigurationError,
    KubefuncError,
    PermissionDeniedError,
    QuotaExceededError,
)


class ApiError(Exception):
    """The API server answered, and the answer is no.

    Attributes:
        method, path: the request.
        status: the HTTP status.
        reason: Kubernetes' CamelCase reason (``AlreadyExists``), or an empty string.
        message: the server's own words.
        details: ``details`` of the Status object: ``name``, ``kind``, ``causes``.
        retry_after: seconds that the server asks us to wait, where it does.
        is_status: the answer is a Status object, as the API server itself sends.
        attempts: how many times the request was sent.
        maybe_carried_out: whether one of them may have changed something, unseen.
    """

    def __init__(
        self,
        method: str,
        path: str,
        status: int,
        *,
        reason: str = "",
        message: str = "",
        details: Mapping[str, Any] | None = None,
        retry_after: float | None = None,
        is_status: bool = True,
    ) -> None:
        super().__init__(f"{method} {path}: {status} {reason}: {message}")
        self.method = method
        self.path = path
        self.status = status
        self.reason = reason
        self.message = message
        self.details: Mapping[str, Any] = details or {}
        self.retry_after = retry_after
        self.is_status = is_status
        self.attempts = 1
        self.maybe_carried_out = False

    def count(self, attempts: int, *, maybe_carried_out: bool) -> None:
        """Note how often the request was sent, and whether it may have changed something."""
        self.attempts, self.maybe_carried_out = attempts, maybe_carried_out

    @property
    def already_exists(self) -> bool:
        """An object of this name is there already: ours, if an earlier attempt was carried out unseen."""
        return self.status == 409 and self.reason == "AlreadyExists"

    @property
    def not_found(self) -> bool:
        """The object or the namespace is not there. What else answers 404, a proxy, knows nothing of it."""
        return self.status == 404 and self.is_status

    @property
    def not_started(self) -> bool:
        """For a log: the kubelet does not know by now that the container has started."""
        return self.status == 400

    @property
    def overloaded(self) -> bool:
        """The server could not answer just now: the same request is worth sending again at once."""
        if self.status == 409:
            # Creates that race for one quota: "Operation cannot be fulfilled on resourcequotas" (k8s#67761).
            return self.reason == "Conflict" and "resourcequotas" in self.message
        return self.status == 429 or self.status >= 500

    @property
    def is_unauthenticated(self) -> bool:
        """The server does not know who asks: other credentials may help, another Role may not."""
        return self.status == 401 or (self.status == 403 and _ANONYMOUS in self.message)

    @property
    def denied_by_role(self) -> bool:
        """The credentials lack a permission (and it is not an admission rule that says no)."""
        return self.status == 403 and not self.is_unauthenticated and _RBAC.search(self.message) is not None

    @property
    def transient(self) -> bool:
        """Worth waiting for: the server is overloaded, or the quota is used up for now."""
        return self.overloaded or (self.status == 403 and quota_is_hopeless(self.message) is False)


class ConnectionFailed(Exception):
    """The API server did not answer.

    Attributes:
        method, path: the request.
        host: the API server's URL.
        context: the kubeconfig's context.
        reason: ``refused``, ``dns``, ``tls``, ``proxy``, ``timeout``, ``lost``, ``busy`` (no free
            connection) or ``unreadable`` (something else than Kubernetes answered).
        final: trying again cannot help (a certificate that does not verify).
        attempts: how many times it was tried.
        maybe_carried_out: whether one of the attempts may have changed something, unseen.
    """

    def __init__(
        self,
        method: str,
        path: str,
        *,
        host: str,
        context: str,
        reason: str,
        message: str,
        final: bool = False,
    ) -> None:
        super().__init__(f"{method} {path} at {host}: {reason}: {message}")
        self.method = method
        self.path = path
        self.host = host
        self.context = context
        self.reason = reason
        self.message = message
        self.final = final
        self.attempts = 1
        self.maybe_carried_out = False

    def count(self, attempts: int, *, maybe_carried_out: bool) -> None:
        """Note how often the request was sent, and whether it may have changed something."""
        self.attempts, self.maybe_carried_out = attempts, maybe_carried_out

    @property
    def was_sent(self) -> bool:
        """Whether the request may have arrived."""
        return self.reason not in ("refused", "dns", "proxy", "tls", "busy")


_ANONYMOUS = 'User "system:anonymous" '
UNUSABLE = (ConfigurationError, AuthenticationError)
"""What a request raises where the kubeconfig's credentials cannot be used."""
TROUBLE = (ApiError, ConnectionFailed, *UNUSABLE)
"""All that a request raises."""
Trouble: TypeAlias = ApiError | ConnectionFailed | ConfigurationError | AuthenticationError

LOG_IN = "Log in again, as you would for kubectl; `kubectl auth whoami` must work."
NOTHING_STARTED = "Nothing was started."

_NOTHING_KNOWN = Diagnosis("", "")


def as_error(exc: ApiError | ConnectionFailed | KubefuncError, known: Diagnosis = _NOTHING_KNOWN) -> KubefuncError:
    """The one place where the API server's refusals become kubefunc's errors, each with a Diagnosis.

    ``known`` is what is known of the call that was refused.
    """
    problem = login_problem(exc)
    if problem is not None:
        return _not_accepted(exc, problem, known)
    if isinstance(exc, KubefuncError):
        return exc
    if isinstance(exc, ConnectionFailed):
        return _unreachable(exc, known)
    kind, sentence, advice = _judge(exc)
    diagnosis = dataclasses.replace(
        known,
        reason=exc.reason or f"HTTP{exc.status}",
        message=sentence,
        advice=advice,
        phase=Phase.SUBMITTING,
        events=(exc.message,) if exc.message else (),
    )
    return kind(str(diagnosis), diagnosis=diagnosis)


def login_problem(exc: Exception | None) -> str | None:
    """What is wrong with the credentials, in a sentence; None for all other trouble."""
    if isinstance(exc, AuthenticationError):
        return exc.diagnosis.message if exc.diagnosis is not None else str(exc)
    if not isinstance(exc, ApiError) or not exc.is_unauthenticated:
        return None
    if exc.status == 401:
        return "The cluster does not accept your credentials. They are wrong, or they have expired."
    return "The kubeconfig has no credentials, so the cluster treats you as the user system:anonymous."


def _not_accepted(exc: Exception, problem: str, known: Diagnosis) -> AuthenticationError:
    started = "" if known.phase is not Phase.SUBMITTING or not known.call else f" {NOTHING_STARTED}"
    words = (exc.message,) if isinstance(exc, ApiError) and exc.message else ()
    told = dataclasses.replace(
        known,
        reason="Unauthorized",
        message=problem,
        advice=f"{LOG_IN}{started}",
        phase=Phase.SUBMITTING,
        events=words,
    )
    return AuthenticationError(str(told), diagnosis=told)


Verdict: TypeAlias = tuple[type[KubefuncError], str, str]
"""The class of the error, a sentence for a person, and advice."""


def _judge(exc: ApiError) -> Verdict:
    what = f"{exc.method} {exc.path}"
    of_namespace = _about_namespace(exc)
    if of_namespace is not None:
        return of_namespace
    refused = refusal(exc.message)
    if refused is not None and refused.kind in (admission.WEBHOOK_DENIED, admission.WEBHOOK_SILENT):
        return (
            AdmissionError,
            f"An admission webhook refused the request ({what}).",
            "Ask your cluster's administrator.",
        )
    if exc.status == 403:
        return _forbidden(exc, what)
    unknown = _UNKNOWN_FIELD.findall(exc.message)
    if unknown:
        return _unknown_fields(unknown)
    if exc.status in (400, 413, 422):
        fields = ", ".join(_fields(exc))
        where = f" at {fields}" if fields else ""
        return (
            AdmissionError,
            f"The cluster does not accept the object{where} ({what}).",
            "Correct the option or the part of pod_template that the message names.",
        )
    if exc.status == 429 or exc.status >= 500:
        return (
            ClusterUnreachableError,
            f"The API server could not answer: {exc.status} after {exc.attempts} attempts ({what}).",
            (
                "Try again when the cluster is healthy. `kubectl get --raw /readyz?verbose` shows which of its health "
                "checks fail."
            ),
        )
    return ClusterError, f"The API server refused the request with status {exc.status} ({what}).", ""


def _about_namespace(exc: ApiError) -> Verdict | None:
    if _missing_namespace(exc):
        return (
            ConfigurationError,
            f"The namespace {_namespace_of(exc)!r} does not exist.",
            "Create it with `kubectl create namespace`, or choose another with namespace=.",
        )
    if "NamespaceTerminating" in exc.reason or "because it is being terminated" in exc.message:
        return (
            ConfigurationError,
            f"The namespace {_namespace_of(exc)!r} is being deleted.",
            "Choose another with namespace= or KUBEFUNC_NAMESPACE.",
        )
    return None


_RBAC = re.compile(
    r'User "(?P<user>[^"]*)" cannot (?P<verb>\S+) resource "(?P<resource>[^"]+)" '
    r'in API group "(?P<group>[^"]*)"'
    r'(?: in the namespace "(?P<namespace>[^"]+)")?'
)


# What fieldValidation=Strict answers.
_UNKNOWN_FIELD = re.compile(r'unknown field "([^"]+)"')
_TEMPLATE_PATH = "spec.template."


def _unknown_fields(paths: list[str]) -> Verdict:
    """Fields that a Pod does not have: the server would leave them out without a word."""
    told = [f"pod_template.{path.removeprefix(_TEMPLATE_PATH)}" for path in paths if path.startswith(_TEMPLATE_PATH)]
    if len(told) < len(paths):
        return (
            ClusterError,
            (
                f"The API server does not know {', '.join(paths)}, which kubefunc sets: the cluster is older than "
                "Kubernetes 1.30."
            ),
            "Use a newer cluster.",
        )
    meant = {path: similar_field(path.rpartition(".")[2]) for path in told}
    hints = [f"{path.rpartition('.')[2]}: did you mean {name!r}?" for path, name in meant.items() if name]
    return (
        AdmissionError,
        f"Kubernetes has no field {' and no field '.join(told)}.",
        " ".join(("Correct its name in pod_template=: `kubectl explain pod.spec` lists the fields.", *hints)),
    )


_NO_ROOM = (
    QuotaExceededError,
    "The namespace's quota does not allow what the call asks for.",
    "Ask for less (cpu=, memory=, gpu=), or have the quota raised: `kubectl describe resourcequota`.",
)
_FORBIDDEN: Mapping[str, Verdict] = {
    admission.QUOTA_HOPELESS: _NO_ROOM,
    admission.QUOTA_USED: _NO_ROOM,
    admission.QUOTA_DEMANDS: (
        AdmissionError,
        "The namespace's quota requires limits that the Pod does not set.",
        "Set cpu= and memory=.",
    ),
    admission.POD_SECURITY: (
        AdmissionError,
        "The security rules of the namespace (Pod Security Standard) refuse the Pod.",
        "Set run_as_user= to a number other than 0. That is enough even for the level *restricted*.",
    ),
}


def _forbidden(exc: ApiError, what: str) -> Verdict:
    refused = refusal(exc.message)
    if refused is not None and refused.kind in _FORBIDDEN:
        return _FORBIDDEN[refused.kind]
    lacking = role_lacks(exc.message)
    if lacking is None:
        # Admission plug-ins (LimitRanger, ServiceAccount, SCC ...) answer 403 too, in words of their own.
        return (AdmissionError, f"The cluster's admission rules refused the request ({what}).", "")
    return (PermissionDeniedError, *lacking)


def role_lacks(message: str) -> tuple[str, str] | None:
    """Who may not do what, and the rule that would allow it; None where the message is not about permissions."""
    refused = _RBAC.search(message)
    if refused is None:
        return None
    verb, resource, group = refused["verb"], refused["resource"], refused["group"]
    place = f"in the namespace {refused['namespace']!r}" if refused["namespace"] else "in the whole cluster"
    where = "the user's Role" if refused["namespace"] else "a ClusterRole of the user"
    rule = f'{{apiGroups: ["{group}"], resources: ["{resource}"], verbs: ["{verb}"]}}'
    return (
        f"The user {refused['user']} of your kubeconfig may not {verb} {resource} {place}.",
        f"Ask your cluster's administrator to add this rule to {where}: {rule}.",
    )


def _missing_namespace(exc: ApiError) -> bool:
    return exc.status == 404 and exc.details.get("kind") == "namespaces"


def _namespace_of(exc: ApiError) -> str:
    found = re.search(r"/namespaces/([^/?]+)", exc.path)
    return found[1] if found else str(exc.details.get("name", ""))


def _fields(exc: ApiError) -> list[str]:
    causes = exc.details.get("causes") or ()
    return [str(cause["field"]) for cause in causes if isinstance(cause, dict) and cause.get("field")]


_ADVICE = {
    "refused": "Is the cluster running? Check with `kubectl cluster-info`.",
    "dns": "Is the server's name correct, and are you connected to the VPN? Check with `kubectl cluster-info`.",
    "tls": "Check that the kubeconfig belongs to this cluster (certificate-authority, client-certificate).",
    "proxy": "Check HTTPS_PROXY, NO_PROXY and the kubeconfig's proxy-url.",
    "unreadable": "Another server answers instead of the cluster: a proxy or a login page. Log in there, "
    "and check HTTPS_PROXY, NO_PROXY and the kubeconfig's server.",
    "timeout": "Is the cluster running, and can this machine reach it? Check with `kubectl cluster-info`.",
}


def _unreachable(exc: ConnectionFailed, known: Diagnosis) -> ClusterUnreachableError:
    diagnosis = dataclasses.replace(
        known,
        reason="Unreachable",
        message=f"The API server {exc.host} (context {exc.context!r}) cannot be reached ({exc.attempts} attempts).",
        advice=_ADVICE.get(exc.reason, "Is the cluster running? Check with `kubectl cluster-info`.")
        + " To run on this machine instead, set KUBEFUNC_BACKEND=local.",
        phase=Phase.SUBMITTING,
        events=(f"{exc.reason}: {exc.message}",),
    )
    return ClusterUnreachableError(str(diagnosis), diagnosis=diagnosis)
