"""Findings about volumes that name the option: the cluster's words say which volume of the Pod they are about. Pure."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Final

from kubefunc import errors
from kubefunc.backends.kubernetes.diagnose.finding import Finding
from kubefunc.backends.kubernetes.objects.user_volumes import Mounted

MOUNT_EVENTS: Final = ("FailedMount", "FailedAttachVolume")
_CLAIM: Final = "PersistentVolumeClaim"


def about_volumes(finding: Finding | None, volumes: Sequence[Mounted]) -> Finding | None:
    """The same finding, or one that names ``volumes=`` where its words are about one of the Pod's volumes."""
    if finding is None or not volumes:
        return finding
    words = " ".join(finding.words)
    for judge in _JUDGES:
        told = judge(finding, words, volumes)
        if told is not None:
            return told
    return finding


def _named(words: str, volumes: Sequence[Mounted]) -> Mounted | None:
    """The volume whose name in the Pod the words quote."""
    quoted = set(re.findall(r'"([^"]*)"', words))
    return next((volume for volume in volumes if volume.name in quoted), None)


_MISSING = re.compile(
    r'\b(?P<kind>secret|configmap|persistentvolumeclaim) "(?P<name>[^"]*)" (?:was )?not found', re.IGNORECASE
)
_NO_KEY = re.compile(r"references non-existent (?:secret|config) key: (?P<key>\S+)", re.IGNORECASE)


def _object(finding: Finding, words: str, volumes: Sequence[Mounted]) -> Finding | None:
    found = _MISSING.search(words)
    if found is None:
        return None
    for volume in volumes:
        if (volume.kind.lower(), volume.source) == (found["kind"].lower(), found["name"]):
            return dataclasses.replace(
                finding,
                message=f"The {volume.kind} {volume.source!r}, which is to be mounted at {volume.path}, does not exist "
                "in the namespace.",
                advice=f"Create it, or correct its name in {volume.option}.",
            )
    return None


def _key(finding: Finding, words: str, volumes: Sequence[Mounted]) -> Finding | None:
    found, volume = _NO_KEY.search(words), _named(words, volumes)
    if found is None or volume is None:
        return None
    return dataclasses.replace(
        finding,
        error=errors.PodConfigError,
        message=f"The {volume.kind} {volume.source!r}, which is to be mounted at {volume.path}, has no key "
        f"{found['key']!r}.",
        advice=f"Add the key, or correct items= or sub_path= in {volume.option}.",
        fatal_after=0.0,
        outlook="",
    )


_TYPE_CHECK = re.compile(r"hostPath type check failed: (?P<why>[^\n]*)")


def _host_path(finding: Finding, words: str, volumes: Sequence[Mounted]) -> Finding | None:
    found, volume = _TYPE_CHECK.search(words), _named(words, volumes)
    if found is None or volume is None:
        return None
    return dataclasses.replace(
        finding,
        message=f"The node has no such path for the volume at {volume.path}: {found['why'].rstrip('.')}.",
        advice=f"Correct path= or type= in {volume.option}, or choose a node that has it with node_selector=.",
        fatal_after=0.0,
        outlook="",
    )


_SUB_PATH = re.compile(r"failed to (?:prepare subPath|create subPath directory) for volumeMount")


def _sub_path(finding: Finding, words: str, volumes: Sequence[Mounted]) -> Finding | None:
    volume = _named(words, volumes)
    if volume is None or _SUB_PATH.search(words) is None:
        return None
    return dataclasses.replace(
        finding,
        message=f"The sub_path of the volume at {volume.path} cannot be mounted: it is no directory or file there, and "
        "the node cannot create it.",
        advice=f"Correct sub_path= in {volume.option}: each part of it but the last must be a directory. A missing "
        "directory can only be created if the volume is writable.",
        fatal_after=0.0,
        outlook="",
    )


_ON_A_FILE = re.compile(r'error mounting "[^"]*" to rootfs at "(?P<path>[^"]*)"')


def _on_a_file(finding: Finding, words: str, volumes: Sequence[Mounted]) -> Finding | None:
    """The container runtime: a directory cannot be mounted over a file, nor a file over a directory."""
    found = _ON_A_FILE.search(words)
    volume = next((each for each in volumes if found is not None and each.path == found["path"]), None)
    if volume is None:
        return None
    return dataclasses.replace(
        finding,
        error=errors.PodConfigError,
        reason="MountFailed",
        message=f"The volume cannot be mounted at {volume.path}: the image has a file where the volume has a "
        "directory, or the other way round.",
        advice=f"Use another path in {volume.option}, or mount one file with sub_path=.",
    )


_FULL = re.compile(r'Usage of EmptyDir volume "(?P<name>[^"]*)" exceeds the limit "(?P<limit>[^"]*)"', re.IGNORECASE)


def _full(finding: Finding, words: str, volumes: Sequence[Mounted]) -> Finding | None:
    found = _FULL.search(words)
    volume = next((each for each in volumes if found is not None and each.name == found["name"]), None)
    if found is None or volume is None:
        return None
    return dataclasses.replace(
        finding,
        message=f"The function wrote more to {volume.path} than the volume may hold ({found['limit']}), so Kubernetes "
        "evicted its Pod.",
        advice=f'Write less there, or raise the size: volumes={{"{volume.path}": EmptyDir("...")}}.',
    )


_UNBOUND = re.compile(r"unbound immediate PersistentVolumeClaims|persistent volumes to bind|binding volumes", re.I)
_IN_USE = re.compile(r"ReadWriteOncePod|Multi-Attach error|volume is already (?:exclusively )?attached", re.I)


def _claims(finding: Finding, words: str, volumes: Sequence[Mounted]) -> Finding | None:
    """What the scheduler and the attach controller say of claims: all of it may pass."""
    claims = [volume for volume in volumes if volume.kind == _CLAIM]
    if not claims:
        return None
    which = " or ".join(f"{claim.source!r} ({claim.path})" for claim in claims)
    options = " and ".join(claim.option for claim in claims)
    if _UNBOUND.search(words):
        return dataclasses.replace(
            finding,
            message=f"The PersistentVolumeClaim {which} has no volume yet.",
            advice=f"`kubectl describe pvc` shows what it waits for. Set in {options}.",
            outlook="The call starts when it is bound; schedule_timeout= limits the waiting.",
            fatal_after=None,
            at_once=True,
        )
    if _IN_USE.search(words):
        return dataclasses.replace(
            finding,
            message=f"The PersistentVolumeClaim {which} is in use elsewhere: its access mode allows one node, or one "
            "Pod, at a time.",
            advice=f"Wait for the other Pods, or use a ReadWriteMany claim in {options}.",
            outlook="The call starts when the volume is free; schedule_timeout= limits the waiting.",
            fatal_after=None,
            at_once=True,
        )
    if "volume node affinity" in words or "PersistentVolumeClaim" in words:
        return dataclasses.replace(finding, advice=f"Check {options}: {_CLAIM} {which}.")
    return None


def _any_mount(finding: Finding, words: str, volumes: Sequence[Mounted]) -> Finding | None:
    """What is not known to last: the Pod's volume, or a PersistentVolume, whose name the Pod does not tell."""
    if finding.reason not in MOUNT_EVENTS:
        return None
    volume = _named(words, volumes)
    likely = [volume] if volume is not None else [each for each in volumes if each.kind == _CLAIM]
    if not likely:
        return None
    where = " or ".join(each.path for each in likely)
    options = " and ".join(each.option for each in likely)
    return dataclasses.replace(
        finding,
        message=f"The node cannot mount the volume at {where}.",
        advice=f"Check {options}. If it is right, ask your cluster's administrator.",
    )


def _image(finding: Finding, words: str, volumes: Sequence[Mounted]) -> Finding | None:
    """A volume's image is pulled for the container that mounts it, and reported as that container's."""
    images = (each for each in volumes if each.kind == "ImageVolume")
    volume = next((each for each in images if finding.error is errors.ImagePullError and each.source in words), None)
    if volume is None:
        return None
    return dataclasses.replace(
        finding,
        message=f"The node cannot get the image {volume.source}, which is to be mounted at {volume.path}.",
        advice=f"Check its name and tag in {volume.option}. If it is private, set image_pull_secrets=[...].",
    )


_Judge = Callable[[Finding, str, Sequence[Mounted]], "Finding | None"]
_JUDGES: Final[tuple[_Judge, ...]] = (
    _object,
    _key,
    _host_path,
    _sub_path,
    _on_a_file,
    _full,
    _claims,
    _image,
    _any_mount,
)
