"""How a map's items are spread over Pods. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from kubefunc.options import Options
from kubefunc.values import quantity

MAX_PARALLELISM = 500
LONGEST_CHUNK = 500  # items
AT_LEAST_PODS = 2
_LARGE_CPU = 10**9  # one core, in billionths as quantity() counts
_LARGE_MEMORY = 2**30 * 10**9


def chunksize(items: int, options: Options, max_parallelism: int | None = None) -> int:
    """Items that one Pod works through when the caller does not say.

    A Pod costs about a second and a third of a core's; an item's cost is not known beforehand. So:

    - Where an item is declared to be large (a GPU, a core or more, 1 GiB or more), it is worth a Pod: one item each, as
      long as there are no more items than Pods that may run at once.
    - Else few Pods: two, and one more for each 500 items from 1,000 on. Two, so that one slow item holds back only a
      half of a small map (what has ended is never held back: outcomes come while a chunk runs), and not more, because
      small items are sooner done than a further Pod is started; at most 500 items in a chunk, so that a Pod that is
      lost takes little with it.
    - Never more chunks than may run at once: a further wave of Pods would cost a second more and gain nothing.

    >>> small, large = Options(), Options.of(cpu=2)
    >>> chunksize(3, small), chunksize(64, small), chunksize(1000, small), chunksize(10_000, small)
    (2, 32, 500, 500)
    >>> chunksize(64, small, max_parallelism=2)
    32
    >>> chunksize(300, large), chunksize(1000, large), chunksize(100_000, small)
    (1, 2, 500)
    """
    at_once = max_parallelism or MAX_PARALLELISM
    pods = items if _is_large(options) else max(AT_LEAST_PODS, -(-items // LONGEST_CHUNK))
    return max(1, -(-items // min(pods, at_once)))


def _is_large(options: Options) -> bool:
    cpu = 0 if options.cpu is None else quantity(options.cpu)
    memory = 0 if options.memory_start is None else quantity(options.memory_start)
    return bool(options.gpu) or cpu >= _LARGE_CPU or memory >= _LARGE_MEMORY


def chunks(indexes: Sequence[int], size: int) -> list[Sequence[int]]:
    """The items of each chunk, in order.

    >>> chunks([0, 1, 2, 5, 6], 2)
    [[0, 1], [2, 5], [6]]
    """
    return [indexes[start : start + size] for start in range(0, len(indexes), size)]
