"""What the API server says when it refuses (in Kubernetes 1.34's words), and which error a person gets."""

from __future__ import annotations

import pytest

from kubefunc.backends.kubernetes.api.errors import ApiError, ConnectionFailed, as_error, quota_is_hopeless
from kubefunc.diagnosis import Diagnosis
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

JOBS = "/apis/batch/v1/namespaces/team/jobs"
ROLE = 'jobs.batch is forbidden: User "ann" cannot create resource "jobs" in API group "batch" in the namespace "team"'
QUOTA = (
    'pods "train-1" is forbidden: exceeded quota: compute, requested: limits.memory=4Gi,pods=1, '
    "used: limits.memory=2Gi,pods=3, limited: limits.memory=8Gi,pods=3"
)
STRICT = 'Job in version "v1" cannot be handled as a Job: strict decoding error:'


def refused(status: int, message: str, reason: str = "", **details: object) -> ApiError:
    """An answer of the API server to POST jobs."""
    return ApiError("POST", JOBS, status, reason=reason, message=message, details=details)


@pytest.mark.parametrize(
    ("refusal", "kind", "words"),
    [
        (
            refused(403, ROLE),
            PermissionDeniedError,
            ["create", "jobs", "'team'", 'apiGroups: ["batch"]', "ann"],
        ),
        (refused(401, "Unauthorized"), AuthenticationError, ["credentials", "Log in"]),
        (refused(403, ROLE.replace("ann", "system:anonymous")), AuthenticationError, ["system:anonymous", "Log in"]),
        (
            refused(403, QUOTA.replace("pods=3,", "pods=0,")),
            QuotaExceededError,
            ["quota", "limits.memory=8Gi"],
        ),
        (
            refused(403, 'pods "a" is forbidden: failed quota: q: must specify limits.cpu for: main'),
            AdmissionError,
            ["Set cpu= and memory="],
        ),
        (
            refused(403, 'pods "a" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot != true'),
            AdmissionError,
            ["run_as_user", "runAsNonRoot != true"],
        ),
        (
            refused(400, f'{STRICT} unknown field "spec.template.spec.containers[0].volumeMount"', "BadRequest"),
            AdmissionError,
            ["no field pod_template.spec.containers[0].volumeMount.", "volumeMount: did you mean 'volumeMounts'?"],
        ),
        (
            refused(400, f'{STRICT} unknown field "spec.backoffLimitPerIndex"', "BadRequest"),
            ClusterError,
            ["spec.backoffLimitPerIndex", "older than Kubernetes 1.30"],
        ),
        (
            refused(403, 'admission webhook "policy.example" denied the request: no'),
            AdmissionError,
            ["webhook", 'policy.example" denied the request: no'],
        ),
        (
            refused(404, 'namespaces "team" not found', "NotFound", name="team", kind="namespaces"),
            ConfigurationError,
            ["'team'", "does not exist", "namespace="],
        ),
        (
            refused(403, "unable to create new content in namespace team because it is being terminated"),
            ConfigurationError,
            ["'team'", "being deleted"],
        ),
        (
            refused(
                422,
                'Job.batch "a" is invalid: spec.template.spec.containers[0].image: Required value',
                "Invalid",
                causes=[{"field": "spec.template.spec.containers[0].image"}],
            ),
            AdmissionError,
            ["spec.template.spec.containers[0].image", "Required value"],
        ),
        (refused(503, "etcdserver: leader changed"), ClusterUnreachableError, ["503", "leader changed"]),
        (refused(409, "exists", "AlreadyExists"), ClusterError, ["409"]),
    ],
)
def test_a_refusal_becomes_the_error_that_says_what_to_do(
    refusal: ApiError, kind: type[KubefuncError], words: list[str]
) -> None:
    """Each refusal has its class, keeps the server's own words, and has the same as data."""
    error = as_error(refusal)
    assert type(error) is kind
    assert not [word for word in words if word not in str(error)]
    assert error.diagnosis is not None
    assert error.diagnosis.events == (refusal.message,)


@pytest.mark.parametrize("reason", ["refused", "dns", "tls", "proxy", "timeout", "lost", "busy"])
def test_a_server_that_does_not_answer_is_named(reason: str) -> None:
    """Host, context, the reason in the network's words, and a way out."""
    failed = ConnectionFailed("GET", "/", host="https://k8s:6443", context="work", reason=reason, message="no route")
    text = str(as_error(failed))
    assert type(as_error(failed)) is ClusterUnreachableError
    assert not [word for word in ("https://k8s:6443", "'work'", "no route", "KUBEFUNC_BACKEND") if word not in text]


def test_a_refusal_says_which_call_it_was() -> None:
    """What is known of the call stays in the diagnosis and in the text."""
    known = Diagnosis("", "", call="f-abcdefgh", namespace="team")
    error = as_error(refused(403, ROLE), known)
    assert error.diagnosis is not None
    assert (error.diagnosis.call, error.diagnosis.namespace) == ("f-abcdefgh", "team")
    assert "call f-abcdefgh, namespace team" in str(error)


def test_our_own_errors_pass_through() -> None:
    """What is already an error of ours stays as it is."""
    error = ConfigurationError("x")
    assert as_error(error) is error


def test_a_quota_is_hopeless_only_when_it_is_smaller_than_the_request() -> None:
    """Used up for now is worth waiting for; a limit below the request is not."""
    assert quota_is_hopeless(QUOTA) is False
    assert quota_is_hopeless(QUOTA.replace("limited: limits.memory=8Gi", "limited: limits.memory=4000Mi")) is True
    assert quota_is_hopeless(QUOTA.replace("pods=3", "pods=0")) is True
    assert quota_is_hopeless(ROLE) is None


@pytest.mark.parametrize(
    ("refusal", "overloaded", "transient"),
    [
        (refused(429, ""), True, True),
        (refused(500, ""), True, True),
        (refused(403, QUOTA), False, True),
        (refused(403, ROLE), False, False),
        (refused(409, "x", "AlreadyExists"), False, False),
        (
            refused(409, 'Operation cannot be fulfilled on resourcequotas "q": modified', "Conflict"),
            True,
            True,
        ),
    ],
)
def test_what_is_worth_another_try(refusal: ApiError, overloaded: bool, transient: bool) -> None:
    """An overloaded server is asked again at once; a quota that is used up, later; a rule never."""
    assert (refusal.overloaded, refusal.transient) == (overloaded, transient)
