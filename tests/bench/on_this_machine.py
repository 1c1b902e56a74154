"""The figures of imports and local calls."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tests.bench.figures import Figure, at_most, spread

ROOT = Path(__file__).parents[2]
ONE_CALL = """
from kubefunc import remote

@remote
def add(a, b):
    return a + b

assert add.remote(1, 2).result() == 3
"""
MANY_CALLS = """
import time
from kubefunc import remote

@remote
def add(a, b):
    return a + b

add.remote(1, 2).result()
for _ in range({count}):
    begun = time.perf_counter()
    add.remote(1, 2).result()
    print(time.perf_counter() - begun)
"""


def _environ() -> dict[str, str]:
    return {**os.environ, "KUBEFUNC_BACKEND": "local", "PYTHONPATH": str(ROOT), "KUBEFUNC_VERBOSE": "false"}


def _time(code: str) -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], env=_environ(), check=True, stderr=subprocess.DEVNULL)
    return time.perf_counter() - begun


def _alternating(one: str, other: str, count: int) -> tuple[list[float], list[float]]:
    times: tuple[list[float], list[float]] = ([], [])
    for code in (one, other):
        _time(code)
    for _ in range(count):
        times[0].append(_time(one))
        times[1].append(_time(other))
    return times


def imports(count: int) -> Iterator[Figure]:
    """``import kubefunc`` and its first names, over a bare interpreter."""
    with_it, bare = _alternating("from kubefunc import remote", "pass", count)
    over = (statistics.median(with_it) - statistics.median(bare)) * 1000
    yield at_most("`from kubefunc import remote`, over a bare interpreter", over, 50, " ms")
    check = f"import sys\n{ONE_CALL}\nassert 'kubernetes' not in sys.modules"
    _time(check)
    yield Figure("`kubernetes` on the local path", "not imported", "not imported", met=True)


def cold_script(count: int) -> Iterator[Figure]:
    """A script with one local call against ``python -c pass``."""
    script, bare = _alternating(ONE_CALL, "pass", count)
    limit = 2.5 * statistics.median(bare) * 1000 + 100
    measured = statistics.median(script) * 1000
    detail = f"`python -c pass` {statistics.median(bare) * 1000:.0f} ms"
    yield at_most("script with one local call, cold", measured, round(limit), " ms", detail)


def warm_call(count: int) -> Iterator[Figure]:
    """Local calls in one process, a fresh process for each."""
    command = [sys.executable, "-c", MANY_CALLS.format(count=count)]
    output = subprocess.run(command, env=_environ(), check=True, capture_output=True, text=True).stdout
    times = [float(line) for line in output.split()]
    yield at_most("local call, warm, median", statistics.median(times) * 1000, 2.5, " ms", spread(times))


def against_fork_server(count: int) -> Iterator[Figure]:
    """The same against a bare fork server, in turn."""
    command = [sys.executable, "-m", "tests.bench.fork_server", str(count)]
    output = subprocess.run(command, cwd=ROOT, env=_environ(), check=True, capture_output=True, text=True).stdout
    medians = json.loads(output)
    detail = f"ours {1000 * medians['ours']:.2f} ms, raw {1000 * medians['raw']:.2f} ms, n={count}"
    title = "local call, warm, against a raw fork server with cloudpickle loaded, median / median"
    yield at_most(title, medians["ours"] / medians["raw"], 1.5, " x", detail)


def maps() -> Iterator[Figure]:
    """Maps on persistent workers, the standard library's warm pool of two beside them."""
    command = [sys.executable, "-m", "tests.bench.maps_here"]
    output = subprocess.run(command, cwd=ROOT, env=_environ(), check=True, capture_output=True, text=True).stdout
    measured = json.loads(output)
    pool = "against a warm ProcessPoolExecutor (spawn, 2 workers, chunksize 1)"
    yield at_most(f"local map of 1,000 trivial items, {pool}", measured["trivial"], 0.4, " x")
    yield at_most("local map of 64 items of 50 ms on 2 workers (ideal 1.60 s)", measured["even"], 1.65, " s")
    yield at_most("local map of items of unequal length (ideal 1.60 s)", measured["skewed"], 1.75, " s")
    yield at_most(f"local map of 100 numpy arrays of 1 MB, {pool}", measured["large"], 1.2, " x")


def simulated() -> Iterator[Figure]:
    """Following the Pods of one map: the events are a real cluster's, told by a small server for each of 1,000 Pods."""
    command = [sys.executable, "-m", "tests.bench.simulated", "1000"]
    output = subprocess.run(command, cwd=ROOT, env=_environ(), check=True, stdout=subprocess.PIPE, text=True).stdout
    yield at_most("client CPU to follow 1,000 Pods of a map (simulated cluster)", float(output), 1.0, " s")


# In the order of the table; the number is how often.
ROWS: Mapping[str, Callable[[], Iterator[Figure]]] = {
    "import": lambda: imports(20),
    "warm": lambda: warm_call(200),
    "fork": lambda: against_fork_server(400),
    "cold": lambda: cold_script(20),
    "maps": maps,
    "simulated": simulated,
}
