"""All that goes into Pods and comes out of them."""

from __future__ import annotations

from dataclasses import dataclass

from kubefunc.backends.kubernetes.attempts.attempt import Attempt
from kubefunc.backends.kubernetes.results.collect import Collector
from kubefunc.backends.kubernetes.results.output import Outputs
from kubefunc.backends.kubernetes.results.uploads import Uploads
from kubefunc.backends.kubernetes.results.value_streams import ValueStreams


@dataclass(frozen=True)
class Traffic:
    """Results and output of each attempt, and the large inputs that are brought to its Pods."""

    collector: Collector
    outputs: Outputs
    uploads: Uploads
    values: ValueStreams

    def release(self, attempt: Attempt) -> None:
        """End the streams of an attempt that has ended."""
        self.collector.release(attempt)
        self.outputs.release(attempt)
        self.values.release(attempt)
