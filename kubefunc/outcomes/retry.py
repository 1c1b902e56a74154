"""Whether the client runs items again that an attempt did not bring to a result, and how. Pure.

The same for a call, which has one item, for a map, and for a gang, whose ranks run again together. What the runner
tries again in its Pod, and what the Job controller replaces by itself, is not repeated here
(``docs/design/who-retries-what.md``). What the attempts before have cost stands in the submission: ``used`` and
``disruptions``.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from kubefunc.backends.base import Lost, Submission
from kubefunc.errors import KubefuncError, OutOfMemoryError, PodLostError
from kubefunc.outcomes.growth import more_memory
from kubefunc.runner import BACKOFF, CODE_DIED, CODE_OOM, CODE_TIMEOUT
from kubefunc.runner.execution.attempts import back_off, reason
from kubefunc.runner.protocol.records import Record

GATHER = 1.0  # seconds in which items of the same fate are gathered: one Job for all of them
SHRINK = 8  # what was lost beside an item at fault runs in chunks so much smaller: where each item is, that ends soon
# The Job controller has replaced the Pod as often as allowed: the client does not begin anew.
_USED_UP = ("BackoffLimitExceeded", "PodFailurePolicy", "FailedIndexes", "MaxFailedIndexesExceeded")


@dataclass(frozen=True)
class OutOfMemory:
    """The kernel killed the process of an item, or the container around it.

    Attributes:
        attempts: how often the item was started in all, where its Pod has told; else 0.
    """

    attempts: int = 0


@dataclass(frozen=True)
class Failed:
    """The function of a rank failed in a way that ``retry_exceptions`` lets it try again: by all ranks together.

    Attributes:
        why: for people.
    """

    why: str


Ended = OutOfMemory | Lost | Failed
"""How an attempt ended that may not be the last one."""


@dataclass(frozen=True)
class Again:
    """A further attempt.

    Attributes:
        sent: what to submit; its items and the attempt's number are still those of the attempt before.
        why: for people.
        delay: seconds in which further items may join it.
    """

    sent: Submission
    why: str
    delay: float

    def joined_by(self, other: Again) -> Again:
        """One attempt for the items of both, which have had the same fate: in the smaller chunks of the two."""
        hints = [each.sent.chunk_hint for each in (self, other) if each.sent.chunk_hint is not None]
        return dataclasses.replace(self, sent=dataclasses.replace(self.sent, chunk_hint=min(hints, default=None)))

    def shares_fate_with(self, other: Again) -> bool:
        """Whether one Job can run the items of both."""
        return _fate(self.sent) == _fate(other.sent)


def _fate(sent: Submission) -> tuple[object, ...]:
    return sent.options.memory, sent.used, sent.disruptions


def how_record_ended(record: Record) -> OutOfMemory | None:
    """What of an item's outcome the client may do better; None: it is its outcome."""
    if record.header is None or record.header.get("code") != CODE_OOM:
        return None
    attempts = record.attempts  # a function that signs its own result may give anything
    return OutOfMemory(attempts if type(attempts) is int else 0)


def how_rank_ended(record: Record) -> OutOfMemory | Failed | None:
    """The same of a rank, which the runner does not try again alone: its peers would wait for it."""
    header = record.header or {}
    may_retry = header.get("retry") is True or header.get("code") in (CODE_TIMEOUT, CODE_DIED)
    return how_record_ended(record) or (Failed(f"rank {record.index}: {reason(header)}") if may_retry else None)


def how_error_ended(error: KubefuncError) -> OutOfMemory | Lost | None:
    """The same of an error that the backend has for items."""
    if isinstance(error, OutOfMemoryError):
        return OutOfMemory()
    if isinstance(error, PodLostError) and not _is_used_up(error):
        return Lost(error)
    return None


def _is_used_up(error: PodLostError) -> bool:
    return error.diagnosis is not None and error.diagnosis.reason in _USED_UP


def decide(sent: Submission, ended: Ended) -> Again | None:
    """The next attempt for items of this submission that ended so; None where there is none."""
    if sent.values is not None and sent.values.received:
        return None  # the generator would begin anew, and its values come twice
    if isinstance(ended, Failed):
        return _once_more(sent, ended)
    delay = GATHER if sent.count > 1 and sent.options.gang is None else 0.0
    return _with_more_memory(sent, ended, delay) if isinstance(ended, OutOfMemory) else _elsewhere(sent, ended, delay)


def _once_more(sent: Submission, failed: Failed) -> Again | None:
    used, retries = sent.used + 1, sent.options.retries
    if used > retries:
        return None
    why = f"attempt {used + 1} of {retries + 1} after {failed.why}"
    return Again(dataclasses.replace(sent, used=used), why, back_off(BACKOFF, used))


def _with_more_memory(sent: Submission, ended: OutOfMemory, delay: float) -> Again | None:
    options, retries = more_memory(sent.options), sent.options.retries
    used = max(sent.used + 1, ended.attempts)
    if options is None or used > retries:
        return None
    why = f"out of memory, attempt {used + 1} of {retries + 1} with {options.memory_start}"
    # One item a Pod: what needs so much memory must not take it from others of its chunk.
    return Again(dataclasses.replace(sent, options=options, used=used, chunk_hint=1), why, delay)


def _elsewhere(sent: Submission, ended: Lost, delay: float) -> Again | None:
    """What lies beside an item at fault always runs again: each time that item has its error, so this ends."""
    if sent.disruptions >= sent.options.max_disruptions and not ended.beside_fault:
        return None
    hint = ended.chunksize
    if hint is not None and ended.beside_fault:
        hint = max(1, hint // SHRINK)
    again = dataclasses.replace(sent, disruptions=sent.disruptions + 1, chunk_hint=hint or sent.chunk_hint)
    return Again(again, _why_lost(sent), delay)


def _why_lost(sent: Submission) -> str:
    if sent.options.gang is not None:
        return "a Pod was lost, all ranks begin again"
    return "its Pod was lost, next attempt" if sent.count == 1 else "lost with their Pod, they run again"
