"""The figures of maps on a real cluster."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from tests.bench.caller import Caller
from tests.bench.figures import Figure, at_most, spread
from tests.bench.on_cluster import Ground, alternating, ratio
from tests.cluster.audit import requests_of

SECRET = "bench-inputs"
PODS = 100
RUNS = 5  # of 100 Pods each way
MEMORY = 400e6
STREAMS = "get pods/exec"


def small_items(ground: Ground) -> Iterator[Figure]:
    """A thousand trivial items against one bare Job."""
    with Caller(ground.space.kubeconfig) as caller, ground.bare() as bare:
        caller.map(10)
        mine, theirs = alternating(max(3, ground.pairs // 5), lambda: caller.map(1000), bare)
    detail = f"ours {spread(mine)}; bare {spread(theirs)}"
    yield at_most("cluster `map(range(1000))` against a bare Job, mean / mean", ratio(mine, theirs), 2.0, detail=detail)


def split_work(ground: Ground) -> Iterator[Figure]:
    """64 items of 50 ms on two Pods: what is left over one bare Job, of the ideal half of the work."""
    with Caller(ground.space.kubeconfig) as caller, ground.bare() as bare:
        mine, theirs = alternating(max(3, ground.pairs // 10), lambda: caller.map_naps(64, 50, 2), bare)
    over = (statistics.fmean(mine) - statistics.fmean(theirs)) / 1.6
    detail = f"ours {spread(mine)}; bare {spread(theirs)}"
    yield at_most("cluster map of 64 x 50 ms on 2 Pods, beyond a bare Job, of work / 2", over, 1.3, detail=detail)


def many_pods(ground: Ground) -> Iterator[Figure]:
    """100 Pods of a map against those of a bare Indexed Job like them, and one of the least that Pods can be."""
    ground.space.admin.run("create", "secret", "generic", SECRET, "--from-literal=a=b")
    with Caller(ground.space.kubeconfig) as caller, ground.bare_jobs() as bare:
        mine, like, least = [], [], []
        for _ in range(RUNS):
            mine.append(caller.map(PODS, 1))
            like.append(bare.run_many(PODS, 2, SECRET))
            least.append(bare.run_many(PODS, 1, None))
    detail = f"ours {spread(mine)}; bare {spread(like)}"
    yield at_most(
        "100 Pods against a bare Indexed Job with two containers and our volumes, mean / mean",
        ratio(mine, like),
        1.15,
        detail=detail,
    )
    yield Figure("the same against one container without volumes", f"{ratio(mine, least):.3g} (bare {spread(least)})")


def requests(ground: Ground) -> Iterator[Figure]:
    """Requests of maps with the same number of Pods, by what they ask for; streams that are opened apart."""
    counts: dict[int, Counter[str]] = {}
    with Caller(ground.space.kubeconfig) as caller:
        caller.map(4)
        for items in (100, 1000, 10_000):
            time.sleep(4)
            before = len(requests_of(ground.cluster.audit_log, ground.space.user))
            caller.map(items, items // 4)
            time.sleep(4)
            made = requests_of(ground.cluster.audit_log, ground.space.user)[before:]
            counts[items] = Counter(f"{each.verb} {each.resource}" for each in made if each.verb != "watch")
    words = "; ".join(
        f"{items:,} items: {counted.total() - counted[STREAMS]} and {counted[STREAMS]} streams"
        for items, counted in counts.items()
    )
    totals = [counted.total() for counted in counts.values()]
    yield Figure("API requests of a map in 4 Pods", words, "equal", met=max(totals) - min(totals) <= 1)


def memory(ground: Ground) -> Iterator[Figure]:
    """The client's peak over a map of 100,000 inputs."""
    with Caller(ground.space.kubeconfig) as caller:
        caller.map_inputs(100_000, 1000, 12_500)
        peak = caller.peak_memory()
    yield at_most("client memory, 100,000 inputs of 1 KB", peak / 1e6, MEMORY / 1e6, " MB")


ROWS: Mapping[str, Callable[[Ground], Iterator[Figure]]] = {
    "map": small_items,
    "map-split": split_work,
    "map-pods": many_pods,
    "map-requests": requests,
    "map-memory": memory,
}
