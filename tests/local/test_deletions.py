"""How the Jobs of ended calls are deleted, against a small API server on real sockets."""

from __future__ import annotations

import time
from pathlib import Path

from kubefunc.backends.kubernetes.api.permission import ExecPermission
from kubefunc.backends.kubernetes.api.requests import Api
from kubefunc.backends.kubernetes.attempts.attempt import Attempt
from kubefunc.backends.kubernetes.attempts.job_objects import JobObjects
from kubefunc.backends.kubernetes.control.jobs import Jobs
from kubefunc.backends.kubernetes.threads import Clock, Workers
from kubefunc.options import Options
from tests.local.api_server import Peer, Request, Server, config_of
from tests.local.programs import until


class _Settled:
    """A sink whose call has its result."""

    settled = True


def _ended_attempt() -> Attempt:
    return Attempt(
        call="work-abcdefgh",
        job="work-abcdefgh",
        function="work",
        namespace="default",
        key=b"",
        options=Options(),
        sink=_Settled(),  # type: ignore[arg-type]
        stays=False,
        objects=JobObjects.existing(),
    )


def _jobs(api: Api, requests: Workers) -> Jobs:
    return Jobs(api, requests, Clock("clock"), ExecPermission(api), lambda *_: None)


def test_an_exit_tries_a_failed_deletion_again_at_once(tmp_path: Path) -> None:
    """A deletion that failed is owed; it waits 5 s for its next try, or until the program exits."""
    answers = [409, 200]

    def handler(request: Request, peer: Peer) -> None:
        status = answers.pop(0)
        if status == 200:
            peer.json(200, {})
        else:
            peer.refuse(status, "Conflict", "try again")

    with Server(handler) as server:
        requests = Workers("requests", 2)
        jobs = _jobs(Api(config_of(server.url, tmp_path)), requests)
        attempt = _ended_attempt()
        jobs.want_deleted(attempt)
        until(lambda: answers == [200], "the first DELETE")
        assert jobs.owed() == {attempt}
        began = time.monotonic()
        until(lambda: requests.drain(1), "the failure is noted")
        jobs.hurry()
        until(lambda: not jobs.owed(), "the second DELETE")
        assert time.monotonic() - began < 3
        assert attempt.objects.deleted


def test_a_deletion_that_the_role_forbids_is_owed_no_more(tmp_path: Path) -> None:
    """No exit waits for it, and the exit says that the Job is still there."""

    def forbid(request: Request, peer: Peer) -> None:
        message = 'jobs.batch "work-abcdefgh" is forbidden: User "u" cannot delete resource "jobs" in API group "batch"'
        peer.refuse(403, "Forbidden", message)

    with Server(forbid) as server:
        jobs = _jobs(Api(config_of(server.url, tmp_path)), Workers("requests", 2))
        attempt = _ended_attempt()
        jobs.want_deleted(attempt)
        until(lambda: not jobs.owed(), "the refusal")
        assert not attempt.objects.deleted
