"""Why Pods are not made, placed or started: the cluster's words in, findings out."""

from __future__ import annotations

import pytest

from kubefunc import errors
from kubefunc.backends.kubernetes.diagnose import starting
from kubefunc.backends.kubernetes.diagnose.creation import creation_trouble
from kubefunc.backends.kubernetes.diagnose.finding import Finding
from kubefunc.backends.kubernetes.objects.views import pod_view
from kubefunc.diagnosis import Diagnosis
from tests.unit.statuses import CREATING, RUNNING, disrupted, pod, terminated, waiting

UNPULLED = 'failed to pull and unpack image "docker.io/x:1": failed to resolve reference "docker.io/x:1": '


def start(status: dict[str, object]) -> Finding | None:
    """What the status of such a Pod tells."""
    return starting.start_trouble(pod_view(status))


def creation(message: str) -> Finding:
    """What a FailedCreate Event with this message means."""
    return creation_trouble(f'Error creating: pods "train-x-" is forbidden: {message}')


@pytest.mark.parametrize("main", [None, CREATING, waiting("PodInitializing"), RUNNING])
def test_a_healthy_start_is_no_trouble(main: dict[str, object] | None) -> None:
    """Containers are made one after another; that is not worth a word."""
    assert start(pod(main, main)) is None


@pytest.mark.parametrize(
    ("words", "message", "patience"),
    [
        (f"{UNPULLED}docker.io/x:1: not found", "does not exist", 0.0),
        (
            f"{UNPULLED}pull access denied, repository does not exist or may require authorization",
            "or it is private",
            0,
        ),
        (f"{UNPULLED}unexpected status from HEAD request: 403 Forbidden", "refused access", 0.0),
        ("no match for platform in manifest: not found", "type of processor", 0.0),
        (f"{UNPULLED}429 Too Many Requests - toomanyrequests", "rate-limiting pulls", None),
        (f"{UNPULLED}502 Bad Gateway", "reports an error of its own", None),
        ("write /var/lib/x: no space left on device", "disk is too full", None),
        ("dial tcp: lookup registry on 10.0.0.10:53: no such host", "cannot get the image", 10.0),
    ],
)
def test_images(words: str, message: str, patience: float | None) -> None:
    """The registry's words decide whether it is final, may pass soon, or passes by itself; the image is named."""
    finding = start(pod(waiting("ErrImagePull", words), CREATING))
    assert finding is not None
    assert finding.error is errors.ImagePullError
    assert message in finding.message
    assert "python:3.12-slim" in finding.message
    assert finding.fatal_after == patience
    assert words in finding.words[0]


def test_the_containers_beside_main_count_too() -> None:
    """A courier or a container of the user's that does not start keeps the Pod from running."""
    missing = waiting("CreateContainerConfigError", 'secret "s3" not found')
    for status in (pod(RUNNING, missing), pod(CREATING, CREATING, init=missing)):
        finding = start(status)
        assert finding is not None
        assert finding.error is errors.PodConfigError
        assert "Secret 's3'" in finding.message


def test_a_container_before_main_that_fails() -> None:
    """The Job would try it again for minutes, in silence; the error shows that container's output."""
    finding = start(pod(waiting("PodInitializing"), init=terminated(7), phase="Failed"))
    assert finding is not None
    assert finding.error is errors.PodConfigError
    assert (finding.container, finding.exit_code, finding.job_goes_on) == ("prepare", 7, True)
    assert "'prepare'" in finding.message


def test_a_disrupted_start_is_no_fault_of_its_containers() -> None:
    """A node drained while the Pod prepared: it is replaced."""
    gone = disrupted("EvictionByEvictionAPI")
    assert start(pod(waiting("PodInitializing"), init=terminated(137), phase="Failed", conditions=(gone,))) is None


@pytest.mark.parametrize(
    ("words", "message", "advice"),
    [
        ("0/3 nodes are available: 3 Insufficient cpu.", "none has that much cpu free", "cpu="),
        ("0/3 nodes are available: 1 Insufficient memory, 2 Insufficient nvidia.com/gpu.", "memory and nvidia", "gpu="),
        ("0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector.", "labels", "node_selector="),
        ("0/3 nodes are available: 3 node(s) had untolerated taint {gpu: yes}.", "reserved", "tolerations="),
    ],
)
def test_no_node(words: str, message: str, advice: str) -> None:
    """It waits, and says for what, with the option that would change it."""
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": words}
    finding = start(pod(node=None, conditions=(condition,), phase="Pending"))
    assert finding is not None
    assert (finding.error, finding.fatal_after) == (errors.UnschedulableError, None)
    assert message in finding.message
    assert advice in finding.advice


def test_a_gated_pod() -> None:
    """Kueue and its kind."""
    condition = {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}
    finding = start(pod(node=None, conditions=(condition,), phase="Pending"))
    assert finding is not None
    assert (finding.reason, finding.fatal_after) == ("SchedulingGated", None)


@pytest.mark.parametrize(
    ("message", "error", "reason", "patience"),
    [
        (
            "exceeded quota: q, requested: pods=1, used: pods=0, limited: pods=0",
            *(errors.QuotaExceededError, "QuotaExceeded", 0.0),
        ),
        (
            "exceeded quota: q, requested: pods=1, used: pods=5, limited: pods=5",
            *(errors.QuotaExceededError, "QuotaExceeded", None),
        ),
        (
            "failed quota: q: must specify limits.cpu for: main",
            *(errors.AdmissionError, "QuotaDemandsLimits", 0.0),
        ),
        (
            'violates PodSecurity "restricted:latest": runAsNonRoot != true (pod must set runAsNonRoot=true)',
            *(errors.AdmissionError, "PodSecurity", 0.0),
        ),
        (
            'admission webhook "policy.example.com" denied the request: label team is missing',
            *(errors.AdmissionError, "AdmissionDenied", 0.0),
        ),
        (
            "maximum cpu usage per Container is 2, but limit is 4",
            *(errors.AdmissionError, "LimitRange", 0.0),
        ),
        (
            'error looking up service account ns/nobody: serviceaccount "nobody" not found',
            *(errors.PodConfigError, "ServiceAccount", 2.0),
        ),
        (
            "no PriorityClass with name nope was found",
            *(errors.PodConfigError, "PriorityClass", 0.0),
        ),
    ],
)
def test_pods_that_are_not_made(
    message: str, error: type[errors.KubefuncError], reason: str, patience: float | None
) -> None:
    """Final is what no waiting changes."""
    finding = creation(message)
    assert (finding.error, finding.reason, finding.fatal_after) == (error, reason, patience)
    assert message in finding.words[0]


def test_a_webhook_that_does_not_answer_is_waited_for() -> None:
    """The Job controller asks again by itself."""
    finding = creation_trouble('Internal error occurred: failed calling webhook "x.example.com": timeout')
    assert (finding.reason, finding.fatal_after) == ("WebhookUnreachable", None)


# -- Events


def event(reason: str, message: str = "") -> dict[str, object]:
    """One, as far as it matters."""
    return {"reason": reason, "message": message}


UNPLACED = event("FailedScheduling", "0/1 nodes are available: 1 Insufficient cpu.")


def test_the_newest_words_decide() -> None:
    """A quota that was used up, then a rule that refuses."""
    used_up = event("FailedCreate", "exceeded quota: q, requested: pods=1, used: pods=5, limited: pods=5")
    refused = event("FailedCreate", 'violates PodSecurity "baseline:latest": host namespaces')
    finding = starting.event_trouble([used_up, refused])
    assert finding is not None
    assert finding.reason == "PodSecurity"


def test_trouble_that_is_over_is_not_told() -> None:
    """Once the Pod has its node, nobody waits for one."""
    assert starting.event_trouble([UNPLACED, event("Scheduled"), event("Pulling")]) is None
    assert starting.event_trouble([UNPLACED, event("Unknown", "no words of ours")]) is not None


def test_a_volume_that_names_what_is_not_there() -> None:
    """Kind and name of what is missing."""
    words = 'MountVolume.SetUp failed for volume "data" : configmap "settings" not found'
    finding = starting.event_trouble([event("FailedMount", words)])
    assert finding is not None
    assert (finding.error, finding.fatal_after) == (errors.PodConfigError, 0.0)
    assert "ConfigMap 'settings'" in finding.message


@pytest.mark.parametrize("words", ['secret "train-abcdefgh" not found', "failed to sync secret cache: timed out"])
def test_a_node_that_has_not_heard_of_our_secret_yet(words: str) -> None:
    """It was made before the Job, and no fault of the caller's: it is waited for."""
    words = f'MountVolume.SetUp failed for volume "kubefunc-in" : {words}'
    finding = starting.event_trouble([event("FailedMount", words)])
    assert finding is not None
    assert finding.fatal_after is None
    assert "own Secret" in finding.message


def test_schedule_timeout_tells_what_was_waited_for() -> None:
    """Class, advice and the cluster's words are those of what stood in the way."""
    waited = starting.event_trouble([UNPLACED])
    finding = starting.gave_up_waiting(waited, 30)
    assert (finding.error, finding.fatal_after) == (errors.UnschedulableError, 0.0)
    assert "schedule_timeout=30 s" in finding.message
    assert "Insufficient cpu" in finding.words[0]
    assert starting.gave_up_waiting(None, 30).error is errors.PodStartError


def test_what_comes_next_is_told_to_those_who_wait() -> None:
    """An error is the end: it does not promise that the call is tried again, or starts when there is room."""
    full = "exceeded quota: q, requested: pods=1, used: pods=5, limited: pods=5"
    silent = 'Internal error occurred: failed calling webhook "x.example.com": timeout'
    passing = [
        *(starting.event_trouble([each]) for each in (UNPLACED, event("FailedCreatePodSandBox", "network"))),
        creation(full),
        *(creation_trouble(words) for words in (silent, "etcd is busy")),
        start(pod(waiting("ErrImagePull", f"{UNPULLED}429 Too Many Requests"), CREATING)),
        start(pod(waiting("ErrImagePull", f"{UNPULLED}502 Bad Gateway"), CREATING)),
        start(pod(waiting("CreateContainerError", "context deadline exceeded"), CREATING)),
    ]
    for finding in passing:
        assert finding is not None
        assert finding.fatal_after is None
        assert finding.outlook
        error = str(starting.gave_up_waiting(finding, 30).as_error(Diagnosis("", "")))
        assert finding.outlook not in error
        assert "Wait" not in error
        assert "again." not in error
        assert "raise schedule_timeout=" in error


def test_a_suspended_job() -> None:
    """Kueue's label tells that it is queued, and where; without one nobody knows who holds it."""
    queued, held = starting.held_back("team-a"), starting.held_back("")
    assert (queued.error, queued.fatal_after) == (errors.UnschedulableError, None)
    assert "queued" in queued.message
    assert "'team-a'" in queued.message
    assert "suspended" in held.message


def test_an_image_that_nobody_has_asked_for() -> None:
    """Who meets it in an error is told that it is kubefunc's choice, and how to set another."""
    unreachable = waiting("ErrImagePull", "dial tcp: i/o timeout")
    status = pod_view(pod(unreachable, CREATING))
    chosen = starting.start_trouble(status, default_image="python:3.12-slim")
    asked_for = starting.start_trouble(status)
    other = starting.start_trouble(status, default_image="python:3.13-slim")
    assert chosen is not None
    assert asked_for is not None
    assert asked_for == other
    assert "kubefunc chose this image" in chosen.message
    assert "kubefunc" not in asked_for.message
    for way in ("image=", "KUBEFUNC_IMAGE", "python:3.12-slim"):
        assert way in chosen.advice
    assert (chosen.error, chosen.fatal_after) == (asked_for.error, asked_for.fatal_after)


def test_other_trouble_than_the_image_is_not_put_down_to_it() -> None:
    """A Secret that is missing has nothing to do with who chose the image."""
    status = pod_view(pod(waiting("CreateContainerConfigError", 'secret "s3" not found'), CREATING))
    assert starting.start_trouble(status, default_image="python:3.12-slim") == starting.start_trouble(status)
