"""Which Jobs are kept after their end, for a person to look at, and what of them is still there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cluster import failing, mapped
from tests.cluster.spaces import Space
from tests.cluster.test_leaving import Program
from tests.cluster.waiting import eventually, nothing_left, nothing_left_but_failed

WAIT = 90


def ended_jobs(space: Space) -> dict[str, str]:
    """The Jobs that have ended, by name: ``Failed`` or ``Complete``."""
    return {
        job["metadata"]["name"]: condition["type"]
        for job in space.admin.get("jobs")
        for condition in job.get("status", {}).get("conditions", [])
        if condition["status"] == "True" and condition["type"] in ("Failed", "Complete")
    }


def pods_of(space: Space, call: str) -> list[dict[str, Any]]:
    """What ``kubectl get pods`` shows of a call or a map."""
    return space.admin.get("pods", "-l", f"kubefunc/call={call}")


def test_the_job_of_a_failed_call_is_kept(calling: Space) -> None:
    """It has ended, so that it holds no CPU; kubectl shows what it printed; ``discard`` removes all of it."""
    call = failing.divide_by_zero.remote()
    with pytest.raises(ZeroDivisionError):
        call.result(WAIT)
    eventually(lambda: ended_jobs(calling) == {call.id: "Failed"}, what="the end of the Job")
    (pod,) = pods_of(calling, call.id)
    assert pod["status"]["phase"] == "Failed"
    assert "about to divide" in calling.admin.run("logs", pod["metadata"]["name"], "-c", "main")
    call.discard()
    nothing_left(calling)


def test_what_succeeded_or_was_cancelled_is_not_kept(calling: Space) -> None:
    """Nor is what failed with ``keep="never"``, calls and maps alike."""
    assert failing.double.remote(1).result(WAIT) == 2
    waiting = failing.sleep.remote(600)
    eventually(waiting.running, 30, "the function running")
    waiting.cancel()
    with pytest.raises(ZeroDivisionError):
        failing.divide_by_zero.options(keep="never").remote().result(WAIT)
    mapped.trouble.options(keep="never").map([1, 2], ["", "raise"], return_exceptions=True).result(WAIT)
    nothing_left(calling)


def test_always_keeps_what_succeeded(calling: Space) -> None:
    """Calls and maps: their Jobs are complete, with the Pods and what they printed."""
    call = failing.double.options(keep="always").remote(1)
    a_map = mapped.double.options(keep="always").map(range(4))
    assert (call.result(WAIT), a_map.result(WAIT)) == (2, [0, 2, 4, 6])
    complete = {call.id: "Complete", a_map.id: "Complete"}
    eventually(lambda: ended_jobs(calling) == complete, what="the end of both Jobs")
    assert pods_of(calling, call.id)
    assert pods_of(calling, a_map.id)
    call.discard()
    a_map.discard()


def test_the_job_of_a_map_is_kept_if_an_item_failed(calling: Space) -> None:
    """The Pods of the failed items are there; ``retry_failed`` leaves nothing of its own where all is well."""
    a_map = mapped.trouble.map(range(4), ["", "raise", "", ""], chunksize=2, return_exceptions=True)
    assert isinstance(a_map.result(WAIT)[1], LookupError)
    eventually(lambda: ended_jobs(calling) == {a_map.id: "Failed"}, what="the end of the Job")
    assert "Failed" in {pod["status"]["phase"] for pod in pods_of(calling, a_map.id)}
    nothing_left_but_failed(calling)


def test_a_program_that_ends_by_the_error_leaves_no_pod_waiting(kube: Space, tmp_path: Path) -> None:
    """Its last word to the Pod is that the result has come: a kept Pod does not wait a minute for that."""
    program = Program(
        kube,
        tmp_path,
        "import kubefunc\n"
        "@kubefunc.remote\n"
        "def fail():\n"
        "    import random\n"
        "    raise ValueError(random.randbytes(200_000))\n"
        "fail.remote().result()\n",
    )
    assert program.end(WAIT) == 1
    eventually(lambda: list(ended_jobs(kube).values()) == ["Failed"], 20, "the end of the Job")
