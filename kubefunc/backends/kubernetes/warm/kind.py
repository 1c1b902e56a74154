"""Which warm workers can take each other's place: a digest of all that makes a difference. Pure."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import sys

from kubefunc.backends.base import Submission
from kubefunc.backends.kubernetes.control.call_objects import job_spec
from kubefunc.backends.kubernetes.objects.job import build_job
from kubefunc.backends.kubernetes.objects.origin import NOBODY
from kubefunc.runner import KEY_FILE, PROTOCOL

LENGTH = 20  # characters
_CALL = "worker"


def kind_of(cluster: tuple[str, str], namespace: str, worker: Submission) -> str:
    """The kind of worker that this submission starts.

    Two programs have the same kind only if their workers' Pods, the Python and the code of kubefunc that run there and
    the arguments that the worker gets are the same. Who starts the worker makes no difference.

    Args:
        cluster: its address, and the context by which it is reached.
        namespace: of the Pods.
        worker: a submission of the worker's own function; its id and key make no difference, its payload does.
    """
    same = dataclasses.replace(worker, call=_CALL, key=b"", pool=_CALL)
    spec = dataclasses.replace(job_spec(same, "", namespace), origin=NOBODY)
    told = {
        "cluster": cluster,
        "job": build_job(spec),
        "python": python_here(),
        "protocol": PROTOCOL,
        "files": {name: _digest(data) for name, data in spec.files.items() if name != KEY_FILE},
    }
    return _digest(json.dumps(told, sort_keys=True).encode())[:LENGTH]


def python_here() -> tuple[str, int, int]:
    """What pickles here, and must find the same there."""
    return platform.python_implementation(), *sys.version_info[:2]


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
