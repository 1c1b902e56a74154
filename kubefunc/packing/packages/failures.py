"""Why packages could not be installed, from what the Pod reports: in plain words, with the way out. Pure."""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_SHOWN = 15  # lines of the installer's output in a message
_FULL = re.compile(r"No space left on device|Disk quota exceeded|os error 28\b", re.IGNORECASE)
_UNKNOWN = re.compile(
    r"No matching distribution found for (\S+)|(\S+) was not found in the package registry|"
    r"[Oo]nly (?:the following versions of )?(\S+?)(?:[<=]\S*)? (?:is|are) available|there is no version of (\S+)"
)
_OTHER_VERSIONS = re.compile(r"from versions: (?!none)|[Oo]nly .+ (?:is|are) available|there is no version of")
_UNREACHABLE = re.compile(
    r"Retrying \(Retry|ConnectTimeout|ReadTimeout|NewConnectionError|Name or service not known|timed out|"
    r"Temporary failure in name resolution|Connection refused|Network is unreachable|error sending request|"
    r"dns error|tcp connect error|Failed to fetch|Could not fetch URL|Failed to establish a new connection",
    re.IGNORECASE,
)
_REFUSED = re.compile(r"\b(401|403)\b|Unauthorized|Forbidden")
_NOT_BUILT = re.compile(r"Failed building wheel|Failed to build|error: subprocess-exited-with-error")
_HASHES = re.compile(r"THESE PACKAGES DO NOT MATCH THE HASHES|Hash mismatch|--require-hashes mode")
_CONFLICT = re.compile(
    r"ResolutionImpossible|conflicting dependencies|No solution found when resolving|are incompatible"
)


@dataclass(frozen=True)
class Failure:
    """What to tell.

    Attributes:
        reason: one word, for programs.
        message: what happened.
        advice: what to do.
        output: the last lines, the installer's among them.
    """

    reason: str
    message: str
    advice: str
    output: tuple[str, ...] = ()


def failure(detail: Mapping[str, Any], python: str) -> Failure:
    """The failure that the runner's report describes.

    Args:
        detail: as :mod:`kubefunc.runner.pod.installer` reports it.
        python: the minor version in the Pod.
    """
    lines = [line for line in str(detail.get("output", "")).splitlines() if line.strip()]
    output = tuple(lines[-_SHOWN:])
    kind = detail["kind"]
    if kind == "none":
        return Failure(
            "NoInstaller",
            f"The image has neither uv nor pip, so packages= cannot be installed{_because(detail)}.",
            f"Use an image with pip (python:{python}-slim has it), or an image that has the packages (image=...).",
        )
    if kind == "volume":
        return _volume(detail, output)
    if kind == "timeout":
        return Failure(
            "InstallTimeout",
            f"The packages were not installed within {detail['seconds']:g} s (pull_allowance).",
            "Check that the Pod reaches the package index (package_index=..., or a proxy in env=). If there is only "
            "much to install, raise pull_allowance, or keep it with package_cache=PersistentVolumeClaim(...).",
            output,
        )
    if kind == "killed":
        return Failure(
            "InstallKilled",
            "The installer was killed, probably because it needs more memory than the function's limit.",
            "Raise memory=: installing large packages may take 1Gi.",
            output,
        )
    if kind == "failed":
        return _refused_by_installer(detail, output)
    return Failure("InstallFailed", "Installing the packages ended without a result.", "See the output below.", output)


def _because(detail: Mapping[str, Any]) -> str:
    why = str(detail.get("why", ""))
    return why and f": {why}"


def _volume(detail: Mapping[str, Any], output: tuple[str, ...]) -> Failure:
    message = f"The volume for packages cannot be used: {detail['path']}: {detail['message']}."
    if detail.get("errno") in (errno.ENOSPC, errno.EDQUOT):
        return Failure("DiskFull", message, _MORE_DISK, output)
    return Failure(
        "VolumeUnusable",
        message,
        "If package_cache= names a claim, its volume must be writable for the function's user: set "
        "pod_template={'securityContext': {'fsGroup': 1000}}, or change the owner on the volume.",
        output,
    )


_MORE_DISK = (
    "Packages need room on the node's disk, or in the claim of package_cache=. Request it: "
    "pod_template={'containers': [{'name': 'main', 'resources': {'requests': {'ephemeral-storage': '5Gi'}}}]}, or use "
    "a larger claim."
)


def _refused_by_installer(detail: Mapping[str, Any], output: tuple[str, ...]) -> Failure:
    installer = detail.get("installer", "The installer")
    ended = f"{installer} could not install the packages"
    text = str(detail.get("output", ""))
    for pattern, reason, why, advice in _CAUSES:
        if pattern.search(text):
            return Failure(reason, f"{ended}: {why}.", advice, output)
    unknown = _UNKNOWN.search(text)
    if unknown is not None:
        return _not_on_index(ended, next(filter(None, unknown.groups())), text, output)
    if _CONFLICT.search(text):
        return Failure(
            "Conflict",
            f"{ended}: the requirements contradict each other.",
            "See below which ones, and loosen one of them.",
            output,
        )
    how = f"signal {detail['signal']}" if "signal" in detail else f"exit code {detail.get('exit_code')}"
    return Failure("InstallFailed", f"{ended} ({how}).", "See its output below.", output)


def _not_on_index(ended: str, name: str, text: str, output: tuple[str, ...]) -> Failure:
    if _OTHER_VERSIONS.search(text):
        return Failure(
            "NoSuchVersion",
            f"{ended}: the index has no version that fits {name}.",
            "See the versions below, and change the requirement. Some versions exist for other Pythons only.",
            output,
        )
    return Failure(
        "NoSuchPackage",
        f"{ended}: the index has no package {name!r}.",
        "Check the name: it may differ from the module's (scikit-learn, not sklearn). If it is on an index of your "
        "own, name that: package_index='https://...'.",
        output,
    )


_OTHER_INDEX = (
    "Pods of this cluster may have no way to the internet. Name an index that they can reach with package_index=..., "
    "set a proxy with env={'HTTPS_PROXY': ...}, or use an image that has the packages."
)
# In this order: what is most certain comes first.
_CAUSES = (
    (_FULL, "DiskFull", "the disk is full", _MORE_DISK),
    (
        _HASHES,
        "HashMismatch",
        "a hash is missing or wrong",
        "With hashes, each package and what it requires needs one: let pip-compile --generate-hashes write the file.",
    ),
    (
        _REFUSED,
        "IndexRefused",
        "the index refused the login, or access",
        "Put the credentials into package_index='https://user:token@...'. They travel in a Secret.",
    ),
    (
        _UNREACHABLE,
        "IndexUnreachable",
        "the package index does not answer",
        _OTHER_INDEX,
    ),
    (
        _NOT_BUILT,
        "NotBuilt",
        "a package has no wheel for this Python and platform, and could not be compiled",
        "Choose a version with a wheel for the image's Python and platform, or use an image with a compiler.",
    ),
)
