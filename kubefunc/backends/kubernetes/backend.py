"""Calls on a cluster: this module puts the parts together and is what the layers above see.

A script that finds warm workers waits for every module that is loaded before its first call. So what makes and follows
Jobs (:mod:`kubefunc.backends.kubernetes.job_backend`) is loaded when there is one, and so is what pools need.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from kubefunc import errors
from kubefunc.backends.base import OpenWork, Shape, Sink, Submission, Traits, Whereabouts, Work
from kubefunc.backends.kubernetes.api.kubeconfig import ClusterConfig
from kubefunc.backends.kubernetes.api.requests import Api
from kubefunc.backends.kubernetes.threads import Clock, Workers
from kubefunc.diagnosis import Phase
from kubefunc.options import Options
from kubefunc.packing.cache_files import cache_directory
from kubefunc.packing.packages import needed
from kubefunc.packing.payload import Packer

if TYPE_CHECKING:
    from kubefunc.backends.kubernetes.job_backend import JobBackend
    from kubefunc.backends.kubernetes.warm.pools import Pools

REQUEST_THREADS = 6
SWEEP_AFTER = 10.0
THREADS_END_WITHIN = 0.5  # seconds; on a dead network some do not

SINGLE = (0,)  # the items of a call


class KubernetesBackend:
    """Implements :class:`kubefunc.backends.base.Backend` on one cluster."""

    traits = Traits("kubernetes", outlives_program=True, workers=None, has_pools=True)

    def __init__(self, config: ClusterConfig, session: str) -> None:
        self._config = config
        self._session = session
        self.packer = Packer.for_cluster()
        self.api = Api(config)
        self._requests = Workers("kubefunc-requests", REQUEST_THREADS)
        self._clock = Clock("kubefunc-clock")
        self._opened: JobBackend | None = None
        self._pools: Pools | None = None
        self._lock = threading.RLock()
        self._swept: set[str] = set()

    def introduce(self, options: Options) -> str:
        namespace = options.namespace or self._config.namespace
        return f"calls run on Kubernetes: context {self._config.context}, namespace {namespace}"

    # -- from above

    def submit(self, submission: Submission, sink: Sink) -> Work:
        namespace = submission.options.namespace or self._config.namespace
        submission = self._with_packages(submission, sink)
        needed.check(submission.payload.needs, submission.options)
        if submission.options.pool is not None:
            work: Work = self._open_pools().submit(submission, sink, namespace)
        else:
            work = self._jobs.submit(submission, sink, namespace)
        self._sweep_later(namespace)
        return work

    def _with_packages(self, submission: Submission, sink: Sink) -> Submission:
        if not submission.options.packages:
            return submission
        from kubefunc.backends.kubernetes.control.call_objects import with_packages

        return with_packages(submission, lambda words: _say(sink, submission, words))

    def open(self, submission: Submission, sink: Sink, workers: int, claim: Callable[[int], bool]) -> OpenWork:
        if submission.options.pool is None:
            raise errors.ConfigurationError("Executors on a cluster make a Job for each task.")
        namespace = submission.options.namespace or self._config.namespace
        submission = self._with_packages(submission, sink)
        self._sweep_later(namespace)
        return self._open_pools().open(submission, sink, namespace, workers, claim)

    def attach(self, call: str, shape: Shape, sink: Sink) -> Work:
        return self._jobs.attach(call, shape, sink)

    def forget(self) -> None:
        """Connections are closed with the objects that hold them, and nothing is sent on them."""
        if self._pools is not None:
            self._pools.forget()

    def close(self, unfinished: Sequence[str], timeout: float) -> Sequence[str]:
        """In the main thread; the daemon threads still run and help, but no new one can be made (Python 3.12)."""
        until = time.monotonic() + timeout
        if self._pools is not None:
            self._pools.cancel(unfinished)
            self._pools.leave()
        if self._opened is not None:
            return self._opened.close(unfinished, max(0.0, until - time.monotonic()))
        self._clock.stop(THREADS_END_WITHIN)
        return []

    # -- parts, made when they are needed

    @property
    def _jobs(self) -> JobBackend:
        with self._lock:
            if self._opened is None:
                from kubefunc.backends.kubernetes.job_backend import JobBackend

                made = JobBackend(self._config, self._session, self.api, self._requests, self._clock)
                self._opened = self._opened or made  # a signal handler has made a call meanwhile, in this same thread
            return self._opened

    def _open_pools(self) -> Pools:
        from kubefunc.backends.kubernetes.warm.pools import Pools
        from kubefunc.backends.kubernetes.warm.supply import Host

        with self._lock:
            if self._pools is None:
                host = Host(
                    api=self.api,
                    connect=lambda connections: Api(self._config, connections=connections),
                    packer=self.packer,
                    start=lambda submission, sink: self._jobs.start(submission, sink),
                    follow=self.attach,
                    release=self._release,
                    discard=lambda call, namespace: self._jobs.discard(call, namespace),
                    cluster=(self._config.host, self._config.context),
                    cache=cache_directory(os.environ, sys.platform),
                    later=self._later,
                )
                self._pools = Pools(host)
            return self._pools

    def _release(self, call: str) -> None:
        if self._opened is not None:
            self._opened.release(call)

    def _later(self, seconds: float, work: Callable[[], None]) -> None:
        """Do this in a thread that may wait for an answer, after so many seconds."""
        self._clock.after(seconds, lambda: self._requests.do(work))

    def _sweep_later(self, namespace: str) -> None:
        """Once a namespace, when the first calls are out of the way."""
        if namespace not in self._swept:
            self._swept.add(namespace)
            self._later(SWEEP_AFTER, lambda: self._jobs.sweep(namespace))


def _say(sink: Sink, submission: Submission, words: str) -> None:
    items = SINGLE if submission.shape == "single" else list(submission.items)
    sink.moved(items, Whereabouts(Phase.SUBMITTING, words))
