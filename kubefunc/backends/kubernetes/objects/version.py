"""What a server can do, by its version: fields that it does not know it drops without a word. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class ServerVersion:
    """The minor version of an API server: 1.34 is ``ServerVersion(1, 34)``."""

    major: int
    minor: int

    @classmethod
    def of(cls, answer: Mapping[str, object]) -> ServerVersion:
        """From what ``/version`` answers; some providers append a plus sign. What cannot be read counts as new.

        >>> ServerVersion.of({"major": "1", "minor": "27+"})
        ServerVersion(major=1, minor=27)
        """
        major, minor = (re.match(r"\d+", str(answer.get(name, ""))) for name in ("major", "minor"))
        return cls(int(major[0]), int(minor[0])) if major and minor else NEWEST

    @property
    def counts_per_index(self) -> bool:
        """Whether an index of a Job has a back-off limit of its own, and may fail alone (on by default from 1.29)."""
        return self >= ServerVersion(1, 29)

    @property
    def has_failure_policy(self) -> bool:
        """Whether a Job says which ends of a Pod count (on by default from 1.26)."""
        return self >= ServerVersion(1, 26)

    @property
    def lost(self) -> str | None:
        """What a map lacks here, in one line for a person; None where it lacks nothing.

        >>> ServerVersion(1, 34).lost is None
        True
        """
        if self.counts_per_index:
            return None
        what = (
            "lost Pods count for the map as a whole (max_disruptions), and a Pod that replaces one runs its chunk again"
        )
        if not self.has_failure_policy:
            what = f"{what}; drained and killed Pods count too"
        return f"this cluster is Kubernetes {self.major}.{self.minor}, older than 1.29: {what}"


NEWEST = ServerVersion(1, 999)
