"""What is found to be wrong with a call, before it is an error."""

from __future__ import annotations

import dataclasses
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kubefunc import errors
from kubefunc.diagnosis import Diagnosis
from kubefunc.runner import MAIN
from kubefunc.runner.execution.exceptions import text_of

TRIED_AGAIN: Final = "Kubernetes tries again."
TELL: Final = "If it does not get better, tell your cluster's administrator."


@dataclass(frozen=True)
class Finding:
    """Why a call does not go on.

    Attributes:
        error: the class of the error that it becomes.
        reason: for ``Diagnosis.reason``.
        message: what is wrong, for a person who does not know Kubernetes.
        advice: what to do next.
        words: the cluster's own.
        fatal_after: seconds that it must last to end the call; None: it passes by itself, wait on and say so.
        container: the one whose last output belongs to it.
        vague: the cluster only says that it tries again; what was found before says more.
        outlook: what comes next by itself; for those who wait, and never in an error.
        at_once: those who wait are told as soon as it is found, not only after some seconds.
        job_goes_on: the Job would run the function once more, after its caller was told of the failure.
    """

    error: type[errors.KubefuncError]
    reason: str
    message: str
    advice: str
    words: tuple[str, ...] = ()
    fatal_after: float | None = 0.0
    exit_code: int | None = None
    signal: int | None = None
    container: str = MAIN
    vague: bool = False
    job_goes_on: bool = False
    outlook: str = ""
    at_once: bool = False

    def as_error(self, known: Diagnosis) -> errors.KubefuncError:
        """The error, with all that is known of the call."""
        told = dataclasses.replace(
            known,
            reason=self.reason,
            message=self.message,
            advice=self.advice,
            events=(*known.events, *(word for word in self.words if word not in known.events)),
            exit_code=self.exit_code,
            signal=self.signal,
        )
        if self.error is errors.WorkerDiedError:
            return errors.WorkerDiedError(str(told), exit_code=self.exit_code, signal=self.signal, diagnosis=told)
        return self.error(str(told), diagnosis=told)

    def same_as(self, other: Finding | None) -> bool:
        """Whether this is the trouble that was found before, in whatever words."""
        return other is not None and (self.reason, self.message) == (other.reason, other.message)


def fault(error: Exception) -> Finding:
    """What kubefunc itself could not handle: it ends the call that it is about, with a word, and no other."""
    where = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(where[-1].filename).name}, line {where[-1].lineno})" if where else ""
    return Finding(
        errors.KubefuncError,
        "Fault",
        "kubefunc could not handle what it was told of this call. This is a fault of kubefunc.",
        "Please report it with these words; run the call again.",
        (f"{type(error).__name__}: {text_of(error)}{place}",),
    )


def sharper(old: Finding | None, new: Finding | None) -> Finding | None:
    """Of two findings in a row, the one to believe: the new one, unless it says less about the same."""
    if old is not None and new is not None and new.vague and new.error is old.error:
        return old
    return new


def worded(reason: str, words: str) -> str:
    """The cluster's reason and words, as one line."""
    return f"{reason}: {words}" if words else reason
