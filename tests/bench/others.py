"""Other ways to call functions in warm processes, on this machine, to compare with.

Each runs in a process of its own: ``python -m tests.bench.others NAME`` starts it, reads what to measure, a line each,
and answers each with a line. It has namespaces of its own (Linux, as root): its ports disturb nobody, and all of its
processes end with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.bench.work import measured

if TYPE_CHECKING:
    from typing_extensions import Self

ROOT = Path(__file__).parents[2]
PROCESSES = 2
OBJECT_STORE = 200_000_000  # bytes of Ray's shared memory; the least that it takes is 75 MB
NAMESPACES = ("unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")
WITH_LOOPBACK = ("sh", "-c", 'ip link set lo up && exec "$@"', "sh")


class Other:
    """One of them, started and warm. Use as a context manager.

    Attributes:
        title: its name and version.
        maps: the ways in which it maps.
    """

    title: str
    maps: list[str]

    def __init__(self, name: str) -> None:
        self._name = name
        self._directory = Path(tempfile.mkdtemp())
        paths = os.pathsep.join((str(ROOT), str(ROOT / "tests" / "bench" / "script")))
        commands = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # parsl starts its own by name
        quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*NAMESPACES, *WITH_LOOPBACK, sys.executable, "-m", "tests.bench.others", name],
                env={**os.environ, **quiet, "PYTHONPATH": paths, "PATH": commands, "TMPDIR": str(self._directory)},
                cwd=self._directory,
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )

    @property
    def _log(self) -> Path:
        return self._directory / "log"

    def __enter__(self) -> Self:
        try:
            self.title, self.maps = self._answer()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)

    def calls(self, count: int) -> list[float]:
        """Seconds of each of so many calls, one after another."""
        return list(self._ask("calls", count))

    def map(self, way: str, items: int) -> float:
        """Seconds of a map of so many trivial items, in one of the ways."""
        return float(self._ask("map", way, items))

    def _ask(self, *what: object) -> Any:
        if self._process.stdin is None:
            raise RuntimeError("no pipes")
        print(json.dumps(what), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        if self._process.stdout is None:
            raise RuntimeError("no pipes")
        if line := self._process.stdout.readline():
            return json.loads(line)
        raise RuntimeError(f"{self._name} has ended: {self._log.read_text()[-2000:]}")


# -- in that process


@dataclass(frozen=True)
class Warm:
    """What can be measured of it.

    Attributes:
        title: its name and version.
        call: one call of the trivial function.
        maps: ways to apply it to many.
    """

    title: str
    call: Callable[[int], int]
    maps: Mapping[str, Callable[[range], Iterable[int]]]


@contextlib.contextmanager
def dask() -> Generator[Warm]:
    """A LocalCluster of two processes. ``pure=False``: else equal calls would run once."""
    import distributed

    with (
        distributed.LocalCluster(n_workers=PROCESSES, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):

        def mapped(items: range, **how: int) -> Iterable[int]:
            return client.gather(client.map(measured.double, items, pure=False, **how))

        yield Warm(
            f"dask.distributed {distributed.__version__}",
            lambda number: client.submit(measured.double, number, pure=False).result(),
            {"client.map": mapped, "client.map(batch_size=1000)": lambda items: mapped(items, batch_size=1000)},
        )


@contextlib.contextmanager
def parsl() -> Generator[Warm]:
    """A HighThroughputExecutor with two workers on this machine."""
    import parsl as package
    from parsl.config import Config
    from parsl.executors import HighThroughputExecutor
    from parsl.providers import LocalProvider

    executor = HighThroughputExecutor(
        label="here",
        address="127.0.0.1",
        max_workers_per_node=PROCESSES,
        prefetch_capacity=100,  # tasks that a node has ahead; without, its maps take a sixth longer
        provider=LocalProvider(init_blocks=1, min_blocks=1, max_blocks=1),
    )
    with package.load(Config(executors=[executor], run_dir="runinfo")):
        app = package.python_app(measured.double)

        def mapped(items: range) -> Iterable[int]:
            return [future.result() for future in [app(number) for number in items]]

        def submitted(items: range) -> Iterable[int]:
            futures = [executor.submit(measured.double, {}, number) for number in items]
            return [future.result() for future in futures]

        yield Warm(
            f"parsl {package.__version__}",
            lambda number: app(number).result(),
            {"python_app": mapped, "executor.submit": submitted},
        )


@contextlib.contextmanager
def ray() -> Generator[Warm]:
    """Ray Client, through which a program outside of a Ray cluster calls."""
    import ray as package

    port = 10001
    command = ["ray", "start", "--head", f"--ray-client-server-port={port}", f"--num-cpus={PROCESSES}"]
    command += ["--include-dashboard=false", f"--object-store-memory={OBJECT_STORE}", f"--temp-dir={os.getcwd()}"]
    subprocess.run(command, check=True, stdout=sys.stderr)
    with package.init(f"ray://127.0.0.1:{port}"):
        double = package.remote(measured.double)

        def mapped(items: range) -> Iterable[int]:
            results: Iterable[int] = package.get([double.remote(number) for number in items])
            return results

        yield Warm(
            f"Ray {package.__version__} (Ray Client)",
            lambda number: package.get(double.remote(number)),
            {"ray.get of a list": mapped},
        )


OTHERS = {"dask": dask, "parsl": parsl, "ray": ray}


def _calls(warm: Warm, count: int) -> list[float]:
    took = []
    for number in range(count):
        began = time.perf_counter()
        if warm.call(number) != 2 * number:
            raise RuntimeError("wrong result")
        took.append(time.perf_counter() - began)
    return took


def _map(warm: Warm, way: str, items: int) -> float:
    began = time.perf_counter()
    if sum(warm.maps[way](range(items))) != items * (items - 1):
        raise RuntimeError("wrong sum")
    return time.perf_counter() - began


def main() -> None:
    """Answer until there are no more questions."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the packages print is no answer
    with OTHERS[sys.argv[1]]() as warm:
        _calls(warm, 100)
        for way in warm.maps:
            _map(warm, way, 100)
        print(json.dumps([warm.title, list(warm.maps)]), file=answers, flush=True)
        for line in sys.stdin:
            what, *arguments = json.loads(line)
            answer = _calls(warm, *arguments) if what == "calls" else _map(warm, *arguments)
            print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
