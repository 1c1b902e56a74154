"""How many warm workers a pool should have. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

START = 1.0  # seconds that a Pod takes to start: work that is done before that needs none
BATCH = 0.1  # seconds of work for a worker at once: the round trip for the next one is little against it
LARGEST_BATCH = 1000
ROUND_TRIP = 0.002  # seconds, to a worker and back
WEIGHT = 0.2  # of the newest call in the mean time that calls take
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


def batch_size(seconds: float | None, queued: int, workers: int) -> int:
    """How many items to give a worker at once.

    One while nothing is known. Later so many that they last for a while; of few, so that the last ones are spread.

    >>> batch_size(None, 1000, 2), batch_size(60.0, 1000, 2)
    (1, 1)
    >>> batch_size(0.0001, 10_000, 2), batch_size(0.0001, 100, 2)
    (1000, 25)
    """
    if seconds is None:
        return 1
    share = math.ceil(queued / (2 * max(1, workers)))
    return max(1, min(LARGEST_BATCH, int(BATCH / max(seconds, 1e-6)), share))


def sends_ahead(seconds: float | None, running_for: float, queued: int, workers: int) -> bool:
    """Whether a worker that runs something is sent its next batch now, which saves it the round trip.

    Only where calls are short, and what runs does not take longer than was thought: what waits here, no other worker
    has. Not the last ones, unless they take less than a round trip: a worker that is done sooner gets them.

    >>> sends_ahead(0.01, 0.0, 100, 2), sends_ahead(0.01, 0.0, 1, 2), sends_ahead(0.0001, 0.0, 1, 2)
    (True, False, True)
    >>> sends_ahead(None, 0.0, 100, 2), sends_ahead(2.0, 0.0, 100, 2), sends_ahead(0.01, 3.0, 100, 2)
    (False, False, False)

    Args:
        seconds: how long a call takes; None while nothing is known.
        running_for: seconds since what it runs has begun.
        queued: calls that wait for a worker.
        workers: how many there are.
    """
    if seconds is None or seconds > BATCH or running_for > 2 * BATCH:
        return False
    return queued > workers or seconds <= ROUND_TRIP


def newer_mean(seconds: float | None, took: float, calls: int) -> float:
    """How long a call takes, after these have taken so long each. Many at once say more than one.

    >>> newer_mean(None, 2.0, 1), newer_mean(1.0, 2.0, 1), newer_mean(1.0, 2.0, 100)
    (2.0, 1.2, 2.0)
    """
    return took if seconds is None else seconds + min(1.0, WEIGHT * calls) * (took - seconds)
