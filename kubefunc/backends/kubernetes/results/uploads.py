"""Arguments too large for Secrets: carried into each Pod through its courier."""

from __future__ import annotations

import functools
import mmap
import time
from collections.abc import Callable

from kubefunc import errors
from kubefunc.backends.kubernetes.api.exec_errors import ExecRefused, TransportError
from kubefunc.backends.kubernetes.api.permission import ExecPermission
from kubefunc.backends.kubernetes.api.requests import Api
from kubefunc.backends.kubernetes.api.transfer import upload
from kubefunc.backends.kubernetes.attempts.attempt import Attempt, guarded
from kubefunc.backends.kubernetes.attempts.receipt import PROGRAM
from kubefunc.backends.kubernetes.diagnose.finding import Finding
from kubefunc.backends.kubernetes.threads import Workers

PAUSES = (0.2, 1.0, 3.0, 5.0, 5.0)


class Uploads:
    """Sends a call's payload to each of its Pods, once its courier runs."""

    def __init__(
        self, api: Api, streams: Workers, permission: ExecPermission, fail: Callable[[Attempt, Finding], None]
    ) -> None:
        self._api = api
        self._streams = streams
        self._permission = permission
        self._fail = fail

    def send(self, attempt: Attempt, pod: str) -> None:
        """See to it that this Pod gets what travels to it this way."""
        for name, content in attempt.cargo(pod).items():
            with attempt.lock:
                if attempt.over or not attempt.brought.begin(pod, name):
                    continue
            send = functools.partial(self._send, attempt, pod, name, content)
            self._streams.do(functools.partial(guarded, attempt, self._fail, send))

    def _send(self, attempt: Attempt, pod: str, name: str, content: Callable[[], bytes | mmap.mmap]) -> None:
        for pause in PAUSES:
            if attempt.over:
                return
            data = content()
            try:
                upload(self._api, attempt.namespace, pod, (*PROGRAM, "uploader", name), data)
                return
            except ExecRefused as error:
                self._permission.refused(attempt.namespace)
                if self._permission.is_refused(attempt.namespace):
                    self._fail(attempt, _refused(data, str(error)))
                    return
            except TransportError:
                pass  # the courier is not up yet, or the stream was cut: from the beginning, then
            time.sleep(pause)
        with attempt.lock:
            attempt.brought.fail(pod, name)


def _refused(data: bytes | mmap.mmap, words: str) -> Finding:
    return Finding(
        errors.PermissionDeniedError,
        "UploadRefused",
        f"Arguments or packages of {len(data):,} bytes travel by exec, and the cluster refuses that.",
        "Ask for pods/exec (create, get) in the Role, or put the data on a volume and pass its path.",
        (words,),
    )
