"""How the items of a map lie in the chunks of a Job. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kubefunc.chunks import chunks


@dataclass(frozen=True)
class Layout:
    """Which items there are, and how many of them a chunk has: it stands in ``spec.json`` for those who attach."""

    count: int
    size: int
    indexes: Sequence[int]

    @property
    def chunks(self) -> list[Sequence[int]]:
        return chunks(self.indexes, self.size)

    def as_json(self) -> dict[str, object]:
        return {"count": self.count, "size": self.size, "runs": _runs(self.indexes)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Layout:
        runs = [range(start, end) for start, end in data["runs"]]
        indexes = runs[0] if len(runs) == 1 else [index for run in runs for index in run]
        return cls(data["count"], data["size"], indexes)


def _runs(indexes: Sequence[int]) -> list[tuple[int, int]]:
    """Numbers in order as half-open ranges.

    >>> _runs([0, 1, 2, 5, 7, 8])
    [(0, 3), (5, 6), (7, 9)]
    """
    runs: list[tuple[int, int]] = []
    start = previous = None
    for index in indexes:
        if start is None or previous is None or index != previous + 1:
            if start is not None and previous is not None:
                runs.append((start, previous + 1))
            start = index
        previous = index
    if start is not None and previous is not None:
        runs.append((start, previous + 1))
    return runs
