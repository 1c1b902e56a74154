"""What the runner is told of a submission: the one place where a spec for it is made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING

from kubefunc.backends.base import Submission
from kubefunc.log_setup import log_setup
from kubefunc.options import Options
from kubefunc.runner.protocol.spec import RunnerSpec
from kubefunc.sizes import size_text

if TYPE_CHECKING:
    from kubefunc.options.parsers.requirements import Requirements, Sent

LEFT_AFTER = 30.0  # seconds without a client after which a generator ends at the soonest: a streamer shows up each 10


def runner_spec(submission: Submission) -> RunnerSpec:
    """What a process on this machine and one in a Pod must know alike."""
    options = submission.options
    return RunnerSpec(
        call=submission.call,
        function=submission.function,
        timeout=options.timeout,
        retries=options.retries,
        nested=options.service_account is not None,
        untrusted=options.untrusted,
        used=submission.used,
        logging=log_setup() if options.logging else None,
        stream=None if submission.values is None else {"ahead": submission.values.ahead},
    )


def pod_spec(submission: Submission, *, upload: bool) -> RunnerSpec:
    """What a Pod must know: of a call all, of a map what all of its chunks have in common.

    Args:
        submission: the call or map.
        upload: the payload is too large for Secrets, and arrives by the courier.
    """
    options = submission.options
    wanted = options.requirements()
    spec = runner_spec(submission)
    return spec.replace(
        stream=None if spec.stream is None else {**spec.stream, "left_after": max(LEFT_AFTER, options.result_wait)},
        inline=options.inline and spec.stream is None,  # or the courier would end before all values were fetched
        results_in_log=options.results_in_log,
        fetch_grace=0.0 if options.detach else options.fetch_grace,
        result_ttl=options.result_wait,
        pull_allowance=options.pull_allowance,
        disruptions=submission.disruptions,
        upload=upload,
        seals_files=True,
        packages=None if wanted is None else packages_spec(wanted, options),
    )


def gang_spec(peers: Sequence[str], meeting: int, master: int, *, apart: bool) -> dict[str, object]:
    """What the ranks of a gang must know, see :func:`kubefunc.runner.execution.gang.enter`."""
    return {"peers": list(peers), "meeting": meeting, "master": master, "apart": apart}


def packages_spec(wanted: Requirements, options: Options) -> dict[str, object]:
    """What the runner's installer must know. It stands in a Secret, as URLs may hold passwords."""
    return {
        "requirements": wanted.lines,
        "constraints": wanted.constraints,
        "hashes": wanted.has_hashes,
        "index": options.package_index or "",
        "title": "" if wanted.sent is not None else wanted.title,
        "why": wanted.why,
        "seconds": options.pull_allowance,
        "cache": options.package_cache is not None,
        "sent": None if wanted.sent is None else _sent_spec(wanted.sent),
    }


def _sent_spec(sent: Sent) -> dict[str, object]:
    """What the runner must know of the archive that is brought to it."""
    return {
        "title": f"{', '.join(sent.names)} ({size_text(sent.size)} from your machine)",
        "digest": PurePath(sent.path).name.partition(".")[0],
        "machine": sent.machine,
        "glibc": sent.glibc,
        "pinned": sent.pinned,
    }
