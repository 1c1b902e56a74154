"""The command line on a real cluster: another program's calls are listed, shown, read, stopped and cleaned up."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from tests.cluster import failing, mapped
from tests.cluster.spaces import Space
from tests.cluster.waiting import eventually, nothing_left
from tests.conftest import ROOT


def kubefunc(space: Space, *arguments: str, code: int = 0) -> str:
    """What the command prints, run by the user of our Role; its exit code is as expected."""
    result = subprocess.run(
        [sys.executable, "-m", "kubefunc", *arguments],
        cwd=ROOT,
        env={"KUBECONFIG": str(space.kubeconfig), "PATH": "/usr/bin:/bin", "HOME": str(space.kubeconfig.parent)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == code, (arguments, result.stdout, result.stderr)
    return result.stdout


def calls_of(space: Space) -> dict[str, dict[str, Any]]:
    """``kubefunc ls --json``, by id."""
    return {call["id"]: call for call in json.loads(kubefunc(space, "ls", "--json"))}


def test_calls_of_another_program(calling: Space) -> None:
    """Their states, results, exceptions and output; cancelled and cleaned up, nothing is left."""
    detached = {
        "value": failing.double.options(detach=True).remote(21),
        "raised": failing.divide_by_zero.options(detach=True).remote(),
        "running": failing.sleep.options(detach=True).remote(600),
        "stuck": failing.double.options(detach=True, node_selector={"no": "such"}).remote(1),
    }
    ids = {name: call.id for name, call in detached.items()}
    expected = {"value": "succeeded", "raised": "failed", "running": "running", "stuck": "pending"}

    def as_expected() -> bool:
        known = calls_of(calling)
        return {name: known[call]["state"] for name, call in ids.items() if call in known} == expected

    eventually(as_expected, 60, "each call in its state")

    assert kubefunc(calling, "result", ids["value"]) == "42\n"
    assert json.loads(kubefunc(calling, "result", "--json", ids["value"]))["items"][0]["value"] == 42
    raised = json.loads(kubefunc(calling, "result", "--json", ids["raised"], code=5))
    assert raised["items"][0]["error"]["type"] == "ZeroDivisionError"
    kubefunc(calling, "result", ids["running"], code=4)
    assert "about to divide" in kubefunc(calling, "logs", "-f", "--timestamps", ids["raised"])
    assert "none has the labels that the call asks for" in kubefunc(calling, "show", ids["stuck"])

    kubefunc(calling, "cancel", ids["running"], ids["stuck"])
    kubefunc(calling, "clean", "--yes")
    nothing_left(calling)
    kubefunc(calling, "show", ids["value"], code=3)


def test_a_map_of_another_program(calling: Space) -> None:
    """A line for each item, on standard error for the one that failed; its Pods' output by number."""
    mapped_call = mapped.trouble.options(detach=True).map([1, 2], ["", "raise"])
    eventually(lambda: calls_of(calling).get(mapped_call.id, {}).get("state") == "failed", 60, "the end of the map")
    call = calls_of(calling)[mapped_call.id]
    assert (call["shape"], call["items"], call["succeeded"], call["failed"]) == ("map", 2, 1, 1)
    assert kubefunc(calling, "result", mapped_call.id, code=5).startswith("[0] ")
    kubefunc(calling, "clean", "--yes", mapped_call.id)
    nothing_left(calling)
