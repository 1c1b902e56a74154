"""Many calls on warm workers, and what is left over: memory, descriptors, threads and processes, at both ends."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from kubefunc import Pool, remote
from kubefunc.function import RemoteFunction
from tests.bench.figures import Figure
from tests.bench.on_cluster import Ground
from tests.bench.warm import calling
from tests.bench.work import measured

ROUNDS = 100
FRESH, STAYING, ITEMS = 50, 550, 400  # calls in a round: 100,000 in all
AT_ONCE = 50  # calls that are on their way together
SETTLED = 20  # rounds after which nothing is to grow any more
GROWTH = 1.1
WITHIN = 120.0


@dataclass(frozen=True)
class Leftovers:
    """What a process has: bytes of memory, open descriptors, threads, child processes."""

    memory: int
    descriptors: int
    threads: int
    children: int


def soak(ground: Ground) -> Iterator[Figure]:
    """Calls in new processes and in one that stays, items, errors, output and results of several sizes."""
    with (
        calling(ground),
        Pool(max_workers=1, share=False) as fresh,
        Pool(max_workers=1, fresh=False, share=False) as staying,
    ):
        began = time.perf_counter()
        mine, theirs = [], []
        for number in range(1, ROUNDS + 1):
            _round(fresh, staying, number)
            if number in (SETTLED, ROUNDS):
                mine.append(_here())
                theirs.append(Leftovers(*remote(pool=fresh, verbose=False)(measured.leftovers).remote().result(WITHIN)))
        took = time.perf_counter() - began
    calls = ROUNDS * (FRESH + STAYING + ITEMS)
    yield _grown(f"soak: the program after {calls:,} warm calls in {took:.0f} s", *mine)
    yield _grown("soak: the worker", *theirs)


def _round(fresh: Pool, staying: Pool, number: int) -> None:
    double = remote(verbose=False)(measured.double)
    _all(double.options(pool=fresh), range(FRESH))
    _all(double.options(pool=staying), range(STAYING - 3))
    if double.options(pool=fresh).map(range(ITEMS)).result(WITHIN) != [2 * each for each in range(ITEMS)]:
        raise RuntimeError("a map gave something else")
    same = remote(pool=staying, verbose=False)(measured.same)
    if same.remote(bytes(1000 * number)).result(WITHIN) != bytes(1000 * number):
        raise RuntimeError("a result is something else")
    failed = remote(pool=staying, verbose=False)(measured.double).remote(None)
    if not isinstance(failed.exception(WITHIN), TypeError):
        raise RuntimeError("an exception is something else")
    remote(pool=staying, verbose=False)(measured.say).remote(number).result(WITHIN)


def _all(function: RemoteFunction[[int], int], numbers: range) -> None:
    for start in range(0, len(numbers), AT_ONCE):
        some = numbers[start : start + AT_ONCE]
        calls = [function.remote(each) for each in some]
        if [call.result(WITHIN) for call in calls] != [2 * each for each in some]:
            raise RuntimeError("a call gave something else")


def _here() -> Leftovers:
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        children = len(file.read().split())
    descriptors = len(os.listdir("/proc/self/fd"))
    return Leftovers(pages * os.sysconf("SC_PAGE_SIZE"), descriptors, threading.active_count(), children)


def _grown(what: str, before: Leftovers, after: Leftovers) -> Figure:
    flat = after.memory <= GROWTH * before.memory
    counted = {name: (getattr(before, name), getattr(after, name)) for name in ("descriptors", "threads", "children")}
    same = all(later <= earlier for earlier, later in counted.values())
    told = ", ".join(f"{name} {earlier} -> {later}" for name, (earlier, later) in counted.items())
    memory = f"memory {before.memory / 2**20:.1f} -> {after.memory / 2**20:.1f} MiB"
    return Figure(
        f"{what}, from {100 * SETTLED // ROUNDS} % of them on", f"{memory}, {told}", "no growth", flat and same
    )


ROWS = {"soak": soak}
