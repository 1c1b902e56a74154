"""Variables of ``env=`` reach the function, and nobody sees their values who may not read Secrets."""

from __future__ import annotations

import json
import os
from typing import Any

import kubefunc
from kubefunc import remote
from kubefunc.options import ConfigMapKey, SecretKey
from tests.cluster import work
from tests.cluster.conftest import fresh_session
from tests.cluster.spaces import Space
from tests.cluster.waiting import until_running

WAIT = 120
PASSWORD = "pa$$word $(HOME) Ünicode\n second line"


def shown(space: Space) -> str:
    """All that somebody can read who may read everything but Secrets."""
    found: list[Any] = [space.admin.get(kind) for kind in ("jobs", "pods", "events")]
    return json.dumps(found)


def test_values_arrive_and_stay_out_of_the_job(calling: Space) -> None:
    """Texts as they were written, beside keys of the namespace's own Secrets and ConfigMaps; in a map as in a call."""
    calling.admin.run("create", "secret", "generic", "database", "--from-literal=password=from-secret")
    calling.admin.run("create", "configmap", "site", "--from-literal=url=from-configmap")
    env = {
        "TOKEN": PASSWORD,
        "EMPTY": "",
        "FROM_SECRET": SecretKey("database", "password"),
        "FROM_CONFIGMAP": ConfigMapKey("site", "url"),
        "HOME": "/data",
    }
    expected = {**env, "FROM_SECRET": "from-secret", "FROM_CONFIGMAP": "from-configmap"}
    function = remote(work.variables).options(env=env, detach=True)
    call = function.remote(*env)
    assert call.result(WAIT) == expected
    a_map = function.starmap([tuple(env), ("TOKEN", "NOT_THERE")])
    assert a_map.result(WAIT) == [expected, {"TOKEN": PASSWORD, "NOT_THERE": None}]
    assert "pa$" not in shown(calling)
    call.discard()
    a_map.discard()


def test_the_values_are_no_files_in_the_pod(calling: Space) -> None:
    """What lies in the Pod's volume is what the runner needs."""
    listed = remote(os.listdir).options(env={"TOKEN": PASSWORD}, verbose=False).remote("/kubefunc/in").result(WAIT)
    assert {name for name in listed if not name.startswith(".")} == {"kubefunc.pyz", "spec.json", "key", "payload"}


def test_many_values_need_several_secrets(calling: Space) -> None:
    """A megabyte of variables beside a payload that needs Secrets of its own."""
    env = {f"V{number}": chr(97 + number) * 100_000 for number in range(11)}

    def lengths(data: bytes) -> tuple[int, list[int]]:
        return len(data), [len(os.environ[name]) for name in sorted(env, key=lambda name: int(name[1:]))]

    sent = remote(lengths).options(env=env)
    assert sent.remote(os.urandom(2_000_000)).result(WAIT) == (2_000_000, [100_000] * 11)


def test_the_next_attempts_have_them_too(calling: Space) -> None:
    """An attempt of the client's is a Job with a Secret of its own; the first one's may be gone by then."""

    def greedy() -> tuple[str, str]:
        held = bytearray(90 * 2**20)
        return os.environ["TOKEN"], os.environ["HOSTNAME"] if held else ""

    call = remote(greedy).options(env={"TOKEN": PASSWORD}, memory=("64Mi", "256Mi"), retries=2).remote()
    token, host = call.result(WAIT)
    assert token == PASSWORD
    assert f"{call.id}-r2" in host


def test_what_is_attached_to_has_them(calling: Space) -> None:
    """Another process needs none of the values to collect a call, or to run a map's failed items again."""

    def wait_and_tell(fails: bool) -> str:
        import time

        time.sleep(2)
        if fails:
            raise LookupError(os.environ["TOKEN"])
        return os.environ["TOKEN"]

    detached = remote(wait_and_tell).options(env={"TOKEN": PASSWORD}, detach=True)
    call, a_map = detached.remote(fails=False), detached.map([True, False], return_exceptions=True)
    until_running(call, 60)
    with fresh_session():
        attached = kubefunc.attach(f"{calling.namespace}/{call.id}")
        assert attached.result(WAIT) == PASSWORD
        attached.discard()
        other = kubefunc.attach_map(f"{calling.namespace}/{a_map.id}", return_exceptions=True)
        first, second = other.result(WAIT)
        assert (str(first), second) == (str(LookupError(PASSWORD)), PASSWORD)
        again = other.retry_failed().result(WAIT)
        assert str(again[0]) == str(LookupError(PASSWORD))
        other.discard()
