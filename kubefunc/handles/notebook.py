"""What a notebook shows of a call, a map and a gang: ``_repr_html_`` of their handles."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from kubefunc.backends.base import Whereabouts
from kubefunc.diagnosis import Phase
from kubefunc.envelope import Raised
from kubefunc.html import card
from kubefunc.outcomes.store import CANCELLED, Outcomes
from kubefunc.progress import MapProgress, duration, progress_parts, shares
from kubefunc.runner.execution.exceptions import text_of
from kubefunc.runner.protocol.records import Record

# The phases that have no colour of their own.
_COLOURED_AS = {
    Phase.SUBMITTING.value: "waiting",
    Phase.PENDING.value: "waiting",
    Phase.STARTING.value: "waiting",
    Phase.FETCHING.value: "running",
}


@dataclass(frozen=True)
class ShownCall:
    """What is known of a call.

    Attributes:
        name: its id.
        queued: when it was made, on this machine's clock.
        where: where it is.
        record: what came of it, once something has.
        error: why it has failed, if it has.
        is_cancelled: it was cancelled.
    """

    name: str
    queued: float
    where: Whereabouts
    record: Record | None
    error: BaseException | None
    is_cancelled: bool

    @property
    def state(self) -> str:
        """One word."""
        if self.is_cancelled:
            return "cancelled"
        phase = self.where.phase
        if phase is not Phase.FINISHED:
            return str(phase.value)
        return "succeeded" if self.error is None else "failed"


def call_card(call: ShownCall) -> str:
    """A call: its state, where it is, how long it took, and why it failed."""
    parts = [(call.state, _COLOURED_AS.get(call.state, call.state)), *[(fact, "") for fact in _facts(call)]]
    return card(call.name, parts, below=[] if call.error is None else [described(call.error)])


def _facts(call: ShownCall) -> list[str]:
    where, record = call.where, call.record
    facts = [where.detail] if where.detail else []
    if where.phase is not Phase.FINISHED:
        facts.append(f"sent {duration(max(0.0, time.time() - call.queued))} ago")
    elif record is not None and record.started and record.finished:
        facts.append(f"ran {_short(record.finished - record.started)}")
    if record is not None and record.attempts > 1:
        facts.append(f"attempt {record.attempts}")
    memory = None if record is None else (record.header or {}).get("peak_memory")
    if type(memory) is int:  # a function that signs its own result may give anything
        facts.append(f"peak memory {memory / 2**20:,.0f} MiB")
    return facts + [f"{name} {value}" for name, value in (("Pod", where.pod), ("node", where.node)) if value]


def _short(seconds: float) -> str:
    if seconds < 1:
        return f"{max(0.0, seconds) * 1000:.0f} ms"
    return duration(seconds) if seconds >= 10 else f"{seconds:.2g} s"


def map_card(name: str, outcomes: Outcomes, now: MapProgress) -> str:
    """A map: how many items are where, a bar, and the failure that came first."""
    if outcomes.count is None:
        return card(name, [("not known yet", "")])
    return card(name, progress_parts(now, None), shares(now), _first_failure(outcomes, "item"))


def gang_card(name: str, outcomes: Outcomes, now: MapProgress) -> str:
    """A gang: how many ranks are where, and the failure that came first."""
    parts = [(f"gang of {now.total}", ""), *progress_parts(now, None)]
    return card(name, parts, shares(now), _first_failure(outcomes, "rank"))


def _first_failure(outcomes: Outcomes, noun: str) -> Sequence[str]:
    """One line, where one has failed and was not just cancelled."""
    with outcomes.unchanged():
        for index in outcomes.order:
            ended = outcomes.get(index) if outcomes.has_failed(index) else None
            if isinstance(ended, Raised) and ended is not CANCELLED:
                return [f"{noun} {index}: {described(ended.error)}"]
    return []


def described(error: BaseException) -> str:
    """Type and text of an exception in one line, whatever its class does when asked."""
    lines = text_of(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
