"""Which warm workers can take each other's place: a digest of all that makes a difference. Pure."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import sys
from collections.abc import Sequence

from kubefunc.backends.base import Submission
from kubefunc.backends.kubernetes.control.call_objects import job_spec
from kubefunc.backends.kubernetes.objects.job import build_job
from kubefunc.backends.kubernetes.objects.origin import NOBODY
from kubefunc.options import Options
from kubefunc.packing.code_archive import NO_CODE
from kubefunc.packing.payload import Payload
from kubefunc.runner import KEY_FILE, PROTOCOL

LENGTH = 20  # characters
_CALL = "worker"
_NONE = Payload(NO_CODE, b"")  # the function is kubefunc's own, whose code is among the files


def kind_of(cluster: tuple[str, str], namespace: str, options: Options, arguments: Sequence[object]) -> str:
    """The kind of workers that have these options and get these arguments.

    Two programs have the same kind only if their workers' Pods, the Python and the code of kubefunc that run there and
    the arguments that the worker gets are the same. Who starts the worker makes no difference.

    Args:
        cluster: its address, and the context by which it is reached.
        namespace: of the Pods.
        options: of the worker's own call.
        arguments: of the worker's own function, those that are not a single worker's.
    """
    worker = Submission(call=_CALL, function=_CALL, options=options, payload=_NONE, key=b"", pool=_CALL)
    spec = dataclasses.replace(job_spec(worker, "", namespace), origin=NOBODY)
    told = {
        "cluster": cluster,
        "arguments": arguments,
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
