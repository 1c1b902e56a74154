"""Which Jobs are kept once their outcome is known: the option ``keep``. Pure."""

from __future__ import annotations

from kubefunc.envelope import Envelope
from kubefunc.options import Keep
from kubefunc.runner import VALUE


def is_kept(keep: Keep, *, failed: bool) -> bool:
    """Whether a Job that was run to its end is left to its TTL.

    >>> is_kept("failed", failed=True), is_kept("failed", failed=False), is_kept("never", failed=True)
    (True, False, False)
    """
    return keep == "always" or (keep == "failed" and failed)


def call_failed(envelope: Envelope) -> bool:
    """Whether the result of a call is an exception or an error."""
    return bool(envelope.header["outcome"] != VALUE)
