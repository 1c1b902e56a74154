"""Why an image cannot be had: the kubelet's or the registry's words in, findings out. Pure."""

from __future__ import annotations

import dataclasses
import re
from typing import Final, NamedTuple

from kubefunc import errors
from kubefunc.backends.kubernetes.diagnose.finding import TRIED_AGAIN, Finding, worded

NETWORK_PATIENCE: Final = 10.0  # seconds: a hiccup of DNS or the network passes sooner

_SPELLING: Final = (
    "Check the spelling and tag in image=. If the image is private, name the Secret with the registry's login: "
    "image_pull_secrets=[...]."
)


class _Verdict(NamedTuple):
    words: re.Pattern[str]
    message: str
    advice: str
    patience: float | None


def _means(words: str, message: str, advice: str, patience: float | None) -> _Verdict:
    return _Verdict(re.compile(words, re.IGNORECASE), message, advice, patience)


# Which words mean what, what to do, and for how many seconds it may pass by itself; None: for as long as it takes. The
# first row that matches counts; ``{image}`` is the image.
_VERDICTS: Final = (
    _means(
        r"^InvalidImageName:|invalid reference|couldn't parse image",
        "{image!r} is not the name of an image.",
        "Correct image=.",
        0.0,
    ),
    _means(
        r"^ErrImageNeverPull:",
        "The node does not have the image {image}, and with image_pull_policy='Never' it must not pull it.",
        "Use image_pull_policy='IfNotPresent', or load the image onto the nodes.",
        0.0,
    ),
    _means(
        r"toomanyrequests|too many requests|rate limit|\b429\b",
        "The registry is rate-limiting pulls, including that of {image}.",
        "Call again later, log in to the registry for a higher limit (image_pull_secrets=[...]), or use a mirror.",
        None,
    ),
    _means(
        r"does not exist or may require|insufficient_scope",
        "The image {image} does not exist, or it is private.",
        _SPELLING,
        0.0,
    ),
    _means(
        r"no match for platform|no matching manifest",
        "The image {image} is not built for the node's type of processor.",
        'Use an image that is, or choose other nodes: node_selector={"kubernetes.io/arch": "amd64"}.',
        0.0,
    ),
    _means(
        r"not found|manifest unknown|does not exist|\b404\b",
        "The image {image} does not exist.",
        _SPELLING,
        0.0,
    ),
    _means(
        r"\bdenied\b|unauthorized|authentication required|forbidden|\b40[13]\b",
        "The registry refused access to the image {image}.",
        _SPELLING,
        0.0,
    ),
    _means(
        r"\b50[0234]\b|internal server error|bad gateway|service unavailable",
        "The registry of the image {image} reports an error of its own.",
        "Call again later.",
        None,
    ),
    _means(
        r"no space left",
        "The node's disk is too full for the image {image}.",
        "Ask your cluster's administrator to look at the node.",
        None,
    ),
    _means(
        r"",
        "The node cannot get the image {image} from its registry.",
        "Check the registry's name in image=. If it is right, the nodes cannot reach it: ask your cluster's "
        "administrator.",
        NETWORK_PATIENCE,
    ),
)


def image_trouble(reason: str, words: str, image: str) -> Finding:
    """What it means that an image cannot be had: ``words`` are the kubelet's or the registry's.

    >>> image_trouble("ErrImagePull", "429 Too Many Requests", "thing:1").fatal_after is None
    True
    >>> image_trouble("ErrImagePull", "dial tcp: lookup registry: no such host", "thing:1").fatal_after
    10.0
    """
    said = f"{reason}: {words}"
    verdict = next(each for each in _VERDICTS if each.words.search(said))
    message, patience = verdict.message.format(image=image or "of the call"), verdict.patience
    kind = reason if reason in ("InvalidImageName", "ErrImageNeverPull") else "ErrImagePull"
    vague = reason == "ImagePullBackOff" and _is_back_off_alone(words)
    outlook = TRIED_AGAIN if patience is None else ""
    return Finding(
        errors.ImagePullError,
        kind,
        message,
        verdict.advice,
        (worded(reason, words),),
        patience,
        vague=vague,
        outlook=outlook,
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


def _is_back_off_alone(words: str) -> bool:
    """Up to Kubernetes 1.31 a back-off does not repeat why (kubernetes#127918)."""
    return re.fullmatch(r'\s*(Back-off pulling image "[^"]*")?\s*', words) is not None
