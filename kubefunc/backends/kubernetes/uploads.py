"""Arguments too large for Secrets: carried into each Pod through its courier."""

from __future__ import annotations

import time
from collections.abc import Callable

from kubefunc import errors
from kubefunc.backends.kubernetes import manifest
from kubefunc.backends.kubernetes.api import Api
from kubefunc.backends.kubernetes.finding import Finding
from kubefunc.backends.kubernetes.flight import Flight
from kubefunc.backends.kubernetes.permission import ExecPermission
from kubefunc.backends.kubernetes.transport import ExecRefused, TransportError, upload
from kubefunc.backends.kubernetes.workers import Workers
from kubefunc.runner import ARCHIVE, IN_DIR

PAUSES = (0.2, 1.0, 3.0, 5.0, 5.0)
UPLOADER = ("python3", "-I", "-S", "-E", f"{IN_DIR}/{ARCHIVE}", "uploader")


class Uploads:
    """Sends a call's payload to each of its Pods, once its courier runs."""

    def __init__(
        self, api: Api, streams: Workers, permission: ExecPermission, fail: Callable[[Flight, Finding], None]
    ) -> None:
        self._api = api
        self._streams = streams
        self._permission = permission
        self._fail = fail

    def send(self, flight: Flight, pod: str) -> None:
        """See to it that this Pod gets its payload, where it is one that travels this way."""
        submission = flight.submission
        if submission is None or submission.payload.size <= manifest.SECRETS_LIMIT:
            return
        with flight.lock:
            if pod in flight.uploads or flight.over:
                return
            flight.uploads.add(pod)
        self._streams.do(lambda: self._send(flight, pod, submission.payload.data))

    def _send(self, flight: Flight, pod: str, data: bytes) -> None:
        for pause in PAUSES:
            if flight.over:
                return
            try:
                upload(self._api, flight.namespace, pod, UPLOADER, data)
                return
            except ExecRefused as error:
                self._permission.refused(flight.namespace)
                if self._permission.is_refused(flight.namespace):
                    self._fail(flight, _refused(flight, data, str(error)))
                    return
            except TransportError:
                pass  # the courier is not up yet, or the stream was cut: from the beginning, then
            time.sleep(pause)
        with flight.lock:
            flight.uploads.discard(pod)  # the next news of this Pod begins again


def _refused(flight: Flight, data: bytes, words: str) -> Finding:
    return Finding(
        errors.PermissionDeniedError,
        "UploadRefused",
        f"Arguments of {len(data):,} bytes travel by exec, and the cluster refuses that.",
        "Ask for pods/exec (create, get) in the Role, or put the data on a volume and pass its path.",
        (words,),
    )
