"""``python -m tests.cluster.crowd N``: a program that makes N calls at once, and says how it went.

A process of its own, so that what it counts is what any program has: its threads, its connections, all of them.
"""

from __future__ import annotations

import collections
import json
import os
import sys
import threading
import time
from dataclasses import asdict, dataclass

from kubefunc import Call
from tests.cluster import work

AGAIN = 10
# As in any cluster that is shared: a node takes no more Pods than it can carry, the other calls wait for theirs.
CPU = 0.05


@dataclass(frozen=True)
class Went:
    """How it went, for the test that reads it.

    Attributes:
        wrong: calls whose value was not what it should be.
        torn: calls whose logs() lacks something, or has too much.
        repeated: calls whose callback did not run exactly once.
        slowest: seconds from a function's return to its callback, the worst of all calls.
        threads: the most that there were at a time, the program's own main thread among them.
        connections: likewise.
        threads_before: after a first call.
        threads_after: when all was done.
        threads_again: after ten more calls.
    """

    wrong: list[int]
    torn: list[int]
    repeated: list[int]
    slowest: float
    threads: int
    connections: int
    threads_before: int
    threads_after: int
    threads_again: int


class Counting:
    """Looks, ten times a second, how many threads and connections this process has."""

    def __init__(self) -> None:
        self.threads = self.connections = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._count, daemon=True)
        self._thread.start()

    def _count(self) -> None:
        while not self._ended.wait(0.1):
            self.threads = max(self.threads, threads_now() - 1)  # this one is not the program's
            self.connections = max(self.connections, connections_now())

    def end(self) -> None:
        """Stop counting."""
        self._ended.set()
        self._thread.join()


def threads_now() -> int:
    """Threads of this process as the kernel knows them, whoever made them."""
    return len(os.listdir("/proc/self/task"))


def connections_now() -> int:
    """TCP connections of this process, in whatever state."""
    held = set()
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            held.add(os.readlink(f"/proc/self/fd/{descriptor}"))
        except OSError:
            continue  # closed meanwhile
    return sum(f"socket:[{inode}]" in held for inode in _tcp_inodes())


def _tcp_inodes() -> list[str]:
    inodes = []
    for table in ("/proc/self/net/tcp", "/proc/self/net/tcp6"):
        with open(table) as lines:
            next(lines)
            inodes += [line.split()[9] for line in lines]
    return inodes


class Deliveries:
    """When each call's callback ran."""

    def __init__(self) -> None:
        self.at: dict[int, list[float]] = collections.defaultdict(list)

    def expect(self, number: int, call: Call[int]) -> None:
        """Note it, whenever that is."""
        call.add_done_callback(lambda _: self.at[number].append(time.time()))


def run(count: int) -> Went:
    """Make the calls, wait for them, count."""
    function = work.double_in_many_lines.options(cpu=CPU)
    work.double.remote(1).result(60)
    threads_before = threads_now()
    counting, deliveries = Counting(), Deliveries()
    calls = [function.remote(number) for number in range(count)]
    for number, call in enumerate(calls):
        deliveries.expect(number, call)
    values = [call.result(900) for call in calls]
    counting.end()
    time.sleep(1)  # for the last callback
    threads_after = threads_now()
    late = [deliveries.at[number][0] - (call.stats.finished or 0.0) for number, call in enumerate(calls)]
    for number in range(AGAIN):
        work.double.remote(number).result(60)
    return Went(
        wrong=[number for number, value in enumerate(values) if value != 2 * number],
        torn=[number for number, call in enumerate(calls) if call.logs() != work.many_lines(number)],
        repeated=[number for number in range(count) if len(deliveries.at[number]) != 1],
        slowest=max(late),
        threads=counting.threads,
        connections=counting.connections,
        threads_before=threads_before,
        threads_after=threads_after,
        threads_again=threads_now(),
    )


if __name__ == "__main__":
    print(json.dumps(asdict(run(int(sys.argv[1])))))
