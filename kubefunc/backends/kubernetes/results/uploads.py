"""Arguments too large for Secrets: carried into each Pod through its courier."""

from __future__ import annotations

import functools
import mmap
import time
from collections.abc import Callable, Mapping

from kubefunc import errors
from kubefunc.backends.kubernetes.api.exec_errors import ExecRefused, TransportError
from kubefunc.backends.kubernetes.api.file_transfer import FileRefused, send_file
from kubefunc.backends.kubernetes.api.permission import ExecPermission
from kubefunc.backends.kubernetes.api.requests import Api
from kubefunc.backends.kubernetes.api.transfer import upload
from kubefunc.backends.kubernetes.attempts.attempt import Attempt, guarded
from kubefunc.backends.kubernetes.attempts.receipt import PROGRAM
from kubefunc.backends.kubernetes.diagnose import files
from kubefunc.backends.kubernetes.diagnose.finding import Finding
from kubefunc.backends.kubernetes.threads import Workers
from kubefunc.errors import FileError
from kubefunc.packing.sent_files import SentFile

FILE_STREAMS = 6  # at once: files may be large, and results must find a stream beside them
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
        self._send_files = FileUploads(api, permission, fail).send

    def send(self, attempt: Attempt, pod: str) -> None:
        """See to it that this Pod gets what travels to it this way."""
        for name, content in attempt.cargo(pod).items():
            with attempt.lock:
                if attempt.over or not attempt.brought.begin(pod, name):
                    continue
            send = functools.partial(self._send, attempt, pod, name, content)
            self._streams.do(functools.partial(guarded, attempt, self._fail, send))
        self._send_files(attempt, pod)

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
                    self._fail(attempt, _refused(len(data), str(error)))
                    return
            except TransportError:
                pass  # the courier is not up yet, or the stream was cut: from the beginning, then
            time.sleep(pause)
        with attempt.lock:
            attempt.brought.fail(pod, name)


class FileUploads:
    """Sends the files of the arguments to each Pod, those of one Pod one after another."""

    def __init__(self, api: Api, permission: ExecPermission, fail: Callable[[Attempt, Finding], None]) -> None:
        self._api = api
        self._permission = permission
        self._fail = fail
        self._streams = Workers("kubefunc-files", FILE_STREAMS)

    def send(self, attempt: Attempt, pod: str) -> None:
        """See to it that this Pod gets its files."""
        with attempt.lock:
            due = {
                name: file
                for name, file in attempt.files().items()
                if not attempt.over and attempt.brought.begin(pod, name)
            }
        if due:
            work = functools.partial(self._send_all, attempt, pod, due)
            self._streams.do(functools.partial(guarded, attempt, self._fail, work))

    def _send_all(self, attempt: Attempt, pod: str, due: Mapping[str, SentFile]) -> None:
        for name, file in due.items():
            if attempt.over or not self._send(attempt, pod, name, file):
                break
        else:
            return
        with attempt.lock:  # the next look at the Pod begins with what is missing
            for name in due:
                attempt.brought.fail(pod, name)

    def _send(self, attempt: Attempt, pod: str, name: str, file: SentFile) -> bool:
        """Stream after stream, each on from where the last was cut. False where that does not get on."""
        for pause in PAUSES:
            if attempt.over:
                return False
            try:
                send_file(self._api, attempt.namespace, pod, (*PROGRAM, "receiver", name), file.path, file.check)
                return True
            except FileRefused as error:
                self._fail(attempt, files.refused(file.file.name, file.size, pod, str(error)))
                return False
            except ExecRefused as error:
                self._permission.refused(attempt.namespace)
                if self._permission.is_refused(attempt.namespace):
                    self._fail(attempt, _refused(file.size, str(error)))
                    return False
            except TransportError:
                pass
            except FileError as error:
                self._fail(attempt, files.not_sent(str(error)))
                return False
            except OSError as error:
                self._fail(attempt, files.not_sent(f"{file.file!r} cannot be read any more: {error.strerror}."))
                return False
            time.sleep(pause)
        return False


def _refused(size: int, words: str) -> Finding:
    return Finding(
        errors.PermissionDeniedError,
        "UploadRefused",
        f"Arguments or packages of {size:,} bytes travel by exec, and the cluster refuses that.",
        "Ask for pods/exec (create, get) in the Role, or put the data on a volume and pass its path.",
        (words,),
    )
