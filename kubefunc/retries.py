"""New attempts that the client makes: more memory after an OOM kill, a new Job for a lost Pod.

What the runner can retry in its Pod, and what the Job controller replaces by itself, is not repeated here
(``docs/design/who-retries-what.md``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from kubefunc.backends.base import Backend, Sink, Submission, Whereabouts
from kubefunc.diagnosis import Phase
from kubefunc.errors import ConfigurationError, KubefuncError, OutOfMemoryError, PodLostError
from kubefunc.growth import more_memory
from kubefunc.options import Options
from kubefunc.runner import CODE_OOM
from kubefunc.runner.execution.exceptions import text_of
from kubefunc.runner.protocol.records import Record


def _used_up(error: PodLostError) -> bool:
    """The Job controller has replaced the Pod as often as allowed: the client does not begin anew."""
    reason = error.diagnosis.reason if error.diagnosis is not None else ""
    return reason in ("BackoffLimitExceeded", "PodFailurePolicy")


class RetryingSink:
    """Stands between a backend and the sink of a single call: turns some failures into a further attempt."""

    def __init__(self, submission: Submission, sink: Sink, backend: Backend) -> None:
        self._submission = submission
        self._sink = sink
        self._backend = backend
        self._lost = 0

    @property
    def settled(self) -> bool:
        return self._sink.settled

    def missing(self, indexes: Iterable[int]) -> list[int]:
        return self._sink.missing(indexes)

    def opened(self, count: int, function: str) -> None:
        self._sink.opened(count, function)

    def moved(self, indexes: Sequence[int], where: Whereabouts) -> None:
        self._sink.moved(indexes, where)

    def output(self, indexes: Sequence[int], data: bytes) -> None:
        self._sink.output(indexes, data)

    def take(self, outcomes: Sequence[Record]) -> None:
        self._sink.take([record for record in outcomes if not self._runs_again(record)])

    def _runs_again(self, record: Record) -> bool:
        header = record.header or {}
        return header.get("code") == CODE_OOM and self._grow(header.get("attempts"))

    def fail(self, indexes: Sequence[int] | None, error: KubefuncError) -> None:
        again = (isinstance(error, OutOfMemoryError) and self._grow(None)) or (
            isinstance(error, PodLostError) and not _used_up(error) and self._replace_lost()
        )
        if not again:
            self._sink.fail(indexes, error)

    def _grow(self, attempts: object) -> bool:
        """Try again with more memory, after so many attempts in all, where the Pod has told."""
        options = more_memory(self._submission.options)
        used = self._submission.used + 1
        if type(attempts) is int:
            used = max(used, attempts)
        retries = self._submission.options.retries
        if options is None or used > retries:
            return False
        self._submission = dataclasses.replace(self._submission, used=used)
        why = f"out of memory, attempt {used + 1} of {retries + 1} with {options.memory_start}"
        return self._again(options, why)

    def _replace_lost(self) -> bool:
        if self._lost >= self._submission.options.max_disruptions:
            return False
        self._lost += 1
        self._submission = dataclasses.replace(self._submission, disruptions=self._lost)
        return self._again(self._submission.options, "its Pod was lost, next attempt")

    def _again(self, options: Options, why: str) -> bool:
        self._submission = dataclasses.replace(self._submission, options=options, attempt=self._submission.attempt + 1)
        self._sink.moved((0,), Whereabouts(Phase.SUBMITTING, why))
        try:
            self._backend.submit(self._submission, self)
        except ConfigurationError as error:
            self._sink.fail(None, error)
        except Exception as error:  # noqa: BLE001 - nobody waits for an attempt that could not begin
            failure = KubefuncError(f"The next attempt could not be started: {type(error).__name__}: {text_of(error)}")
            failure.__cause__ = error
            self._sink.fail(None, failure)
        return True
