"""Why a Pod is not made, not placed or not started: the cluster's words in, findings out. Pure.

Kubernetes has few codes for these; the words are all there is, and they differ between releases, container runtimes
and registries. So what is not recognised is passed on in the cluster's own words, and given some time to pass.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence

from kubefunc import errors
from kubefunc.backends.kubernetes.diagnose.creation import creation_trouble
from kubefunc.backends.kubernetes.diagnose.finding import TELL, TRIED_AGAIN, Finding, sharper, worded
from kubefunc.backends.kubernetes.diagnose.images import image_trouble, of_default_image
from kubefunc.backends.kubernetes.diagnose.missing import OTHER_PATIENCE, OWN_VOLUME, missing_object
from kubefunc.backends.kubernetes.diagnose.mounting import MOUNT_EVENTS, about_volumes
from kubefunc.backends.kubernetes.diagnose.sandbox import sandbox_trouble
from kubefunc.backends.kubernetes.objects import fields
from kubefunc.backends.kubernetes.objects.fields import JsonDict
from kubefunc.backends.kubernetes.objects.user_volumes import Mounted
from kubefunc.backends.kubernetes.objects.views import Container, Pod

# -- the whole Pod


def start_trouble(pod: Pod, default_image: str | None = None) -> Finding | None:
    """Why a Pod has not started, as far as its status tells. ``default_image``: one that nobody has asked for."""
    return about_volumes(_status_trouble(pod, default_image), pod.volumes)


def _status_trouble(pod: Pod, default_image: str | None) -> Finding | None:
    if pod.unscheduled:
        return scheduling_trouble(pod.unscheduled, pod.unscheduled_message)
    failed = next((each for each in pod.initial if each.state == "terminated" and each.exit_code), None)
    if failed is not None and pod.phase == "Failed" and not pod.disruption:
        return _preparation_trouble(failed)
    waiting = (container for container in pod.containers if container.state == "waiting")
    for each in waiting:
        finding = waiting_trouble(each.reason, each.message, each.image)
        if finding is not None:
            return of_default_image(finding, each.image) if each.image == default_image else finding
    return None


def _preparation_trouble(failed: Container) -> Finding:
    return Finding(
        errors.PodConfigError,
        "InitContainerFailed",
        f"The init container {failed.name!r} from pod_template=, which runs before the function, failed: "
        f"exit code {failed.exit_code}.",
        "Correct it in pod_template=. Its last output is shown above.",
        (worded(f"{failed.name} {failed.reason}, exit code {failed.exit_code}", failed.message),),
        exit_code=failed.exit_code,
        container=failed.name,
        job_goes_on=True,
    )


def gave_up_waiting(finding: Finding | None, seconds: float) -> Finding:
    """``schedule_timeout`` has run out: what it waited for is the error."""
    message = f"The function did not start within schedule_timeout={seconds:g} s."
    if finding is None:
        return Finding(
            errors.PodStartError,
            "ScheduleTimeout",
            f"{message} The cluster gave no reason.",
            "Raise schedule_timeout=. Pulling a large image alone can take minutes.",
        )
    return dataclasses.replace(
        finding,
        message=f"{message} {finding.message}",
        advice=f"{finding.advice} To wait longer, raise schedule_timeout=.",
        fatal_after=0.0,
    )


def held_back(queue: str) -> Finding:
    """A suspended Job has no Pod. ``queue``: the one of Kueue that its label names, or an empty text."""
    if queue:
        return Finding(
            errors.UnschedulableError,
            "Suspended",
            f"The Job is queued: it is suspended until Kueue's queue {queue!r} admits it.",
            "`kubectl describe workloads` shows what it waits for. Ask the administrator of the queue.",
            fatal_after=None,
        )
    return Finding(
        errors.UnschedulableError,
        "Suspended",
        "The Job is suspended, so it has no Pod: a queue in the cluster (such as Kueue) or a person holds it.",
        "Ask your cluster's administrator who suspends Jobs.",
        fatal_after=None,
    )


# -- containers that wait


def waiting_trouble(reason: str, words: str, image: str) -> Finding | None:
    """What a waiting container's reason means; None for those of a healthy start."""
    if reason in (
        *("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"),
        *("ImageInspectError", "RegistryUnavailable"),
    ):
        return image_trouble(reason, words, image)
    if reason in ("CreateContainerConfigError", "CreateContainerError", "RunContainerError"):
        return _container_trouble(reason, words)
    if reason == "CrashLoopBackOff":  # only containers beside ours are ever started again
        return Finding(
            errors.PodConfigError,
            reason,
            "A container that runs beside the function keeps failing.",
            "Correct it in pod_template=. `kubectl logs` shows its output.",
            (worded(reason, words),),
            None,
            outlook=TRIED_AGAIN,
        )
    return None


def _container_trouble(reason: str, words: str) -> Finding:
    line = worded(reason, words)
    missing = missing_object(words, reason, line)
    if missing is not None:
        return missing
    if "runAsNonRoot" in words or "non-root" in words:
        return Finding(
            errors.PodConfigError,
            reason,
            "The Pod must not run as root, but the image does.",
            "Set the number of another user: run_as_user=1000.",
            (line,),
        )
    passing = "timed out" in words or "deadline exceeded" in words or "is reserved for" in words
    return Finding(
        errors.PodConfigError,
        reason,
        "The node cannot create the function's container.",
        TELL if passing else "Correct in env= or pod_template= what the cluster's message names.",
        (line,),
        None if passing else OTHER_PATIENCE,
        outlook=TRIED_AGAIN if passing else "",
    )


# -- scheduling

_GATED = "SchedulingGated"
_WAITS_ON = "schedule_timeout= limits the waiting."


def scheduling_trouble(reason: str, words: str) -> Finding:
    """Why no node has taken the Pod: the message of its condition ``PodScheduled`` or of the Event."""
    line = worded(reason, words)
    missing = missing_object(words, "Unschedulable", line)
    if missing is not None:
        return missing
    if reason == _GATED:
        return Finding(
            errors.UnschedulableError,
            _GATED,
            "The Pod waits for a queue in the cluster, such as Kueue (it has a scheduling gate).",
            "Ask the administrator of the queue.",
            (line,),
            None,
            outlook=_WAITS_ON,
        )
    lacking, advice = _what_nodes_lack(words)
    return Finding(
        errors.UnschedulableError,
        "Unschedulable",
        f"No node can take the function now{lacking}.",
        advice,
        (line,),
        None,
        outlook=f"It starts as soon as a node fits; {_WAITS_ON}",
    )


def _what_nodes_lack(words: str) -> tuple[str, str]:
    short = list(dict.fromkeys(re.findall(r"Insufficient ([\w./-]+?)(?=[,.;]?(?:\s|$))", words)))
    if short:
        options = " or ".join(_OPTION_OF.get(name, "gpu=" if "gpu" in name else "pod_template=") for name in short)
        return f": none has that much {' and '.join(short)} free", f"Ask for less ({options})."
    if "node affinity" in words or "node selector" in words:
        return (
            ": none has the labels that the call asks for",
            "Compare node_selector= with `kubectl get nodes --show-labels`.",
        )
    if "untolerated taint" in words:
        return (
            ": they are reserved for other work (tainted), or not ready",
            "If you may use a reserved node, set tolerations=.",
        )
    if "PersistentVolumeClaim" in words or "volume node affinity" in words:
        return ": a volume of the Pod is not available there", "Check the volumes in pod_template=."
    return "", "Check cpu=, memory=, gpu= and node_selector=."


_OPTION_OF = {"cpu": "cpu=", "memory": "memory="}
# -- Events


# After one of these, what an Event before it complained of is over.
_PROGRESS = ("SuccessfulCreate", "Scheduled", "Pulling", "Pulled", "Created", "Started")


def event_trouble(events: Iterable[JsonDict], volumes: Sequence[Mounted] = ()) -> Finding | None:
    """What the Events of a Pod or Job that does not get on say, oldest first. The newest words decide.

    ``volumes``: those of the Pod that the option ``volumes`` has put there.
    """
    finding = None
    for event in events:
        reason = fields.text(event, "reason")
        if reason in _PROGRESS:
            finding = None
            continue
        found = about_volumes(_of_event(reason, fields.text(event, "message").strip()), volumes)
        finding = sharper(finding, found or finding)
    return finding


def _of_event(reason: str, words: str) -> Finding | None:
    if reason == "FailedCreate":
        return creation_trouble(words)
    if reason == "FailedScheduling":
        return scheduling_trouble(reason, words)
    if f'for volume "{OWN_VOLUME}"' in words:
        return Finding(
            errors.PodConfigError,
            reason,
            "The node has not received the call's own Secret yet.",
            "If it does not get better, somebody deleted the Secret, or the node lost its connection.",
            (worded(reason, words),),
            None,
            outlook=TRIED_AGAIN,
        )
    if reason == "FailedCreatePodSandBox" and (lacks := sandbox_trouble(words, worded(reason, words))) is not None:
        return lacks
    if reason in (*MOUNT_EVENTS, "FailedCreatePodSandBox"):
        words = " ".join(words.split())  # mount(8) prints several lines
        return missing_object(words, reason, worded(reason, words)) or Finding(
            errors.PodConfigError,
            reason,
            "The node cannot set up the Pod's network."
            if reason == "FailedCreatePodSandBox"
            else "The node cannot mount a volume of the Pod.",
            TELL,
            (worded(reason, words),),
            None,
            outlook=TRIED_AGAIN,
            at_once=reason in MOUNT_EVENTS,
        )
    return None
