"""How much memory the next attempt gets, where one ran out of it and ``memory`` names a ceiling."""

from __future__ import annotations

import dataclasses

from kubefunc.options import Options
from kubefunc.options.parsers.quantities import quantity


def more_memory(options: Options) -> Options | None:
    """The options with twice the memory, at most the ceiling; None where there is no ceiling or it was reached.

    >>> grown = more_memory(Options.of(memory=("1Gi", "3Gi")))
    >>> grown.memory
    ('2Gi', '3Gi')
    """
    if options.memory_start is None or options.memory_ceiling is None:
        return None
    start, ceiling = (quantity(text) // 10**9 for text in (options.memory_start, options.memory_ceiling))
    if start >= ceiling:
        return None
    return dataclasses.replace(options, memory=(_written(min(2 * start, ceiling)), options.memory_ceiling))


def _written(size: int) -> str:
    for unit, name in ((2**30, "Gi"), (2**20, "Mi"), (2**10, "Ki")):
        if size % unit == 0:
            return f"{size // unit}{name}"
    return str(size)
