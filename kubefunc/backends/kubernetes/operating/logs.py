"""Logs of a call's Pods, one after another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kubefunc.backends.kubernetes.api.requests import Api, ApiError
from kubefunc.backends.kubernetes.api.streams import split_lines
from kubefunc.backends.kubernetes.objects.paths import log_path
from kubefunc.backends.kubernetes.results.output import printed
from kubefunc.backends.operations import LogPiece, LogWish, StoredCall, StoredPod
from kubefunc.runner import MAIN
from kubefunc.untrusted import printable_output


def read_logs(api: Api, call: StoredCall, wish: LogWish) -> Iterator[LogPiece]:
    """What has been printed by now. Pods that have not started, or are gone, have printed nothing."""
    for pod in call.pods:
        try:
            data = api.read_bytes(log_path(call.namespace, pod.name), query=log_query(wish))
        except ApiError as error:
            if not (error.not_started or error.not_found):
                raise
            continue
        yield from as_pieces(call, pod, printed([data]))


def log_query(wish: LogWish) -> dict[str, str]:
    """The parameters of one request.

    >>> log_query(LogWish(since=90.5, timestamps=True))
    {'container': 'main', 'timestamps': 'true', 'sinceSeconds': '91'}
    """
    query = {"container": MAIN}
    if wish.follow:
        query["follow"] = "true"
    if wish.timestamps:
        query["timestamps"] = "true"
    if wish.since is not None:
        query["sinceSeconds"] = str(max(1, -int(-wish.since // 1)))
    if wish.tail is not None:
        query["tailLines"] = str(wish.tail)
    return query


def as_pieces(call: StoredCall, pod: StoredPod, log: Iterable[bytes]) -> Iterator[LogPiece]:
    """Of a call as it comes; of a map by lines, since its Pods print at the same time.

    What a function printed that its caller does not trust cannot control the terminal.
    """
    if call.is_untrusted:
        log = printable_output(log)
    if call.shape == "map":
        for line in split_lines(log):
            yield LogPiece(line + b"\n", pod.index)
        return
    for data in log:
        yield LogPiece(data)
