"""How a map's items are spread over Pods. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from kubefunc.options import Options
from kubefunc.options.parsers.quantities import quantity

MAX_PARALLELISM = 500
LONGEST_CHUNK = 500  # items
AT_LEAST_PODS = 2
FIXED_PODS = 20  # where a map cannot be spread over more Pods later
_LARGE_CPU = 10**9  # one core, in billionths as quantity() counts
_LARGE_MEMORY = 2**30 * 10**9


def chunksize(items: int, options: Options, max_parallelism: int | None = None, few_pods: int = AT_LEAST_PODS) -> int:
    """Items that one Pod works through when the caller does not say.

    A Pod costs about a second and a third of a core's; an item's cost is not known beforehand. So:

    - ``max_parallelism`` is how many Pods the caller wants at once, as long as there are as many items.
    - Where an item is declared to be large (a GPU, a core or more, 1 GiB or more), it is worth a Pod: one item each, as
      long as there are no more items than Pods that may run at once.
    - Else few Pods: two, and one more for each 500 items from 1,000 on: small items are sooner done than a further Pod
      is started. Where items turn out slow, Pods give back what they have not begun, and more Pods run it.
    - Never more chunks than may run at once: a further wave of Pods would cost a second more and gain nothing.

    >>> small, large = Options(), Options.of(cpu=2)
    >>> chunksize(3, small), chunksize(64, small), chunksize(1000, small), chunksize(10_000, small)
    (2, 32, 500, 500)
    >>> chunksize(12, small, max_parallelism=6), chunksize(64, small, max_parallelism=2), chunksize(64, small, 100)
    (2, 32, 1)
    >>> chunksize(300, large), chunksize(1000, large), chunksize(100_000, small)
    (1, 2, 500)
    >>> chunksize(100, small, few_pods=FIXED_PODS)
    5

    Args:
        items: how many there are.
        options: they say what an item needs.
        max_parallelism: Pods at once; None: kubefunc decides.
        few_pods: Pods for small items.
    """
    at_once = max_parallelism or MAX_PARALLELISM
    wide = max_parallelism is not None or _is_large(options)
    pods = items if wide else max(few_pods, -(-items // LONGEST_CHUNK))
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
