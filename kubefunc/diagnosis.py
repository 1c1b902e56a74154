"""The content of an error message, as data."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


class Phase(enum.Enum):
    """The state that a call had reached."""

    SUBMITTING = "submitting"
    PENDING = "pending"
    STARTING = "starting"
    RUNNING = "running"
    FETCHING = "fetching"
    FINISHED = "finished"


@dataclass(frozen=True)
class Diagnosis:
    """What is known about one call, with the cluster's own messages.

    Attributes:
        reason: a short CamelCase word, Kubernetes' own where it has one (``OOMKilled``, ``ErrImagePull``).
        message: what happened, for a reader who does not know Kubernetes.
        advice: what to do next, or an empty string.
        phase: the state that the call had reached.
        call: the call's id, which is also the Job's name.
        namespace: the Kubernetes namespace, or None on the local backend.
        pod: the Pod's name, once there was one.
        node: the node's name, once the Pod was placed.
        exit_code: the exit code of ``main``, where it ended.
        attempts: how many times the function was started in its last Pod, where that is known.
        signal: the signal that ended the function's process, where one did.
        events: the cluster's words: conditions, container states, events, warnings; oldest first.
        log_tail: the last lines that the function printed.
    """

    reason: str
    message: str
    advice: str = ""
    phase: Phase = Phase.PENDING
    call: str = ""
    namespace: str | None = None
    pod: str | None = None
    node: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    events: tuple[str, ...] = field(default=())
    log_tail: tuple[str, ...] = field(default=())
    attempts: int | None = None

    def __str__(self) -> str:
        """The whole as text: what, where, the cluster's words, the log's end, what to do.

        >>> print(Diagnosis("OOMKilled", "The function used more memory than its limit.", "Raise memory=."))
        The function used more memory than its limit.
          do: Raise memory=.
        """
        lines = [self.message]
        place = [f"{name} {value}" for name, value in self._place() if value]
        if place:
            lines.append(f"  where: {', '.join(place)}")
        lines += [f"  cluster: {event}" for event in self.events]
        if self.log_tail:
            lines.append("  last output:")
            lines += [f"    {line}" for line in self.log_tail]
        if self.advice:
            lines.append(f"  do: {self.advice}")
        return "\n".join(lines)

    def _place(self) -> list[tuple[str, str | None]]:
        attempts = f"{self.attempts}" if self.attempts is not None and self.attempts > 1 else None
        return [
            *(("call", self.call), ("namespace", self.namespace), ("Pod", self.pod), ("node", self.node)),
            ("attempt", attempts),
        ]
