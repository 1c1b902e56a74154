"""What keeps one attempt from going on, and what was said about it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from kubefunc.backends.kubernetes.diagnose.finding import Finding, sharper


@dataclass(eq=False)
class Looks:
    """When Events were read last, and a line said for what it waits: a map and its chunks share one of these.

    Attributes:
        job_at: when those of the Job were read.
        pods_at: when those of a Pod were read.
        said: when the line was said.
    """

    job_at: float = 0.0
    pods_at: float = 0.0
    said: float = 0.0

    def read_of_job(self, now: float) -> None:
        """The Job's Events are read now."""
        self.job_at = now

    def read_of_pod(self, now: float) -> None:
        """A Pod's Events are read now."""
        self.pods_at = now

    def say(self, now: float) -> None:
        """The line is said now."""
        self.said = now


@dataclass(eq=False)
class Waiting:
    """Why an attempt does not go on, and since when.

    Attributes:
        since: from when the time is counted.
        quiet: another attempt says for what this one waits.
        warned: there is a new Event that may say why it does not start.
        warnings: what the server said when the Job was made.
    """

    since: float = field(default_factory=time.monotonic)
    finding: Finding | None = None
    finding_since: float = 0.0
    quiet: bool = False
    warned: bool = False
    looks: Looks = field(default_factory=Looks)
    warnings: tuple[str, ...] = ()

    def found(self, finding: Finding | None) -> None:
        """Remember why it does not go on, and since when."""
        finding = sharper(self.finding, finding)
        if finding is not None and not finding.same_as(self.finding):
            self.finding_since = time.monotonic()
        self.finding = finding

    def is_final(self, finding: Finding) -> bool:
        """Whether this finding has lasted so long that it will not pass by itself."""
        return finding.fatal_after is not None and time.monotonic() - self.finding_since >= finding.fatal_after

    @property
    def has_urgent_news(self) -> bool:
        """Whether something was found that those who wait are to know at once, and do not know yet."""
        finding = self.finding
        return finding is not None and finding.at_once and self.finding_since > self.looks.said

    def forget(self, reason: str) -> None:
        """What had this reason is over."""
        if self.finding is not None and self.finding.reason == reason:
            self.found(None)

    def start_over(self) -> None:
        """It goes on: a later wait is counted from now."""
        self.since = time.monotonic()

    def keep_quiet(self) -> None:
        """Leave it to another attempt to say for what this one waits."""
        self.quiet = True

    def speak(self) -> None:
        """Say for what this one waits."""
        self.quiet = False

    def event_came(self) -> None:
        """An Event warns of its Job or Pod, and is not read yet."""
        self.warned = True

    def read_events(self) -> None:
        """The new Events are read."""
        self.warned = False

    def server_warned(self, texts: Iterable[str]) -> None:
        """The server took the Job, with these warnings."""
        self.warnings = tuple(f"Warning: {text}" for text in texts)
