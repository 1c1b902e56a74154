"""Why a file of arguments or results does not arrive."""

from __future__ import annotations

from kubefunc import errors
from kubefunc.backends.kubernetes.diagnose.finding import Finding


def not_stored_here(why: str) -> Finding:
    """A file that the function returned has no place on this machine."""
    return Finding(
        errors.ResultLostError,
        "FileNotStored",
        f"The function returned a file, and it cannot be stored on this machine: {why}.",
        "Free some space there, or set TMPDIR to a folder that has room before you start the program.",
    )


def not_fetched(why: str) -> Finding:
    """A file that the function returned stays in its warm worker."""
    return Finding(
        errors.ResultLostError,
        "FileNotFetched",
        f"The function returned a file, and it cannot be fetched from its worker: {why}.",
        "Do not remove in the function what it has returned. Else run the call again.",
    )


def not_sent(why: str) -> Finding:
    """A file of the arguments cannot be sent any more."""
    return Finding(
        errors.FileError,
        "FileNotSent",
        f"A file of the arguments cannot be sent: {why}",
        "Call again.",
        job_goes_on=True,
    )


def refused(name: str, size: int, pod: str, why: str) -> Finding:
    """The Pod cannot store a file of the arguments."""
    return Finding(
        errors.FileError,
        "FileRefused",
        f"The file {name!r} of {size:,} bytes cannot be stored in the Pod {pod}: {why}.",
        "Request ephemeral-storage in pod_template= to get a node with room, or put the file on a volume and pass its "
        "path (volumes=).",
        (why,),
        job_goes_on=True,
    )
