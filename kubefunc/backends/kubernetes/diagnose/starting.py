"""Why a Pod is not made, not placed or not started: the cluster's words in, findings out. Pure.

Kubernetes has few codes for these; the words are all there is, and they differ between releases, container runtimes
and registries. So what is not recognised is passed on in the cluster's own words, and given some time to pass.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from typing import Final

from kubefunc import errors
from kubefunc.backends.kubernetes.api.errors import quota_is_hopeless
from kubefunc.backends.kubernetes.diagnose.finding import Finding, sharper
from kubefunc.backends.kubernetes.diagnose.mounting import MOUNT_EVENTS, about_volumes
from kubefunc.backends.kubernetes.diagnose.sandbox import sandbox_trouble
from kubefunc.backends.kubernetes.objects import fields
from kubefunc.backends.kubernetes.objects.demands import COURIER_LIMITS
from kubefunc.backends.kubernetes.objects.fields import JsonDict
from kubefunc.backends.kubernetes.objects.user_volumes import Mounted
from kubefunc.backends.kubernetes.objects.views import Container, Pod

NETWORK_PATIENCE = 10.0  # seconds: a hiccup of DNS or the network passes sooner
OTHER_PATIENCE = 10.0  # for words that are not known
RECENT_PATIENCE = 2.0  # for what may have been made a moment ago
TRIED_AGAIN = "Kubernetes tries again."
OWN_VOLUME = "kubefunc-in"  # its Secret was made before the Job: a node that misses it has not heard of it yet


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text, re.IGNORECASE)


# -- images

_RATE = _pattern(r"toomanyrequests|too many requests|rate limit|\b429\b")
_REGISTRY_BUSY = _pattern(r"\b50[0234]\b|internal server error|bad gateway|service unavailable")
_EITHER = _pattern(r"does not exist or may require|insufficient_scope")
_NO_BUILD = _pattern(r"no match for platform|no matching manifest")
_ABSENT = _pattern(r"not found|manifest unknown|does not exist|\b404\b")
_DENIED = _pattern(r"\bdenied\b|unauthorized|authentication required|forbidden|\b40[13]\b")
_MALFORMED = _pattern(r"invalid reference|couldn't parse image")

_SPELLING = (
    "Check the spelling and tag in image=. If the image is private, name the Secret with the registry's login: "
    "image_pull_secrets=[...]."
)


def image_trouble(reason: str, words: str, image: str) -> Finding:
    """What it means that an image cannot be had: ``words`` are the kubelet's or the registry's.

    >>> image_trouble("ErrImagePull", "429 Too Many Requests", "thing:1").fatal_after is None
    True
    >>> image_trouble("ErrImagePull", "dial tcp: lookup registry: no such host", "thing:1").fatal_after
    10.0
    """
    message, advice, patience = _image_verdict(reason, words, image or "of the call")
    kind = reason if reason in ("InvalidImageName", "ErrImageNeverPull") else "ErrImagePull"
    vague = reason == "ImagePullBackOff" and _is_back_off_alone(words)
    outlook = TRIED_AGAIN if patience is None else ""
    return Finding(
        errors.ImagePullError, kind, message, advice, (_line(reason, words),), patience, vague=vague, outlook=outlook
    )


def of_default_image(finding: Finding, image: str) -> Finding:
    """The same, where nobody has set ``image=``: who reads it may never have heard of this image.

    >>> finding = image_trouble("ErrImagePull", "dial tcp: i/o timeout", "python:3.11-slim")
    >>> print(of_default_image(finding, "python:3.11-slim").message)
    The node cannot get the image python:3.11-slim from its registry. kubefunc chose this image: none is set.
    """
    if finding.error is not errors.ImagePullError:
        return finding
    return dataclasses.replace(
        finding,
        message=f"{finding.message} kubefunc chose this image: none is set.",
        advice="Set an image that the nodes can pull, with the Python version that runs here: image=..., or "
        "KUBEFUNC_IMAGE=... for all calls. In a cluster without access to the internet, that is a copy of "
        f"{image} in a registry which the nodes reach.",
    )


def _image_verdict(reason: str, words: str, image: str) -> tuple[str, str, float | None]:
    """Sentence, advice and patience."""
    if reason == "InvalidImageName" or _MALFORMED.search(words):
        return f"{image!r} is not the name of an image.", "Correct image=.", 0.0
    if reason == "ErrImageNeverPull":
        return (
            f"The node does not have the image {image}, and with image_pull_policy='Never' it must not pull it.",
            "Use image_pull_policy='IfNotPresent', or load the image onto the nodes.",
            0.0,
        )
    if _RATE.search(words):
        return (
            f"The registry is rate-limiting pulls, including that of {image}.",
            "Call again later, log in to the registry for a higher limit (image_pull_secrets=[...]), or use a mirror.",
            None,
        )
    if _EITHER.search(words):
        return f"The image {image} does not exist, or it is private.", _SPELLING, 0.0
    if _NO_BUILD.search(words):
        return (
            f"The image {image} is not built for the node's type of processor.",
            'Use an image that is, or choose other nodes: node_selector={"kubernetes.io/arch": "amd64"}.',
            0.0,
        )
    if _ABSENT.search(words):
        return f"The image {image} does not exist.", _SPELLING, 0.0
    if _DENIED.search(words):
        return f"The registry refused access to the image {image}.", _SPELLING, 0.0
    if _REGISTRY_BUSY.search(words):
        return f"The registry of the image {image} reports an error of its own.", "Call again later.", None
    if "no space left" in words:
        return (
            f"The node's disk is too full for the image {image}.",
            "Ask your cluster's administrator to look at the node.",
            None,
        )
    return (
        f"The node cannot get the image {image} from its registry.",
        (
            "Check the registry's name in image=. If it is right, the nodes cannot reach it: ask your cluster's "
            "administrator."
        ),
        NETWORK_PATIENCE,
    )


def _is_back_off_alone(words: str) -> bool:
    """Up to Kubernetes 1.31 a back-off does not repeat why (kubernetes#127918)."""
    return re.fullmatch(r'\s*(Back-off pulling image "[^"]*")?\s*', words) is not None


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
        (_line(f"{failed.name} {failed.reason}, exit code {failed.exit_code}", failed.message),),
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
            (_line(reason, words),),
            None,
            outlook=TRIED_AGAIN,
        )
    return None


_NOT_THERE = re.compile(
    r'(?:MountVolume\.SetUp failed for volume "(?P<volume>[^"]*)".*?)?'
    r'\b(?P<kind>secret|configmap|persistentvolumeclaim|serviceaccount) "(?P<name>[^"]*)" (?:was )?not found',
    re.IGNORECASE | re.DOTALL,
)
_KEY_NOT_THERE = re.compile(
    r"(?:couldn't find key (?P<key>\S+) in (?P<kind>Secret|ConfigMap) (?:[^/\s]+/)?(?P<name>\S+))"
    r"|references non-existent (?P<what>secret|config) key: (?P<absent>\S+)",
    re.IGNORECASE,
)
_KINDS = {
    "secret": "Secret",
    "configmap": "ConfigMap",
    "persistentvolumeclaim": "PersistentVolumeClaim",
    "serviceaccount": "ServiceAccount",
}


_TELL = "If it does not get better, tell your cluster's administrator."


def _container_trouble(reason: str, words: str) -> Finding:
    line = _line(reason, words)
    missing = _missing_object(words, reason, line)
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
        _TELL if passing else "Correct in env= or pod_template= what the cluster's message names.",
        (line,),
        None if passing else OTHER_PATIENCE,
        outlook=TRIED_AGAIN if passing else "",
    )


def _missing_object(words: str, reason: str, line: str) -> Finding | None:
    """A Secret or its kind, or a key of it, that the Pod names and that is not there."""
    found = _NOT_THERE.search(words)
    if found is not None and found["volume"] != OWN_VOLUME:
        kind, name = _KINDS[found["kind"].lower()], found["name"]
        return Finding(
            errors.PodConfigError,
            reason,
            f"The {kind} {name!r}, which the call uses, does not exist in its namespace.",
            f"Create it, or correct its name in {_named_in(kind)}.",
            (line,),
        )
    key = _KEY_NOT_THERE.search(words)
    if key is None:
        return None
    which = key["key"] or key["absent"]
    where = f" in the {key['kind']} {key['name']!r}" if key["name"] else ""
    return Finding(
        errors.PodConfigError,
        reason,
        f"There is no key {which!r}{where}.",
        "Add it there, or correct its name in env= or pod_template=.",
        (line,),
    )


def _named_in(kind: str) -> str:
    return "service_account=" if kind == "ServiceAccount" else "env= or pod_template="


# -- scheduling

_GATED = "SchedulingGated"
_WAITS_ON = "schedule_timeout= limits the waiting."


def scheduling_trouble(reason: str, words: str) -> Finding:
    """Why no node has taken the Pod: the message of its condition ``PodScheduled`` or of the Event."""
    line = _line(reason, words)
    missing = _missing_object(words, "Unschedulable", line)
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
_BOUNDED_BY = {"cpu": "cpu= and cpu_limit=", "memory": "memory="}


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
            (_line(reason, words),),
            None,
            outlook=TRIED_AGAIN,
        )
    if reason == "FailedCreatePodSandBox" and (lacks := sandbox_trouble(words, _line(reason, words))) is not None:
        return lacks
    if reason in (*MOUNT_EVENTS, "FailedCreatePodSandBox"):
        return _missing_object(words, reason, _line(reason, words)) or Finding(
            errors.PodConfigError,
            reason,
            "The node cannot set up the Pod's network."
            if reason == "FailedCreatePodSandBox"
            else "The node cannot mount a volume of the Pod.",
            _TELL,
            (_line(reason, words),),
            None,
            outlook=TRIED_AGAIN,
            at_once=reason in MOUNT_EVENTS,
        )
    return None


def _line(reason: str, words: str) -> str:
    return f"{reason}: {words}" if words else reason


# -- Pods that are not made

_LEVEL = re.compile(r'violates PodSecurity "(?P<level>\w+)')
_WEBHOOK_DENIED = re.compile(r'admission webhook "(?P<name>[^"]*)" denied the request')
_WEBHOOK_SILENT = re.compile(r'failed calling webhook "(?P<name>[^"]*)"')
_LIMITS = re.compile(
    r"(?:maximum|minimum) (?P<what>[\w./-]+) usage per (?P<scope>\w+) is|"
    r"(?P<ratio>[\w./-]+) max limit to request ratio per"
)
_PRIORITY_CLASS = re.compile(r"no PriorityClass with name (?P<name>\S+) was found")


DEMANDING: Final = ("QuotaDemandsLimits", "LimitRange")  # what containers must state may be added to them


def creation_trouble(message: str) -> Finding:
    """Why the Job controller could not make the Pod: the message of its Event ``FailedCreate``."""
    words = (_line("FailedCreate", message),)
    for read in (_quota, _pod_security, _webhook, _policy, _names):
        finding = read(message, words)
        if finding is not None:
            return finding
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
        _TELL,
        words,
        None,
        outlook=TRIED_AGAIN,
    )


def _quota(message: str, words: tuple[str, ...]) -> Finding | None:
    if "failed quota" in message and "must specify" in message:
        return Finding(
            errors.AdmissionError,
            "QuotaDemandsLimits",
            "The namespace has a quota, so every container must say how much CPU and memory it needs.",
            "Set cpu=, cpu_limit= and memory=. Set anything else that the cluster's message names in pod_template=.",
            words,
        )
    hopeless = quota_is_hopeless(message)
    if hopeless is None:
        return None
    if hopeless:
        return Finding(
            errors.QuotaExceededError,
            "QuotaExceeded",
            "The call asks for more than the namespace's whole quota, so it could never start.",
            "Ask for less (cpu=, cpu_limit=, memory=, gpu=), or have the quota raised: "
            "`kubectl describe resourcequota` shows it. "
            f"The courier, the second container, counts too: {COURIER_LIMITS}.",
            words,
        )
    return Finding(
        errors.QuotaExceededError,
        "QuotaExceeded",
        "The namespace's quota is used up.",
        "End what you no longer need. `kubectl describe resourcequota` shows what is used.",
        words,
        None,
        outlook="The call starts when other Pods have ended.",
    )


def _pod_security(message: str, words: tuple[str, ...]) -> Finding | None:
    found = _LEVEL.search(message)
    if found is not None:
        wants_user = "runAsNonRoot" in message or "runAsUser" in message
        return Finding(
            errors.AdmissionError,
            "PodSecurity",
            f"The namespace accepts only Pods of the security level {found['level']!r}, and this Pod does not comply.",
            "Run as a user other than root: run_as_user=1000."
            if wants_user
            else "Remove from pod_template= what the cluster's message names.",
            words,
        )
    if "security context constraint" in message:
        return Finding(
            errors.AdmissionError,
            "SecurityContextConstraint",
            "OpenShift's security rules do not allow this Pod.",
            "Do not set run_as_user=: OpenShift chooses the user. Remove from pod_template= what the message names.",
            words,
        )
    return None


def _webhook(message: str, words: tuple[str, ...]) -> Finding | None:
    denied = _WEBHOOK_DENIED.search(message)
    if denied is not None:
        return Finding(
            errors.AdmissionError,
            "AdmissionDenied",
            f"A rule of this cluster ({denied['name']}) does not allow the Pod.",
            "Set what the rule asks for (labels=, cpu=, memory=, image=, pod_template=), or ask your cluster's "
            "administrator.",
            words,
        )
    silent = _WEBHOOK_SILENT.search(message)
    if silent is None:
        return None
    return Finding(
        errors.AdmissionError,
        "WebhookUnreachable",
        f"The admission webhook {silent['name']}, which must approve each Pod, does not answer.",
        _TELL,
        words,
        None,
        outlook=TRIED_AGAIN,
    )


def _policy(message: str, words: tuple[str, ...]) -> Finding | None:
    found = _LIMITS.search(message)
    if found is None:
        return None
    what = found["what"] or found["ratio"]
    return Finding(
        errors.AdmissionError,
        "LimitRange",
        f"The namespace has limits for {what} (a LimitRange), and the Pod is outside of them.",
        f"Set {_BOUNDED_BY.get(what, 'pod_template=')} to a value that the cluster's message allows. "
        f"The sum for the Pod includes the courier, the second container: {COURIER_LIMITS}.",
        words,
    )


def _names(message: str, words: tuple[str, ...]) -> Finding | None:
    """Things that the Pod names and that are not there."""
    priority = _PRIORITY_CLASS.search(message)
    if priority is not None:
        return Finding(
            errors.PodConfigError,
            "PriorityClass",
            f"The cluster has no PriorityClass {priority['name']!r}.",
            "Correct priority_class=: `kubectl get priorityclasses` lists them.",
            words,
        )
    missing = _NOT_THERE.search(message)
    if missing is None or missing["kind"].lower() != "serviceaccount":
        return None
    # A new namespace's ServiceAccount "default" is made a moment after the namespace.
    default = missing["name"] == "default"
    return Finding(
        errors.PodConfigError,
        "ServiceAccount",
        f"The ServiceAccount {missing['name']!r} does not exist in the namespace.",
        "The cluster creates it in every new namespace. Ask your cluster's administrator why it is missing."
        if default
        else "Create it, or correct service_account=.",
        words,
        OTHER_PATIENCE if default else RECENT_PATIENCE,
    )
