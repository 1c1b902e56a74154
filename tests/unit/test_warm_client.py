"""What a pool does with one of its workers, as its Job's news come."""

from __future__ import annotations

import threading
import time
from typing import Any, cast

import pytest

from kubefunc.backends.base import Whereabouts
from kubefunc.backends.kubernetes.api.requests import Api
from kubefunc.backends.kubernetes.warm import stream as module
from kubefunc.backends.kubernetes.warm.loop import StreamLoop
from kubefunc.backends.kubernetes.warm.records import Record
from kubefunc.backends.kubernetes.warm.stream import Way
from kubefunc.backends.kubernetes.warm.worker import Owner, Worker
from kubefunc.diagnosis import Phase


class Unreachable:
    """An API server that lets nobody into a Pod; it counts who tries."""

    tries = 0

    def websocket(self, *_: Any, **__: Any) -> Any:
        """No stream."""
        self.tries += 1
        raise OSError("the container is not running")


class Recorder:
    """The pool: it hears when a worker is over."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.told: list[str] = []

    def worker_moved(self, _: Worker, where: Whereabouts) -> None:
        """What it waits for."""
        self.told.append(where.detail)

    def worker_over(self, *_: Any) -> None:
        """It was given up."""
        self.over.set()


def test_a_worker_is_not_given_up_while_its_image_is_pulled(monkeypatch: pytest.MonkeyPatch) -> None:
    """That may take minutes. The time for a stream to come begins when its Pod runs."""
    monkeypatch.setattr(module, "RECONNECT", 0.3)
    api, pool = Unreachable(), Recorder()
    worker = Worker(
        cast(Owner, pool), Way(cast(Api, api), "me", StreamLoop()), Record("worker-x", "token", "team"), b"key"
    )
    worker.moved([0], Whereabouts(Phase.STARTING, "the image is being pulled", pod="worker-x-1"))
    until = time.monotonic() + 30
    while api.tries < 6 and time.monotonic() < until:  # these take more than 0.3 s
        time.sleep(0.01)
    assert not pool.over.is_set()
    worker.moved([0], Whereabouts(Phase.RUNNING, pod="worker-x-1"))
    assert pool.over.wait(30)
    worker.join(5)


def test_a_worker_is_not_given_up_while_its_packages_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """That may take as long as ``pull_allowance``, and calls that wait are told how far it is."""
    monkeypatch.setattr(module, "RECONNECT", 0.1)
    api, pool = Unreachable(), Recorder()
    record = Record("worker-x", "token", "team")
    worker = Worker(cast(Owner, pool), Way(cast(Api, api), "me", StreamLoop()), record, b"key", startup=1.0)
    began = time.monotonic()
    worker.moved([0], Whereabouts(Phase.RUNNING, pod="worker-x-1"))
    worker.output([0], b"kubefunc: installing packages with uv: torch\nResolved 20 packages\n")
    assert pool.told == ["installing packages with uv: torch"]
    assert pool.over.wait(30)
    assert time.monotonic() - began > 1.0
    worker.join(5)
