"""What a Pod's, a Job's and an Event's fields mean for a call. Pure: dicts in, findings out.

The order of the questions is the order of a Pod's life; the first that applies is the answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kubefunc import errors
from kubefunc.backends.kubernetes.refusals import quota_is_hopeless
from kubefunc.diagnosis import Diagnosis, Phase
from kubefunc.runner import COURIER, EXIT_RAISED, EXIT_TERMINATED, EXIT_VALUE, MAIN

JsonDict = dict[str, Any]


@dataclass(frozen=True)
class Container:
    """The state of one container. ``state`` is ``waiting``, ``running``, ``terminated`` or empty."""

    state: str = ""
    reason: str = ""
    message: str = ""
    exit_code: int | None = None
    signal: int | None = None


@dataclass(frozen=True)
class Pod:
    """What matters of a Pod."""

    name: str
    uid: str
    job: str
    job_uid: str
    phase: str
    node: str | None
    main: Container
    courier: Container
    reason: str = ""
    message: str = ""
    unschedulable: str = ""
    disruption: str = ""
    disruption_message: str = ""
    deleting: bool = False
    grace: float = 30.0

    @property
    def where(self) -> Phase:
        if self.main.state == "terminated":
            return Phase.FETCHING
        if self.main.state == "running":
            return Phase.RUNNING
        return Phase.STARTING if self.node else Phase.PENDING


@dataclass(frozen=True)
class Finding:
    """Why a call does not go on. ``fatal_after``: seconds that it must last to end the call; None: wait on and say so."""  # noqa: E501

    error: type[errors.KubefuncError]
    reason: str
    message: str
    advice: str
    words: tuple[str, ...] = ()
    fatal_after: float | None = 0.0
    exit_code: int | None = None

    def as_error(self, known: Diagnosis) -> errors.KubefuncError:
        """The error, with all that is known of the call."""
        import dataclasses

        told = dataclasses.replace(
            known,
            reason=self.reason,
            message=self.message,
            advice=self.advice,
            events=(*known.events, *(word for word in self.words if word not in known.events)),
            exit_code=self.exit_code,
        )
        return self.error(str(told), diagnosis=told)


# -- reading


def pod_view(pod: JsonDict) -> Pod:
    """The fields that matter, each of which may be missing."""
    metadata, spec, status = pod["metadata"], pod.get("spec", {}), pod.get("status", {})
    owner: JsonDict = next((ref for ref in metadata.get("ownerReferences", []) if ref.get("kind") == "Job"), {})
    conditions = {condition["type"]: condition for condition in status.get("conditions", [])}
    scheduled = conditions.get("PodScheduled", {})
    unschedulable = scheduled.get("status") == "False"
    disruption = conditions.get("DisruptionTarget", {})
    disrupted = disruption.get("status") == "True"
    containers = {each["name"]: _container(each) for each in status.get("containerStatuses", [])}
    return Pod(
        name=metadata["name"],
        uid=metadata.get("uid", ""),
        job=owner.get("name", ""),
        job_uid=owner.get("uid", ""),
        phase=status.get("phase", "Pending"),
        node=spec.get("nodeName"),
        main=containers.get(MAIN, Container()),
        courier=containers.get(COURIER, Container()),
        reason=status.get("reason", ""),
        message=status.get("message", ""),
        unschedulable=_sentence(scheduled) if unschedulable else "",
        disruption=disruption.get("reason", "") if disrupted else "",
        disruption_message=disruption.get("message", "") if disrupted else "",
        deleting="deletionTimestamp" in metadata,
        grace=float(metadata.get("deletionGracePeriodSeconds") or 30),
    )


def _container(status: JsonDict) -> Container:
    for state in ("terminated", "running", "waiting"):
        found = status.get("state", {}).get(state)
        if found is not None:
            return Container(
                state,
                found.get("reason", ""),
                found.get("message", ""),
                found.get("exitCode"),
                found.get("signal"),
            )
    return Container()


def _sentence(condition: JsonDict) -> str:
    reason, message = condition.get("reason", ""), condition.get("message", "")
    return f"{reason}: {message}" if message else reason


def event_line(event: JsonDict) -> str:
    """An Event as one line: reason and message."""
    return f"{event.get('reason', '')}: {event.get('message', '').strip()}"


# -- a Pod that does not start


def start_trouble(pod: Pod) -> Finding | None:
    """Why a Pod has not started, as far as its status tells."""
    if pod.unschedulable and pod.node is None:
        return _unschedulable(pod.unschedulable)
    waiting = pod.main if pod.main.state == "waiting" else pod.courier
    if waiting.state != "waiting":
        return None
    return waiting_trouble(waiting.reason, waiting.message)


def _unschedulable(words: str) -> Finding:
    return Finding(
        errors.UnschedulableError,
        "Unschedulable",
        "No node has room for the function now.",
        "Ask for less cpu=, memory= or gpu=, check node_selector= and tolerations=, or wait; "
        "schedule_timeout= sets how long.",
        (words,),
        fatal_after=None,
    )


def waiting_trouble(reason: str, message: str) -> Finding | None:
    """What a waiting container's reason means; None for those of a healthy start."""
    words = (f"{reason}: {message}" if message else reason,)
    if reason in ("InvalidImageName", "ErrImageNeverPull"):
        return _image(words, 0.0)
    if reason in ("ErrImagePull", "ImagePullBackOff", "ImageInspectError", "RegistryUnavailable"):
        return _image(words, image_patience(message))
    if reason in ("CreateContainerConfigError", "CreateContainerError", "RunContainerError"):
        return _config("PodConfig", words, 1.5)
    return None


_RATE = re.compile(r"toomanyrequests|too many requests|rate limit|\b429\b", re.I)
_REFUSED = re.compile(
    r"not found|manifest unknown|does not exist|access denied|unauthorized|authentication required|"
    r"\bdenied\b|forbidden|no match for platform|invalid reference",
    re.I,
)


def image_patience(message: str) -> float | None:
    """Seconds that a pull error must last to be final; None: it passes by itself.

    >>> image_patience("pull access denied, repository does not exist")
    0.0
    >>> image_patience("dial tcp: lookup registry: no such host")
    10.0
    >>> image_patience("429 Too Many Requests") is None
    True
    """
    if _RATE.search(message):
        return None
    return 0.0 if _REFUSED.search(message) else 10.0


def _image(words: tuple[str, ...], patience: float | None) -> Finding:
    return Finding(
        errors.ImagePullError,
        "ImagePull",
        "The image cannot be pulled.",
        "Check image= for spelling and tag; for a private registry name its Secret: image_pull_secrets=[...].",
        words,
        patience,
    )


def _config(reason: str, words: tuple[str, ...], patience: float) -> Finding:
    return Finding(
        errors.PodConfigError,
        reason,
        "The Pod cannot be set up as it is described.",
        "Create what is missing in this namespace, or correct the name in env= or pod_template=.",
        words,
        patience,
    )


_MOUNT_MISSING = re.compile(r'(secret|configmap|persistentvolumeclaim) "[^"]*" not found|references non-existent', re.I)


def event_trouble(events: Iterable[JsonDict]) -> Finding | None:
    """What the Events of a Pod or Job that does not get on say. The newest words decide."""
    finding = None
    for event in events:
        reason, message = event.get("reason", ""), event.get("message", "")
        words = (event_line(event),)
        if reason == "FailedMount" and _MOUNT_MISSING.search(message):
            finding = _config("FailedMount", words, 0.0)
        elif reason in ("FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox"):
            finding = Finding(
                errors.PodConfigError,
                reason,
                "The node has trouble setting the Pod up.",
                "It tries again by itself; tell whoever runs the cluster if it lasts.",
                words,
                None,
            )
        elif reason == "FailedCreate":
            finding = creation_trouble(message)
        elif reason == "FailedScheduling":
            finding = _unschedulable(event_line(event))
    return finding


def creation_trouble(message: str) -> Finding:
    """Why the Job controller could not make the Pod (``FailedCreate``)."""
    words = (f"FailedCreate: {message}",)
    hopeless = quota_is_hopeless(message)
    if hopeless is not None:
        return Finding(
            errors.QuotaExceededError,
            "QuotaExceeded",
            "The namespace's quota can never give what is asked for."
            if hopeless
            else "The namespace's quota is used up now.",
            "Ask for less, or ask whoever runs the cluster for a larger quota.",
            words,
            0.0 if hopeless else None,
        )
    if "violates PodSecurity" in message:
        return Finding(
            errors.AdmissionError,
            "PodSecurity",
            "The namespace's Pod Security level does not allow this Pod.",
            "Under 'restricted' the function must not run as root: run_as_user=1000.",
            words,
        )
    if "must specify" in message or ("admission webhook" in message and "denied" in message):
        return Finding(
            errors.AdmissionError,
            "AdmissionDenied",
            "The cluster's rules do not allow this Pod.",
            "The cluster's words name the rule; set the option it asks for (cpu=, memory=, labels=, pod_template=).",
            words,
        )
    if "serviceaccount" in message and "not found" in message:
        return _config("ServiceAccount", words, 10.0)
    if "is forbidden" in message or "is invalid" in message:
        return Finding(
            errors.AdmissionError,
            "FailedCreate",
            "The cluster refuses to make the Pod.",
            "The cluster's words name what it refuses.",
            words,
            10.0,
        )
    return Finding(
        errors.PodStartError, "FailedCreate", "The Pod cannot be made now.", "It is tried again.", words, None
    )


# -- a Pod whose main has ended without an envelope


def main_trouble(pod: Pod) -> Finding | None:
    """Why ``main`` ended without a result of its own; None where another Pod takes its place."""
    main, words = pod.main, _pod_words(pod)
    if main.exit_code in (EXIT_VALUE, EXIT_RAISED) and main.reason != "OOMKilled":
        return Finding(
            errors.ResultLostError,
            "ResultLost",
            "The function has ended, but its result is gone: no channel had it any more.",
            "Run it again. For results that must survive long absences, keep the client running or raise fetch_grace=.",
            words,
            exit_code=main.exit_code,
        )
    if pod.disruption or main.exit_code == EXIT_TERMINATED or pod.deleting:
        return None
    if main.reason == "OOMKilled":
        return out_of_memory(words)
    if main.exit_code == 128 or main.reason in ("StartError", "ContainerCannotRun"):
        return Finding(
            errors.PodConfigError,
            main.reason or "StartError",
            "The image cannot start the function: it needs a python3 on its PATH.",
            "Use an image with Python, such as the default, or one made from it.",
            words,
            exit_code=main.exit_code,
        )
    number = main.exit_code - 128 if main.exit_code is not None and 128 < main.exit_code < 160 else None
    how = f"by signal {number}" if number else f"with exit code {main.exit_code}"
    return Finding(
        errors.WorkerDiedError,
        "WorkerDied",
        f"The container ended {how} before the function did.",
        "The last output may say why. Exit 137 without OOMKilled means that something on the node killed it.",
        words,
        exit_code=main.exit_code,
    )


def out_of_memory(words: tuple[str, ...]) -> Finding:
    return Finding(
        errors.OutOfMemoryError,
        "OOMKilled",
        "The function used more memory than its limit, and the kernel killed it.",
        'Raise memory=, or let it grow by itself: memory=("1Gi", "8Gi").',
        words,
        exit_code=137,
    )


def pod_end_trouble(pod: Pod) -> Finding | None:
    """A Pod that failed as a whole, without its ``main`` having ended by itself."""
    if pod.phase != "Failed":
        return None
    words = _pod_words(pod)
    if pod.reason == "Evicted" and not pod.disruption:
        return Finding(
            errors.EvictedError,
            "Evicted",
            "The kubelet evicted the Pod for the disk space it used.",
            "Write less to /tmp, or raise the limit in pod_template=.",
            words,
        )
    if pod.reason == "DeadlineExceeded":
        return Finding(
            errors.CallTimeoutError,
            "DeadlineExceeded",
            "The Pod's own deadline ran out: the function's timeout, all attempts and the image pull together.",
            "Raise timeout= or pull_allowance=.",
            words,
        )
    return None


def _pod_words(pod: Pod) -> tuple[str, ...]:
    main = pod.main
    ended = f"main {main.reason or main.state}" + (
        f", exit code {main.exit_code}" if main.exit_code is not None else ""
    )
    words = [ended + (f": {main.message}" if main.message and not main.message.startswith("kubefunc:") else "")]
    if pod.reason:
        words.append(f"{pod.reason}: {pod.message}")
    if pod.disruption:
        words.append(f"DisruptionTarget {pod.disruption}: {pod.disruption_message}")
    return tuple(words)


# -- the Job


@dataclass(frozen=True)
class Job:
    """What matters of a Job."""

    name: str
    uid: str
    call: str
    suspended: bool
    failed: str
    failed_message: str
    complete: bool = False


def job_view(job: JsonDict) -> Job:
    """The fields that matter of a Job."""
    metadata, status = job["metadata"], job.get("status", {})
    failed: Mapping[str, Any] = next(
        (
            condition
            for condition in status.get("conditions", [])
            if condition["type"] in ("Failed", "FailureTarget") and condition.get("status") == "True"
        ),
        {},
    )
    return Job(
        name=metadata["name"],
        uid=metadata.get("uid", ""),
        call=metadata.get("labels", {}).get("kubefunc/call", ""),
        suspended=bool(job.get("spec", {}).get("suspend")),
        failed=failed.get("reason", ""),
        failed_message=failed.get("message", ""),
        complete=any(
            condition["type"] in ("Complete", "SuccessCriteriaMet") and condition.get("status") == "True"
            for condition in status.get("conditions", [])
        ),
    )


def job_trouble(job: Job, pods: Sequence[Pod]) -> Finding | None:
    """Why a Job failed that left no result behind."""
    if not job.failed:
        return None
    words = (f"{job.failed}: {job.failed_message}", *(word for pod in pods for word in _pod_words(pod)))
    if job.failed == "DeadlineExceeded":
        return Finding(
            errors.CallTimeoutError,
            "DeadlineExceeded",
            "The Job's deadline ran out, waiting for its start included.",
            "Raise deadline=.",
            words,
        )
    return Finding(
        errors.PodLostError,
        job.failed,
        "The Pods of this call were taken away more often than max_disruptions allows.",
        "Raise max_disruptions=, or ask why Pods are deleted or nodes drained.",
        words,
    )


def result_gone(job: Job) -> Finding:
    """The Job ended well, and no Pod of it is there any more."""
    return Finding(
        errors.ResultLostError,
        "ResultLost",
        f"The Job {job.name} has ended, but its Pod is gone, and the result with it.",
        "Run it again, and collect it before its Pod is removed: ttl= says how long it stays.",
    )


def deleted(job: str) -> Finding:
    return Finding(
        errors.JobDeletedError,
        "JobDeleted",
        f"Someone else deleted the Job {job}.",
        "Run it again; ask who cleans up in this namespace.",
    )


def lost(pod: Pod) -> Finding:
    """A Pod that stays Terminating past its grace: its node is dead or cut off."""
    return Finding(
        errors.PodLostError,
        "PodLost",
        f"The Pod is gone with its node {pod.node}: it does not end although it was told to.",
        "It is run again elsewhere, up to max_disruptions= times.",
        _pod_words(pod),
    )


def gave_up_waiting(finding: Finding | None, seconds: float) -> Finding:
    """``schedule_timeout`` has run out: what it waited for is the error."""
    message = f"The function did not start within schedule_timeout={seconds:g} s."
    if finding is None:
        return Finding(
            errors.PodStartError, "ScheduleTimeout", message, "Raise schedule_timeout=.", ("no reason was given",)
        )
    return Finding(finding.error, finding.reason, f"{message} {finding.message}", finding.advice, finding.words)


def needs_exec(pod: Pod) -> Finding:
    """A result too large for a log, and no permission to fetch it."""
    return Finding(
        errors.ResultLostError,
        "ResultUnreachable",
        "The function has ended, but its result is too large for the Pod's status and log, and exec is refused.",
        "Ask for pods/exec (create, get) in the Role, or write large results to a PersistentVolumeClaim.",
        _pod_words(pod),
    )


def corrupted(pod: Pod, words: str) -> Finding:
    """Every channel was asked, and what came is not what was written."""
    return Finding(
        errors.ResultCorruptedError,
        "ResultCorrupted",
        "The function has ended, but its result arrived damaged. Nothing of it was unpickled.",
        "Run it again; if it happens twice, something between here and the Pod changes bytes.",
        (words,),
    )
