"""Warm workers against dask.distributed, parsl and Ray with warm processes on the same machine, in turn, in one run.

Theirs are processes of this machine; ours are Pods, reached through API server and kubelet.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Iterator

from kubefunc import Pool, remote
from tests.bench.figures import Figure, at_most, milliseconds, spread
from tests.bench.on_cluster import Ground
from tests.bench.others import OTHERS, PROCESSES, Other
from tests.bench.warm import WITHIN, calling, seconds_of
from tests.bench.work import measured

ITEMS = 10_000
MAPS = 3  # rounds of maps; one of dask.distributed takes half a minute
ROUNDS = 15
CALLS = 20  # in a round
FRESH = "kubefunc, a process for each call"
STAYING = "kubefunc, fresh=False"


def warm_map(ground: Ground) -> Iterator[Figure]:
    """Trivial items. Each of the others in the way that is its fastest."""
    with contextlib.ExitStack() as stack:
        others = [stack.enter_context(Other(name)) for name in ("dask", "parsl")]
        stack.enter_context(calling(ground))
        pool = stack.enter_context(Pool(min_workers=PROCESSES, max_workers=PROCESSES, share=False))
        call = remote(pool=pool, verbose=False)(measured.double)
        call.map(range(1000)).result(WITHIN)
        mine: list[float] = []
        theirs: dict[str, list[float]] = {f"{other.title}, {way}": [] for other in others for way in other.maps}
        for _ in range(MAPS):
            mine += [seconds_of(lambda: call.map(range(ITEMS)).result(WITHIN)) for _ in range(3)]
            for other in others:
                for way in other.maps:
                    theirs[f"{other.title}, {way}"].append(other.map(way, ITEMS))
    best = min(statistics.median(took) for took in theirs.values())
    each = 1e6 * statistics.median(mine) / ITEMS
    detail = "; ".join((f"ours {each:.0f} µs an item, {spread(mine)}", *_of_each(theirs)))
    title = (
        f"map of {ITEMS:,} trivial items on {PROCESSES} warm workers, against the faster of dask.distributed and parsl"
    )
    yield at_most(
        f"{title} with {PROCESSES} processes, median / median", statistics.median(mine) / best, 0.5, " x", detail
    )


def _of_each(theirs: dict[str, list[float]]) -> list[str]:
    return [f"{way} {spread(took)}" for way, took in theirs.items()]


def warm_calls(ground: Ground) -> Iterator[Figure]:
    """One trivial call after another, and their results."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(calling(ground))
        ways: dict[str, Callable[[int], list[float]]] = {}
        for title, fresh in ((FRESH, True), (STAYING, False)):
            pool = stack.enter_context(Pool(max_workers=1, fresh=fresh, share=False))
            ways[title] = _calls_in(pool)
        for name in OTHERS:
            other = stack.enter_context(Other(name))
            ways[other.title] = other.calls
        took: dict[str, list[float]] = {title: [] for title in ways}
        for _ in range(ROUNDS):
            for title, calls in ways.items():
                took[title] += calls(CALLS)
    for title, seconds in took.items():
        yield Figure(f"one warm call after another: {title}", milliseconds(seconds))


def _calls_in(pool: Pool) -> Callable[[int], list[float]]:
    call = remote(pool=pool, verbose=False)(measured.double)
    call.remote(1).result(WITHIN)
    return lambda count: [seconds_of(lambda: call.remote(1).result(WITHIN)) for _ in range(count)]


ROWS = {"pool-map": warm_map, "pool-others": warm_calls}
