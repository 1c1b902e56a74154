"""How many warm workers a pool has: as many as pay off, within its bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubefunc import Pool
from kubefunc.backends.kubernetes.warm.scaling import Demand, wanted_workers
from kubefunc.errors import ConfigurationError
from kubefunc.options import Options


@pytest.mark.parametrize(
    ("demand", "workers"),
    [
        (Demand(0, 0, None), 0),
        (Demand(1, 0, None), 1),
        (Demand(500, 0, None), 2),
        (Demand(500, 2, 0.001), 3),
        (Demand(500, 2, 0.1), 20),
        (Demand(5, 2, 60.0), 7),
        (Demand(500, 2, 60.0), 20),
        (Demand(0, 3, 60.0), 3),
    ],
)
def test_workers_for_a_queue(demand: Demand, workers: int) -> None:
    """Two while nothing is known; then so many that the queue is done in the time that a Pod takes to start."""
    assert wanted_workers(demand, 0, 20) == workers


demands = st.builds(
    Demand,
    queued=st.integers(0, 10_000),
    running=st.integers(0, 50),
    seconds=st.none() | st.floats(0, 10_000, allow_nan=False),
)


@given(demands, st.integers(0, 20), st.integers(20, 100))
def test_workers_stay_within_bounds(demand: Demand, least: int, most: int) -> None:
    """Whatever there is to do; and something that waits is never left without a worker."""
    workers = wanted_workers(demand, least, most)
    assert least <= workers <= most
    assert workers > 0 or demand.queued == 0


@given(demands, st.integers(1, 100))
def test_more_to_do_never_means_fewer_workers(demand: Demand, more: int) -> None:
    """A longer queue of the same calls."""
    longer = Demand(demand.queued + more, demand.running, demand.seconds)
    assert wanted_workers(longer, 0, 50) >= wanted_workers(demand, 0, 50)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"max_workers": 0}, "max_workers=0"),
        ({"min_workers": 3, "max_workers": 2}, "more than max_workers=2"),
        ({"min_workers": -1}, "min_workers=-1"),
        ({"max_workers": True}, "max_workers=True"),
        ({"idle_timeout": 0}, "idle_timeout=0"),
        ({"preload": "pandas"}, r"preload=\['pandas'\]"),
    ],
)
def test_a_pool_that_makes_no_sense_is_refused(wrong: dict[str, object], says: str) -> None:
    """Each names the value and what to give."""
    with pytest.raises(ConfigurationError, match=says):
        Pool(**wrong)  # type: ignore[arg-type]


def test_the_option_pool() -> None:
    """A Pool, True for one that all such functions share, or None."""
    pool = Pool(max_workers=2)
    assert Options.of(pool=pool).pool is pool
    assert Options.of(pool=True).pool is Options.of(pool=True).pool
    assert Options.of(pool=False).pool is None
    with pytest.raises(ConfigurationError, match=r"pool=3 .* give a Pool, such as Pool\(max_workers=8\)"):
        Options.of(pool=3)  # type: ignore[arg-type]
