"""What the client tells the runner: the content of ``spec.json``, written by the one and read by the other."""

from __future__ import annotations

import json
import sys

from kubefunc.runner import BACKOFF, FETCH_GRACE, PROTOCOL, PULL_ALLOWANCE, RESULT_TTL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from dataclasses import dataclass
    from typing import Any
else:
    from kubefunc.runner.protocol.record import dataclass

_NOT_SET = object()


@dataclass(frozen=True, kw_only=True)
class RunnerSpec:
    """How to run a call, or a chunk of a map.

    Attributes:
        call: the call's id.
        function: the function's name, for messages.
        protocol: the version of the protocol that the client speaks.
        python: the minor version that has pickled the payload: ``3.12``.
        timeout: seconds for each attempt, or None.
        retries: how many more attempts the supervisor makes.
        backoff: seconds before the first new attempt, the factor for each further one, and the most seconds.
        inline: small results may stand in the Pod's status.
        express: the client fetches the result by exec, so the courier stays a moment for it.
        results_in_log: a result that nobody fetched may stand in the courier's log.
        fetch_grace: seconds that the courier waits for a client.
        result_ttl: seconds that it waits with a result that no log takes.
        pull_allowance: seconds that it waits for the function's container to start.
        nested: the function may make remote calls itself.
        untrusted: what the function returns or raises travels as JSON.
        used: the attempts that were made before, and count against ``retries``.
        disruptions: how often a Pod of the call was replaced by a new Job.
        upload: the payload arrives by the courier instead of a Secret.
        seals_files: files in what the function returns leave this machine, and are told with their digests.
        logging: level, format, datefmt and style for the root logger; None: it is left as it is.
        packages: what is installed before the function is loaded, and its ``place`` once it is.
        map: of a map: which items it has, for those who attach.
        gang: the items are ranks that start together (:mod:`kubefunc.runner.execution.gang`).
        stream: of a generator function: how many values it may be ``ahead`` of its consumer, how many ``bytes`` if not
            ``STREAM_BYTES``, and the seconds without a client (``left_after``) after which it ends.
        upload_items: the items of a chunk arrive by the courier, too.
        skip_wait: seconds that a replacement waits to hear which items it may skip.
    """

    call: str
    function: str
    protocol: int = PROTOCOL
    python: str = f"{sys.version_info[0]}.{sys.version_info[1]}"
    timeout: float | None = None
    retries: int = 0
    backoff: tuple[float, float, float] = BACKOFF
    inline: bool = True
    express: bool = False
    results_in_log: bool = True
    fetch_grace: float = FETCH_GRACE
    result_ttl: float = RESULT_TTL
    pull_allowance: float = PULL_ALLOWANCE
    nested: bool = False
    untrusted: bool = False
    used: int = 0
    disruptions: int = 0
    upload: bool = False
    seals_files: bool = False
    logging: Mapping[str, Any] | None = None
    packages: Mapping[str, Any] | None = None
    map: Mapping[str, Any] | None = None
    gang: Mapping[str, Any] | None = None
    stream: Mapping[str, Any] | None = None
    upload_items: bool = False
    skip_wait: float = 0.0

    def replace(self, **changes: Any) -> RunnerSpec:
        """The same with these changes."""
        return RunnerSpec(**{**vars(self), **changes})

    def as_json(self) -> dict[str, Any]:
        """The fields that are set, for JSON.

        >>> RunnerSpec.from_json(RunnerSpec(call="f-x7k2", function="f", retries=2).as_json()).retries
        2
        """
        return {name: value for name, value in vars(self).items() if value is not None}

    def changes(self) -> dict[str, Any]:
        """The fields that are not at their default, for JSON.

        >>> sorted(RunnerSpec(call="f-x7k2", function="f", python="3.12", retries=2).changes())
        ['call', 'function', 'python', 'retries']
        """
        changed = {name: value for name, value in vars(self).items() if value != getattr(RunnerSpec, name, _NOT_SET)}
        return {**changed, "python": self.python}  # whose default is another one there

    def encoded(self) -> bytes:
        """The content of ``spec.json``."""
        return json.dumps(self.as_json()).encode()

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RunnerSpec:
        """From what as_json() gave; what a later version of the client adds is passed over."""
        return cls(**{name: value for name, value in data.items() if name in cls.__annotations__})

    @classmethod
    def read(cls, content: bytes) -> RunnerSpec:
        """From the content of ``spec.json``."""
        return cls.from_json(json.loads(content))
