"""A call or map in a pool, as the layers above hold it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from kubefunc import errors
from kubefunc.backends.base import Access, Submission
from kubefunc.backends.kubernetes.control.publish import publish
from kubefunc.backends.kubernetes.warm.pool import WarmPool
from kubefunc.backends.kubernetes.warm.run import Run
from kubefunc.options import ConfigMapKey, SecretKey

if TYPE_CHECKING:
    from kubefunc.backends.kubernetes.api.requests import Api


class WarmWork:
    """Implements :class:`kubefunc.backends.base.Work` for all attempts of a call or map."""

    def __init__(self, api: Api, namespace: str, submission: Submission) -> None:
        self._api = api
        self._namespace = namespace
        self._call = submission.call
        self._publication = submission.options.publish
        self._runs: list[tuple[WarmPool, Run]] = []

    def add(self, pool: WarmPool, runs: Sequence[Run]) -> None:
        """Runs of this call, or of items of this map, in that pool."""
        self._runs += [(pool, run) for run in runs]

    def address(self) -> str:
        raise errors.SerializationError(
            f"{self._call} runs in a pool, which belongs to this program: no other process can have a handle of it. "
            "Pass its result() instead, or leave pool= out."
        )

    def outlives_program(self) -> bool:
        return False

    def cancel(self) -> None:
        running = [(pool, run) for pool, run in self._runs if not run.over]
        for each in {pool for pool, _ in running}:
            each.cancel([run for pool, run in running if pool is each])

    def discard(self) -> None:
        """Nothing of a call that has ended is kept."""
        self.cancel()

    def logs(self, follow: bool) -> Iterator[bytes]:
        for _, run in list(self._runs):
            yield from run.logs(follow)

    def drain(self, seconds: float) -> None:
        """What an item prints is handed over before its outcome."""

    def publication(self) -> ConfigMapKey | SecretKey | None:
        return self._publication

    def publish(self, to: ConfigMapKey | SecretKey, content: str | bytes) -> bool:
        publish(self._api, self._namespace, to, content, self._call, lambda: None)
        return True

    def read(self) -> Submission:
        raise errors.ConfigurationError(f"{self._call} ran in a pool: nothing of it is kept.")

    def access(self) -> Access:
        raise errors.ConfigurationError(
            f"{self._call} runs in a pool, whose Pods other calls use too: its ports cannot be reached. Leave pool= "
            "out."
        )
