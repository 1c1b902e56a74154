"""The figures of warm workers: against the least that such a stream can do, in turn, in one run."""

from __future__ import annotations

import contextlib
import os
import socket
import statistics
import time
from collections.abc import Callable, Generator, Iterator

from kubefunc import Executor, Pool, remote
from kubefunc.backends.kubernetes import configured
from kubefunc.backends.kubernetes.api.conversation import Conversation
from kubefunc.backends.kubernetes.api.requests import Api
from kubefunc.function import RemoteFunction
from tests.bench.figures import Figure, at_most, milliseconds, spread
from tests.bench.on_cluster import Ground
from tests.bench.work import measured
from tests.cluster.conftest import fresh_session

WITHIN = 60.0
CALLS = 100  # in a round
ROUNDS = 5
TASKS = 1000  # of an executor

# A process for each line, as a call has one; it answers, and the next line may come when it has ended.
_FORKED = """
import os
while data := os.read(0, 65536):
    pid = os.fork()
    if pid == 0:
        os.write(1, data)
        os._exit(0)
    os.waitpid(pid, 0)
"""

# The same process for each line.
_ECHO = """
import os
while data := os.read(0, 65536):
    os.write(1, data)
"""


def warm_call(ground: Ground) -> Iterator[Figure]:
    """A call on a worker that is there, against a raw forked echo through API server and kubelet to the same Pod."""
    yield from _against("a raw forked echo", ground, Pool(max_workers=1, share=False), _FORKED)


def staying_call(ground: Ground) -> Iterator[Figure]:
    """The same in a process that stays, against a raw echo."""
    yield from _against("a raw echo", ground, Pool(max_workers=1, fresh=False, share=False), _ECHO)


def _against(what: str, ground: Ground, pool: Pool, program: str) -> Iterator[Figure]:
    with calling(ground), pool:
        call = remote(pool=pool, verbose=False)(measured.double)
        first = call.remote(1)
        first.result(WITHIN)
        with _raw(ground.space.namespace, first.stats.pod or "", program) as raw:
            mine, theirs = [], []
            for _ in range(ROUNDS):
                mine += [_call(call) for _ in range(CALLS)]
                theirs += [seconds_of(raw) for _ in range(CALLS)]
    detail = f"ours {milliseconds(mine)}; raw {milliseconds(theirs)}"
    ratio = statistics.median(mine) / statistics.median(theirs)
    title = f"warm call, fresh={pool.fresh}, against {what} on such a stream, median / median"
    yield at_most(title, ratio, 1.6, detail=detail)


def first_warm_call(ground: Ground) -> Iterator[Figure]:
    """The call that starts a worker, against a call that is a Job."""
    mine, theirs = [], []
    with calling(ground):
        plain = remote(verbose=False)(measured.double)
        plain.remote(1).result(WITHIN)
        for _ in range(8):
            theirs.append(_call(plain))
            with Pool(max_workers=1) as pool:
                mine.append(_call(plain.options(pool=pool)))
    detail = f"ours {spread(mine)}; a Job {spread(theirs)}"
    ratio = statistics.fmean(mine) / statistics.fmean(theirs)
    yield at_most("first call of a pool against a call that is a Job, mean / mean", ratio, 1.0, detail=detail)


def executor_tasks(ground: Ground) -> Iterator[Figure]:
    """Many trivial tasks of an executor in a pool, by submit and by map."""
    took: dict[str, list[float]] = {"submit": [], "map": []}
    with calling(ground), Pool(min_workers=2, max_workers=2, share=False) as pool, Executor(pool=pool) as executor:
        list(executor.map(measured.double, range(TASKS)))  # both workers are there then
        for _ in range(ROUNDS):
            took["submit"].append(seconds_of(lambda: _submitted(executor)))
            took["map"].append(seconds_of(lambda: list(executor.map(measured.double, range(TASKS)))))
    for way, seconds in took.items():
        yield Figure(f"{TASKS:,} trivial tasks of `Executor(pool=)` on 2 warm workers, `{way}`", spread(seconds))


def _submitted(executor: Executor) -> list[int]:
    futures = [executor.submit(measured.double, number) for number in range(TASKS)]
    return [future.result(WITHIN) for future in futures]


@contextlib.contextmanager
def calling(ground: Ground) -> Generator[None]:
    """This process calls."""
    before = os.environ.get("KUBECONFIG")
    os.environ["KUBECONFIG"] = str(ground.space.kubeconfig)
    try:
        with fresh_session():
            yield
    finally:
        if before is None:
            del os.environ["KUBECONFIG"]
        else:
            os.environ["KUBECONFIG"] = before


def own_api() -> Api:
    """Connections of our own to the API server; to be closed."""
    config = configured(None, os.environ)
    if config is None:
        raise RuntimeError("no cluster is configured")
    return Api(config)


@contextlib.contextmanager
def _raw(namespace: str, pod: str, program: str) -> Generator[Callable[[], object]]:
    """An echo over a stream of our own to that Pod."""
    api = own_api()
    wake, wake_end = socket.socketpair()  # nobody wakes it
    try:
        with wake, wake_end, Conversation(api, namespace, pod, ("python3", "-c", program)) as stream:

            def echo() -> object:
                stream.send(b"x" * 400)  # about what a call sends
                return stream.hear(wake.fileno(), WITHIN)

            echo()
            yield echo
    finally:
        api.close()


def _call(function: RemoteFunction[[int], int]) -> float:
    return seconds_of(lambda: function.remote(1).result(WITHIN))


def seconds_of(work: Callable[[], object]) -> float:
    """Seconds that it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


ROWS = {
    "pool-call": warm_call,
    "pool-stays": staying_call,
    "pool-first": first_warm_call,
    "pool-executor": executor_tasks,
}
