"""The pools of a session: which one a call goes to."""

from __future__ import annotations

import dataclasses
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from kubefunc import errors
from kubefunc.backends.base import Sink, Submission, Whereabouts
from kubefunc.backends.kubernetes.warm.parcel import Parcel
from kubefunc.backends.kubernetes.warm.pool import WarmPool
from kubefunc.backends.kubernetes.warm.run import Run
from kubefunc.backends.kubernetes.warm.supply import Host
from kubefunc.backends.kubernetes.warm.tasks import WarmTasks
from kubefunc.backends.kubernetes.warm.work import WarmWork
from kubefunc.diagnosis import Phase
from kubefunc.options import Options

if TYPE_CHECKING:
    from kubefunc.pool import Pool

# What may differ between calls that share workers.
_OF_THE_CALL: Final = ("timeout retries retry_exceptions pool verbose progress on_sigterm publish stream_ahead").split()
_DEFAULTS: Final = Options()
WORKER_TTL: Final = 60.0  # seconds that a worker's Job stays when it has ended without a program: it has no result


class Pools:
    """The pools of a session on one cluster."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._lock = threading.RLock()
        self._pools: dict[tuple[Pool, str, str], WarmPool] = {}
        self._latest: tuple[Options, str, WarmPool] | None = None
        self._work: weakref.WeakValueDictionary[str, WarmWork] = weakref.WeakValueDictionary()

    def submit(self, submission: Submission, sink: Sink, namespace: str) -> WarmWork:
        """Run this on the workers that fit it.

        Raises:
            ConfigurationError: an option does not go with a pool.
        """
        pool, config = self._pool_for(submission, namespace)
        indexes = [0] if submission.shape == "single" else list(submission.items)
        changed = threading.Condition()
        parcel = Parcel(submission, fresh=config.fresh)
        runs = [Run(parcel, index, sink, changed) for index in indexes]
        with self._lock:
            work = self._work.setdefault(submission.call, WarmWork(self._host.api, namespace, submission))
        work.add(pool, runs)
        sink.moved(indexes, Whereabouts(Phase.PENDING))
        pool.submit(runs)
        return work

    def open(
        self, submission: Submission, sink: Sink, namespace: str, workers: int, claim: Callable[[int], bool]
    ) -> WarmTasks:
        """Take the tasks of an executor, as they are added.

        Raises:
            ConfigurationError: an option does not go with a pool.
        """
        pool, config = self._pool_for(submission, namespace)
        at_once = workers if workers < config.max_workers else 0
        return WarmTasks(pool, submission, sink, at_once, claim, self._host.later)

    def _pool_for(self, submission: Submission, namespace: str) -> tuple[WarmPool, Pool]:
        options = submission.options
        config = options.pool
        if config is None:
            raise RuntimeError("a submission without a pool")
        if options.detach:
            raise errors.ConfigurationError(
                "detach=True does not go with pool=: a call in a pool ends with your program. Leave pool= out."
            )
        if options.publish is not None and options.publish.owned:
            raise errors.ConfigurationError(
                "publish= with owned=True does not go with pool=: the call has no Job that could be the owner. "
                "Leave owned= out, or pool=."
            )
        if options.service is not None:
            raise errors.ConfigurationError(
                f"service={options.service!r} does not go with pool=: other calls use its Pods too. Leave one out."
            )
        return self._pool(config, options, namespace), config

    def _pool(self, config: Pool, options: Options, namespace: str) -> WarmPool:
        """The pool for these options: from call to call the same object, and comparing them takes a millisecond."""
        known = self._latest
        if known is not None and known[0] is options and known[1] == namespace and not known[2].closed:
            return known[2]
        pool = self._pool_of(config, options, namespace)
        self._latest = options, namespace, pool
        return pool

    def _pool_of(self, config: Pool, options: Options, namespace: str) -> WarmPool:
        usual = {name: getattr(_DEFAULTS, name) for name in _OF_THE_CALL}
        own = dataclasses.replace(options, **usual, keep="never", logging=False, ttl=min(options.ttl, WORKER_TTL))
        key = (config, namespace, repr(own))
        with self._lock:
            if key not in self._pools or self._pools[key].closed:
                self._pools[key] = made = WarmPool(self._host, config, own, namespace)
                config.opened(made)
            return self._pools[key]

    def leave(self) -> None:
        """At the program's end: let all workers go."""
        for pool in list(self._pools.values()):
            if not pool.closed:
                pool.leave()

    def cancel(self, calls: Sequence[str]) -> None:
        """Stop those of these calls that are ours."""
        for work in [self._work.get(call) for call in calls]:
            if work is not None:
                work.cancel()

    def forget(self) -> None:
        for pool in self._pools.values():
            pool.forget()
        self._host.loop.forget()
