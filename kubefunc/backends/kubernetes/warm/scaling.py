"""How many warm workers a pool should have. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

START = 1.0  # seconds that a Pod takes to start: work that is done before that needs none
UNKNOWN = 2  # workers while no call has ended, and none runs for longer than a Pod takes to start


@dataclass(frozen=True)
class Demand:
    """What a pool has to do.

    Attributes:
        queued: calls that wait for a worker.
        running: calls that have one.
        seconds: how long a call takes: the mean of those that ended, or what the longest one that runs has taken so
            far if that is more; None while nothing is known.
    """

    queued: int
    running: int
    seconds: float | None


def wanted_workers(demand: Demand, least: int, most: int) -> int:
    """The number of workers, those that are starting included.

    So many that the queue is done in the time that a Pod takes to start. Long calls get a worker each, thousands of
    short ones a few.

    >>> wanted_workers(Demand(queued=40, running=0, seconds=60.0), 0, 20)
    20
    >>> wanted_workers(Demand(queued=1000, running=2, seconds=0.002), 0, 20)
    4
    >>> wanted_workers(Demand(queued=0, running=0, seconds=0.002), 1, 20)
    1

    Args:
        demand: what there is to do.
        least: workers that are kept in any case.
        most: workers at once.
    """
    if demand.seconds is None:
        needed = min(demand.queued, UNKNOWN)
    else:
        needed = min(demand.queued, max(1, math.ceil(demand.queued * demand.seconds / START)))
    return max(least, min(most, demand.running + needed))
