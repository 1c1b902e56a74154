"""Gangs on this machine: processes that start together and know each other."""

from __future__ import annotations

import asyncio
import concurrent.futures
import time

import pytest

from kubefunc import GangCall, current, errors, remote
from tests.cluster import ranks

WAIT = 60


def gang_of(function: object, size: int, *args: object, **options: object) -> GangCall[object]:
    """A gang of this function."""
    made = function.options(gang=size, **options).remote(*args)  # type: ignore[attr-defined]
    assert isinstance(made, GangCall)
    return made


def test_a_ring_of_ranks_adds_up() -> None:
    """Each rank passes numbers on to the next by sockets: the sum is the same everywhere, and the same as here."""
    expected = [sum(column) for column in zip(*(ranks.numbers_of(7, rank) for rank in range(4)), strict=True)]
    assert gang_of(ranks.reduce_in_a_ring, 4, 7).result(WAIT) == [expected] * 4


def test_programs_find_the_variables_of_torch_and_mpi() -> None:
    """The rank and the size, and where rank 0 listens; the ranks of one machine are counted, too."""
    found = gang_of(ranks.variables, 3).result(WAIT)
    assert [each["RANK"] for each in found] == ["0", "1", "2"]
    assert [each["LOCAL_RANK"] for each in found] == ["0", "1", "2"]
    assert {(each["MASTER_ADDR"], each["WORLD_SIZE"], each["PMI_SIZE"]) for each in found} == {("127.0.0.1", "3", "3")}
    assert len({each["MASTER_PORT"] for each in found}) == 1


def test_none_runs_before_all_are_there() -> None:
    """The functions begin at the same time, however long their processes took to start."""
    began = gang_of(ranks.started, 4, 0.0).result(WAIT)
    assert max(began) - min(began) < 5.0


def test_one_failed_rank_ends_all() -> None:
    """With its own error, which says which rank it was; the others do not wait for it in vain."""
    gang = gang_of(ranks.fail_at, 3, 1)
    with pytest.raises(ValueError, match="this rank is wrong") as raised:
        gang.result(WAIT)
    assert "In rank 1 of 3." in raised.value.__notes__
    assert gang.done()


def test_a_gang_can_be_cancelled() -> None:
    """All ranks end."""
    gang = gang_of(ranks.started, 2, 600.0)
    assert gang.cancel()
    with pytest.raises(concurrent.futures.CancelledError):
        gang.result(WAIT)


def test_a_timeout_ends_the_gang() -> None:
    """Of whichever rank."""
    with pytest.raises(errors.CallTimeoutError):
        gang_of(ranks.started, 2, 600.0, timeout=1).result(WAIT)


def test_what_ranks_print_is_kept_by_rank() -> None:
    """And all together."""
    gang = gang_of(ranks.variables, 2)
    gang.result(WAIT)
    assert "rank 1 is here" in gang.ranks[1].logs()
    assert "rank 0 is here" not in gang.ranks[1].logs()
    assert "rank 0 is here" in gang.logs()


def test_a_gang_can_be_awaited() -> None:
    """In an event loop."""

    async def both() -> list[object]:
        return list(await asyncio.gather(gang_of(ranks.started, 2, 0.0), gang_of(ranks.started, 2, 0.0)))

    assert len(asyncio.run(both())) == 2


def test_outside_of_a_gang() -> None:
    """There is one rank, without a number."""

    @remote
    def alone() -> tuple[int | None, int, list[str]]:
        return current.rank(), current.world_size(), current.peers()

    assert alone.remote().result(WAIT) == (None, 1, [])


@pytest.mark.parametrize(
    ("options", "words"), [({"backoff_limit": 1}, "with backoff_limit=1"), ({"detach": True}, "with detach")]
)
def test_what_does_not_go_together_with_a_gang(options: dict[str, object], words: str) -> None:
    """It is refused before anything is sent."""
    with pytest.raises(errors.ConfigurationError, match=words):
        gang_of(ranks.variables, 2, **options)
    with pytest.raises(errors.ConfigurationError, match="each item would be a gang"):
        ranks.started.options(gang=2).map([1.0])


def test_a_gang_that_failed_runs_again_with_all_ranks() -> None:
    """As often as ``retries`` says: no rank has its outcome before it is known whether all run again."""
    gang = gang_of(ranks.fail_once, 3, retries=1)
    assert gang.ranks[0].result(WAIT) == 2
    assert gang.result(WAIT) == [2, 2, 2]


def test_a_gang_does_not_run_again_after_an_error_that_is_final() -> None:
    """Its own error says so, or retry_exceptions does; the ranks that failed because of it do not count."""
    gang = gang_of(ranks.fail_at, 3, 1, retries=3, retry_exceptions=OSError)
    with pytest.raises(ValueError, match="this rank is wrong"):
        gang.result(WAIT)


def test_an_untrusted_gang_sends_json() -> None:
    """As every untrusted function does."""
    assert gang_of(ranks.started, 2, 0.0, untrusted=True).result(WAIT)


def test_a_slow_gang_shows_no_rank_as_failed() -> None:
    """Nothing of it has ended while it runs."""
    gang = gang_of(ranks.started, 2, 1.0)
    time.sleep(0.1)
    assert not gang.done()
    assert len(gang) == len(gang.result(WAIT)) == 2
