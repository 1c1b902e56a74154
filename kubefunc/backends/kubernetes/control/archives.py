"""Which archive of kubefunc a Pod gets."""

from __future__ import annotations

from kubefunc.backends.base import Submission
from kubefunc.packing.archive import archive_bytes, worker_archive_bytes


def archive_for(submission: Submission) -> bytes:
    """With the programs of warm workers where the Pod is one, or its function may start some."""
    may_start_workers = submission.options.service_account is not None
    return worker_archive_bytes() if submission.pool or may_start_workers else archive_bytes()
