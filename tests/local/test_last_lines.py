"""The last lines of a function that was ended, read from a small API server that behaves as the kubelet behind one."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from kubefunc.backends.kubernetes.api.pool import open_session
from kubefunc.backends.kubernetes.api.requests import Api
from kubefunc.backends.kubernetes.attempts.attempt import Attempt
from kubefunc.backends.kubernetes.attempts.items import ItemsSink
from kubefunc.backends.kubernetes.objects.views import pod_view
from kubefunc.backends.kubernetes.results.output import Outputs
from kubefunc.options import Options
from tests.local.api_server import Handler, Peer, Request, Server, config_of
from tests.unit.statuses import CREATING, JsonDict, pod, terminated


class Kubelet:
    """Refuses a log until it has noticed that its container has started."""

    def __init__(self, notices_at: int) -> None:
        self.asked = 0
        self._notices_at = notices_at

    def __call__(self, request: Request, peer: Peer) -> None:
        """Answer a request for the log."""
        self.asked += 1
        if self.asked < self._notices_at:
            words = 'container "main" in pod "f-abcdefgh-1" is waiting to start: ContainerCreating'
            return peer.refuse(400, "BadRequest", words)
        peer.start_chunks()
        peer.chunk(b"writing\n")
        return peer.chunk(b"")


def last_lines(status: JsonDict, kubelet: Handler, folder: Path, followed: bytes = b"") -> tuple[str, ...]:
    """What an error would show."""
    with Server(kubelet) as server:
        config = config_of(server.url, folder)
        # Loads kubernetes, which takes a while: not within the time in which the log is asked for.
        open_session(config, lambda _: None, connections=1)
        api = Api(config)
        try:
            options = Options.of()
            sink = cast("ItemsSink", None)  # nobody is told of anything here
            attempt = Attempt("f-abcdefgh", "f-abcdefgh", "f", "team", b"k" * 32, options, sink, stays=False)
            attempt.pods.saw(pod_view(status))
            attempt.output_of(pod_view(status).name).pass_on(followed)
            return Outputs(api).tail(attempt, "main")
        finally:
            api.close()


@pytest.mark.parametrize("reason", ["Evicted", "DeadlineExceeded"])
def test_the_kubelet_tells_of_the_end_before_it_knows_of_the_start(reason: str, tmp_path: Path) -> None:
    """It is asked again: what was printed is there, a moment later."""
    kubelet = Kubelet(notices_at=4)
    assert last_lines(pod(CREATING, reason=reason), kubelet, tmp_path) == ("writing",)
    assert kubelet.asked == 4


def test_a_pod_that_was_ended_before_its_start_has_no_last_lines(tmp_path: Path) -> None:
    """Its caller is told of the end: it is not asked for as long as it would take to have some."""
    assert last_lines(pod(CREATING, reason="Evicted"), Kubelet(notices_at=1000), tmp_path) == ()


def test_a_pod_that_waits_to_start_is_not_asked(tmp_path: Path) -> None:
    """It cannot have printed anything."""
    kubelet = Kubelet(notices_at=1)
    assert last_lines(pod(CREATING), kubelet, tmp_path) == ()
    assert kubelet.asked == 0


@pytest.mark.parametrize(("followed", "lines"), [(b"", ()), (b"reading\nwriting\n", ("reading", "writing"))])
def test_a_log_that_is_gone(followed: bytes, lines: tuple[str, ...], tmp_path: Path) -> None:
    """The kubelet says so in place of the log: that is nothing the function printed, but what was followed is."""

    def removed(request: Request, peer: Peer) -> None:
        peer.start_chunks()
        peer.chunk(b"unable to retrieve container logs for containerd://acbb8f79820acb66")
        peer.chunk(b"")

    assert last_lines(pod(terminated(137), reason="Evicted"), removed, tmp_path, followed) == lines
