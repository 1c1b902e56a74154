"""Results that couriers leave in their logs: of Pods whose result nobody fetched."""

from __future__ import annotations

import binascii
from collections.abc import Callable

from kubefunc.backends.kubernetes.api.errors import UNUSABLE
from kubefunc.backends.kubernetes.api.permission import ExecPermission
from kubefunc.backends.kubernetes.api.requests import Api, ApiError, ConnectionFailed
from kubefunc.backends.kubernetes.attempts.attempt import Attempt
from kubefunc.backends.kubernetes.diagnose import ending
from kubefunc.backends.kubernetes.diagnose.finding import Finding
from kubefunc.backends.kubernetes.objects.fields import whole_number
from kubefunc.backends.kubernetes.objects.paths import log_path
from kubefunc.backends.kubernetes.objects.views import Pod
from kubefunc.envelope import Envelope
from kubefunc.errors import ResultCorruptedError
from kubefunc.runner import COURIER, EXIT_VALUE, LOG_HEAD, LOG_LIMIT, LOG_TAIL, TERMINATION_FILES, TERMINATION_SIZE

LOG_MISSES = 3


class CourierLog:
    """The way of a result without exec: its courier leaves it in its log, and ends.

    ``deliver(attempt, envelope)`` hands it over, ``fail(attempt, why)`` ends an attempt without one.
    """

    def __init__(
        self,
        api: Api,
        permission: ExecPermission,
        deliver: Callable[[Attempt, Envelope], object],
        fail: Callable[[Attempt, Finding], None],
    ) -> None:
        self._api = api
        self._permission = permission
        self._deliver = deliver
        self._fail = fail

    def read(self, attempt: Attempt, pod: Pod) -> None:
        """Take the result from there, once the courier has ended; or say why there is none."""
        broken = ending.courier_trouble(pod)
        if broken is not None:
            self._fail(attempt, broken)
            return
        if pod.courier.state == "terminated" or pod.phase in ("Succeeded", "Failed"):
            self._from_courier_log(attempt, pod)
            return
        announced = pod.main.message
        has_files = announced.startswith(TERMINATION_SIZE) and announced.endswith(TERMINATION_FILES)
        large = has_files or announced_size(announced) > LOG_LIMIT or not attempt.options.results_in_log
        if large and self._permission.is_refused(attempt.namespace):
            self._fail(attempt, ending.needs_exec(pod))
            return
        lost = ending.main_trouble(pod)
        if attempt.fetch.exec_given_up and pod.courier.state != "running" and lost is not None:
            self._fail(attempt, lost)  # a courier that has not started by now leaves nothing in its log

    def _from_courier_log(self, attempt: Attempt, pod: Pod) -> None:
        try:
            log = self._api.read_bytes(log_path(attempt.namespace, pod.name), query={"container": COURIER})
        except (ConnectionFailed, *UNUSABLE):
            return  # the clock asks again
        except ApiError:
            log = b""
        data = envelope_in_log(log)
        if data is not None:
            self._deliver_from_log(attempt, pod, data)
            return
        if attempt.fetch.miss_in_log() < LOG_MISSES:
            return
        lost = ending.main_trouble(pod)
        job = attempt.job_news.job
        if pod.courier.exit_code and pod.main.exit_code == EXIT_VALUE and not (job is not None and job.failed):
            attempt.write_off(pod)  # the courier was killed: such a Pod has failed, and its Job runs another
        elif lost is not None:
            self._fail(attempt, lost)
        else:
            attempt.write_off(pod)  # ended from outside, in the middle of a chunk

    def _deliver_from_log(self, attempt: Attempt, pod: Pod, data: bytes) -> None:
        try:
            envelope = attempt.new_receipt().whole(data)
        except ResultCorruptedError as error:
            self._fail(attempt, ending.corrupted(error))
            return
        self._deliver(attempt, envelope)


def announced_size(message: str) -> int:
    """The result's size that a termination message names, or 0."""
    if not message.startswith(TERMINATION_SIZE):
        return 0
    return whole_number(message[len(TERMINATION_SIZE) :].partition(":")[0]) or 0


def envelope_in_log(log: bytes) -> bytes | None:
    """The envelope that a courier left in its log, or None where it is not there whole."""
    lines = log.decode("ascii", "replace").splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith(LOG_HEAD)]
    if not starts or LOG_TAIL not in lines[starts[-1] :]:
        return None
    start = starts[-1]
    try:
        data = b"".join(binascii.a2b_base64(line) for line in lines[start + 1 : lines.index(LOG_TAIL, start)])
    except ValueError:  # binascii.Error, or what is not ASCII
        return None
    return data if str(len(data)) == lines[start][len(LOG_HEAD) :] else None
