"""A client in a process of its own: what it uses is its own, and a measuring program does not disturb it.

``python -m tests.bench.caller`` reads what to do, a line each, and answers each with a line.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.bench.work import add_in_a_project, measured

if TYPE_CHECKING:
    from typing_extensions import Self

LIMITS = {"cpu": "500m", "memory": "256Mi"}


class Caller:
    """The other end: asks that process. Use as a context manager."""

    def __init__(self, kubeconfig: Path, kind: str = "plain") -> None:
        environ = {**os.environ, "KUBECONFIG": str(kubeconfig), "KUBEFUNC_BACKEND": "kubernetes"}
        command = [sys.executable, "-m", "tests.bench.caller", kind]
        self._process = subprocess.Popen(
            command, env=environ, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )

    def __enter__(self) -> Self:
        self.call()  # from here on it is warm
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(30)

    def call(self) -> float:
        """Seconds from the entry of ``.remote()`` to the return of ``.result()``."""
        return self._ask("call")

    def loud_call(self) -> float:
        """The same of one that prints for some seconds."""
        return self._ask("loud_call")

    def large(self, size: int) -> float:
        """Seconds from the function's return to that of ``.result()``, for a result of so many bytes."""
        return self._ask("large", size)

    def map(self, items: int, chunksize: int = 0) -> float:
        """Seconds from the entry of ``.map()`` to its last result, of trivial items."""
        return self._ask("map", items, chunksize)

    def map_naps(self, items: int, milliseconds: int, pods: int) -> float:
        """The same of items that sleep, in so many Pods."""
        return self._ask("map_naps", items, milliseconds, pods)

    def map_inputs(self, items: int, size: int, chunksize: int) -> float:
        """The same of items with inputs of so many bytes."""
        return self._ask("map_inputs", items, size, chunksize)

    def cpu(self) -> float:
        """Seconds of CPU that the process has used so far."""
        return self._ask("cpu")

    def peak_memory(self) -> float:
        """Bytes: the most that it ever had in memory."""
        return self._ask("peak_memory")

    def _ask(self, what: str, *arguments: int) -> float:
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("no pipes")
        print(json.dumps([what, *arguments]), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the client ended during {what!r}")
        return float(answer)


# -- in that process


def courier_first(template: dict[str, Any]) -> dict[str, Any]:
    """The Pod with its containers the other way round."""
    template["spec"]["containers"].reverse()
    return template


def options(kind: str) -> dict[str, Any]:
    """What is special about the calls of this kind."""
    guaranteed = {"containers": [{"name": "main", "resources": {"limits": LIMITS, "requests": LIMITS}}]}
    kinds: dict[str, dict[str, Any]] = {
        "plain": {},
        "project": {},
        "guaranteed": {"pod_template": {"spec": guaranteed}},
        "by-status": {"express": False},
        "courier-first": {"pod_template": courier_first},
        "courier-first-by-status": {"pod_template": courier_first, "express": False},
    }
    return kinds[kind]


def _timed(call: Callable[[int, int], Any]) -> float:
    begun = time.perf_counter()
    if call(1, 2).result(timeout=60) != 3:
        raise RuntimeError("wrong sum")
    return time.perf_counter() - begun


def _large(call: Callable[[int], Any], size: int) -> float:
    data, returned = call(size).result(timeout=120)
    taken = time.time() - returned
    if len(data) != size:
        raise RuntimeError("wrong size")
    return taken


def _sum_of(results: Iterable[float], expected: float, begun: float) -> float:
    if abs(sum(results) - expected) > 1e-6 * expected:
        raise RuntimeError("wrong sum")
    return time.perf_counter() - begun


def main() -> None:
    """Answer until there are no more questions."""
    from kubefunc import remote

    special = options(sys.argv[1])
    add = remote(**special)(add_in_a_project if sys.argv[1] == "project" else measured.add)
    loud = remote(**special)(measured.add_while_printing)
    large = remote(**special)(measured.random_bytes)
    double, nap, size_of = (remote(**special)(each) for each in (measured.double, measured.nap, measured.size_of))

    def run_map(items: int, chunksize: int) -> float:
        begun = time.perf_counter()
        return _sum_of(double.map(range(items), chunksize=chunksize or None), items * (items - 1), begun)

    def map_naps(items: int, milliseconds: int, pods: int) -> float:
        begun = time.perf_counter()
        naps = [milliseconds / 1000] * items
        return _sum_of(nap.map(naps, max_parallelism=pods), sum(naps), begun)

    def map_inputs(items: int, size: int, chunksize: int) -> float:
        begun = time.perf_counter()
        return _sum_of(size_of.map((os.urandom(size) for _ in range(items)), chunksize=chunksize), items * size, begun)

    answers: dict[str, Callable[..., float]] = {
        "call": lambda: _timed(add.remote),
        "loud_call": lambda: _timed(loud.remote),
        "large": lambda size: _large(large.remote, size),
        "map": run_map,
        "map_naps": map_naps,
        "map_inputs": map_inputs,
        "cpu": time.process_time,
        "peak_memory": lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    for line in sys.stdin:
        what, *arguments = json.loads(line)
        print(answers[what](*arguments), flush=True)


if __name__ == "__main__":
    main()
