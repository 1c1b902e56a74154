"""Values of every size come back right, arguments of every size get there, by whichever channel."""

from __future__ import annotations

import time
from typing import Any

import pytest

import kubefunc
from kubefunc.errors import ResultLostError
from kubefunc.runner import TERMINATION_ENVELOPE, TERMINATION_SIZE, TERMINATION_TEXT_LIMIT
from tests.cluster import work
from tests.cluster.conftest import fresh_session
from tests.cluster.spaces import Space
from tests.cluster.waiting import eventually

MB = 1_000_000
pytestmark = pytest.mark.usefixtures("calling")


@pytest.mark.parametrize("size", [0, 1, 4096, MB, 10 * MB])
def test_a_value_comes_back_as_it_was(size: int) -> None:
    """From nothing at all to ten megabytes of noise."""
    assert work.make.remote(size).result(60) == work.noise(size)


def test_both_sides_of_the_limit_of_a_termination_message(calling: Space) -> None:
    """A result at the limit travels in the Pod's status or by exec; the caller cannot tell which.

    The text grows in steps of four bytes (base64), so the lengths next to 2,000 are 1,998 and 2,002.
    """
    limit = size_at_the_limit(calling)
    around = range(limit - 24, limit + 25, 8)
    calls = {size: work.make.options(detach=True).remote(size) for size in around}
    for size, call in calls.items():
        assert call.result(60) == work.noise(size)
    messages = [main_of(pod)["terminated"]["message"] for pod in calling.admin.get("pods")]
    assert len(messages) == len(calls)
    assert all(len(message) <= TERMINATION_TEXT_LIMIT for message in messages)
    whole = [message for message in messages if message.startswith(TERMINATION_ENVELOPE)]
    assert whole, "none of the results was small enough"
    assert max(map(len, whole)) > TERMINATION_TEXT_LIMIT - 16, "no result came near the limit"
    assert [message for message in messages if message.startswith(TERMINATION_SIZE)], "all were small enough"
    for call in calls.values():
        call.discard()


def test_without_inline_nothing_of_a_small_result_shows_in_the_status(calling: Space) -> None:
    """``inline=False`` keeps a result out of Pod status; it comes by exec."""
    call = work.double.options(inline=False, express=False, detach=True).remote(21)
    assert call.result(60) == 42
    (pod,) = calling.admin.get("pods")
    assert main_of(pod)["terminated"]["message"].startswith(TERMINATION_SIZE)
    call.discard()


@pytest.mark.parametrize("size", [0, 1, 4096, MB, 5 * MB, 10 * MB])
def test_an_argument_gets_there_as_it_was(size: int) -> None:
    """One Secret up to a megabyte, several up to eight, above that an upload through the courier."""
    data = work.noise(size)
    assert work.read.remote(data).result(90) == work.digest_of(data)


def test_an_argument_of_a_hundred_megabytes() -> None:
    """Nothing of it passes through the cluster's memory for objects (etcd)."""
    data = work.noise(100 * MB)
    assert work.read.remote(data).result(180) == work.digest_of(data)


def test_a_result_of_a_hundred_megabytes() -> None:
    """It begins to arrive when the function returns, not when the Pod's end is known."""
    data, returned = work.make_and_say_when.remote(100 * MB).result(120)
    print(f"100 MB: {time.time() - returned:.2f} s from the function's return to that of result()")
    assert work.digest_of(data) == work.digest_of(work.noise(100 * MB))


def test_a_result_of_half_a_gigabyte() -> None:
    """As long as the caller has the memory for it."""
    data = work.make.remote(500 * MB).result(300)
    assert work.digest_of(data) == work.digest_of(work.noise(500 * MB))


def main_of(pod: dict[str, Any]) -> dict[str, Any]:
    """The state of the container ``main``."""
    states = {status["name"]: status["state"] for status in pod["status"]["containerStatuses"]}
    state: dict[str, Any] = states["main"]
    return state


def size_at_the_limit(space: Space) -> int:
    """The size of noise whose envelope has about 2,000 bytes of text: three bytes of it are four of text."""
    size = 800
    call = work.make.options(detach=True).remote(size)
    assert call.result(60) == work.noise(size)
    (pod,) = space.admin.get("pods")
    call.discard()
    eventually(lambda: not space.admin.get("pods"), what="the end of the first Pod")
    message = main_of(pod)["terminated"]["message"]
    assert message.startswith(TERMINATION_ENVELOPE)
    return size + (TERMINATION_TEXT_LIMIT - len(message)) * 3 // 4


def test_a_large_detached_result_that_nobody_fetched(calling: Space) -> None:
    """It keeps its Pod for ``ttl``, or as here for ``result_ttl``; the error says until when it was there."""
    call = work.make.options(detach=True, result_ttl=2, verbose=False).remote(6_000_000)
    ended = lambda: [pod["status"]["phase"] for pod in calling.admin.get("pods")] == ["Succeeded"]  # noqa: E731
    with fresh_session():
        eventually(ended, 60, "the Pod's end")
        attached = kubefunc.attach(call.id)
        with pytest.raises(ResultLostError, match="nobody fetched it, and the Pod ended at 20"):
            attached.result(60)
        attached.discard()
