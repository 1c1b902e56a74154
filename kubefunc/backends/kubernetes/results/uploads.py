"""Arguments too large for Secrets: carried into each Pod through its courier."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

from kubefunc import errors
from kubefunc.backends.kubernetes.api.exec_errors import ExecRefused, TransportError
from kubefunc.backends.kubernetes.api.permission import ExecPermission
from kubefunc.backends.kubernetes.api.requests import Api
from kubefunc.backends.kubernetes.api.transfer import upload
from kubefunc.backends.kubernetes.attempts.attempt import Flight, guarded
from kubefunc.backends.kubernetes.attempts.receipt import PROGRAM
from kubefunc.backends.kubernetes.diagnose.finding import Finding
from kubefunc.backends.kubernetes.threads import Workers

PAUSES = (0.2, 1.0, 3.0, 5.0, 5.0)


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
        """See to it that this Pod gets what travels to it this way."""
        for name, content in flight.cargo(pod).items():
            with flight.lock:
                if (pod, name) in flight.uploads or flight.over:
                    continue
                flight.uploads.add((pod, name))
            send = functools.partial(self._send, flight, pod, name, content)
            self._streams.do(functools.partial(guarded, flight, self._fail, send))

    def _send(self, flight: Flight, pod: str, name: str, content: Callable[[], bytes]) -> None:
        for pause in PAUSES:
            if flight.over:
                return
            data = content()
            try:
                upload(self._api, flight.namespace, pod, (*PROGRAM, "uploader", name), data)
                return
            except ExecRefused as error:
                self._permission.refused(flight.namespace)
                if self._permission.is_refused(flight.namespace):
                    self._fail(flight, _refused(data, str(error)))
                    return
            except TransportError:
                pass  # the courier is not up yet, or the stream was cut: from the beginning, then
            time.sleep(pause)
        with flight.lock:
            flight.uploads.discard((pod, name))  # the next news of this Pod begins again


def _refused(data: bytes, words: str) -> Finding:
    return Finding(
        errors.PermissionDeniedError,
        "UploadRefused",
        f"Arguments of {len(data):,} bytes travel by exec, and the cluster refuses that.",
        "Ask for pods/exec (create, get) in the Role, or put the data on a volume and pass its path.",
        (words,),
    )
