"""A figure and how it is summed up. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One row of the table: what, how much, the target where there is one, and whether it was met."""

    what: str
    measured: str
    target: str = "say it"
    met: bool | None = None

    @property
    def verdict(self) -> str:
        """For the table's last column."""
        return {None: "", True: "met", False: "**missed**"}[self.met]


def at_most(what: str, value: float, limit: float, unit: str = "", detail: str = "") -> Figure:
    """A figure with an upper limit."""
    measured = f"{value:.3g}{unit}" + (f" ({detail})" if detail else "")
    return Figure(what, measured, f"at most {limit:g}{unit}", value <= limit)


def percentile(values: Sequence[float], part: float) -> float:
    """The value below which this part of the values lies, by linear interpolation.

    >>> percentile([1.0, 2.0, 3.0, 4.0, 5.0], 0.5)
    3.0
    """
    ordered = sorted(values)
    place = part * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def spread(values: Sequence[float]) -> str:
    """Mean, median, 95th percentile and range, in seconds."""
    return (
        f"mean {statistics.fmean(values):.3f} s, median {statistics.median(values):.3f}, "
        f"95 % {percentile(values, 0.95):.3f}, {min(values):.3f}-{max(values):.3f}, n={len(values)}"
    )


def milliseconds(values: Sequence[float]) -> str:
    """Median, 99th percentile and range, of seconds, in milliseconds."""
    return (
        f"median {1000 * statistics.median(values):.2f} ms, 99 % {1000 * percentile(values, 0.99):.1f}, "
        f"{1000 * min(values):.2f}-{1000 * max(values):.1f}, n={len(values)}"
    )


HEAD = "| what | measured | target | |\n|---|---|---|---|"


def row(figure: Figure) -> str:
    """The figure as a row of a Markdown table."""
    return f"| {figure.what} | {figure.measured} | {figure.target} | {figure.verdict} |"
