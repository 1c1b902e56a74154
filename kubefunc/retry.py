"""Whether the client runs items again that an attempt did not bring to a result, and how. Pure.

The same for a call, which has one item, and for a map. What the runner tries again in its Pod, and what the Job
controller replaces by itself, is not repeated here (``docs/design/who-retries-what.md``). What the attempts before have
cost stands in the submission: ``used`` and ``disruptions``.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from kubefunc.backends.base import Lost, Submission
from kubefunc.errors import KubefuncError, OutOfMemoryError, PodLostError
from kubefunc.growth import more_memory
from kubefunc.runner import CODE_OOM
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


def how_error_ended(error: KubefuncError) -> OutOfMemory | Lost | None:
    """The same of an error that the backend has for items."""
    if isinstance(error, OutOfMemoryError):
        return OutOfMemory()
    if isinstance(error, PodLostError) and not _is_used_up(error):
        return Lost(error)
    return None


def _is_used_up(error: PodLostError) -> bool:
    return error.diagnosis is not None and error.diagnosis.reason in _USED_UP


def decide(sent: Submission, ended: OutOfMemory | Lost) -> Again | None:
    """The next attempt for items of this submission that ended so; None where there is none."""
    delay = GATHER if sent.count > 1 else 0.0
    return _with_more_memory(sent, ended, delay) if isinstance(ended, OutOfMemory) else _elsewhere(sent, ended, delay)


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
    why = "its Pod was lost, next attempt" if sent.count == 1 else "lost with their Pod, they run again"
    return Again(again, why, delay)
