"""What the courier of each Pod is brought, as it is too large for Secrets."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterable

from kubefunc.backends.base import Submission
from kubefunc.backends.kubernetes.objects.job_spec import SECRETS_LIMIT
from kubefunc.packing.sent_files import SentFile
from kubefunc.runner import SENT_PACKAGES
from kubefunc.runner.protocol.file import numbers_in

Cargo = dict[str, Callable[[], "bytes | mmap.mmap"]]


def cargo_of(submission: Submission) -> Cargo:
    """The files that each Pod of a call or map needs, by name."""
    cargo: Cargo = {}
    if submission.payload.size > SECRETS_LIMIT:
        cargo["payload"] = lambda: submission.payload.data
    wanted = submission.options.requirements()
    if wanted is not None and wanted.sent is not None:
        path = wanted.sent.path
        cargo[SENT_PACKAGES] = lambda: _mapped(path)
    return cargo


def files_of(submission: Submission, items: Iterable[int] | None) -> dict[str, SentFile]:
    """The files of the arguments that a Pod needs, by name: first those of all items, then those of its own.

    Args:
        submission: the call or map.
        items: of a map, those that run in the Pod; None for a call, which has its arguments in the payload.
    """
    sent = submission.payload.files
    if not sent:
        return {}
    numbers = dict.fromkeys(submission.payload.used_files)
    for index in items or ():
        numbers.update(dict.fromkeys(numbers_in(submission.items[index])))
    return {f"file.{number}": sent[number] for number in numbers}


def _mapped(path: str) -> mmap.mmap:
    """A file's content, which is read as it is sent: several Pods may be brought 100 MB at once."""
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
