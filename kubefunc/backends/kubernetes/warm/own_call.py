"""What the call says whose function a warm worker is. Pure."""

from __future__ import annotations

from kubefunc.diagnosis import Diagnosis, Phase
from kubefunc.envelope import Envelope, Raised, is_value, outcome
from kubefunc.errors import KubefuncError, PodStartError
from kubefunc.runner.protocol import records

_OWN_LINE = "kubefunc: "


def news_in(printed: bytes) -> str:
    """The last line of the runner's own in what a Pod printed."""
    own = [line for line in printed.decode(errors="replace").splitlines() if line.startswith(_OWN_LINE)]
    return own[-1].removeprefix(_OWN_LINE) if own else ""


def why_it_failed(record: records.Record, call: str) -> KubefuncError | None:
    """Why a worker could not serve; None where it has ended as it should."""
    if is_value(record):
        return None
    envelope = Envelope(record.header or {}, memoryview(record.body))
    ended = outcome(envelope, Diagnosis("WorkerFailed", "", phase=Phase.FINISHED, call=call))
    error = ended.error if isinstance(ended, Raised) else None
    told = PodStartError(
        f"The workers of the pool cannot start: {type(error).__name__}: {error}. Correct preload=, or give the workers "
        "what it imports: packages=, or another image=."
    )
    told.__cause__ = error
    return told
