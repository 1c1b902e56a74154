"""The figures of calls on a real cluster."""

from __future__ import annotations

import os
import random
import resource
import secrets
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.bench.bare import BareJobs, sleeper
from tests.bench.figures import Figure, at_most, percentile, spread
from tests.cluster.audit import requests_of
from tests.cluster.cluster import Cluster
from tests.cluster.spaces import Space

BIG = 100 * 1000 * 1000


def add(a: int, b: int) -> int:
    """The trivial function."""
    return a + b


def random_bytes(size: int) -> bytes:
    """The large result."""
    return os.urandom(size)


def pairs(space: Space, count: int, ours: Callable[[], float]) -> tuple[list[float], list[float]]:
    """Ours and the bare Job in turn, each at a random phase of the kubelet's one-second tick."""
    bare = BareJobs(space.kubeconfig)
    mine, theirs = [], []
    try:
        ours()  # the client is warm
        bare.run()
        for _ in range(count):
            time.sleep(random.uniform(0.3, 1.3))
            mine.append(ours())
            time.sleep(random.uniform(0.3, 1.3))
            theirs.append(bare.run())
    finally:
        bare.close()
    return mine, theirs


def call_time(**options: object) -> Callable[[], float]:
    """Seconds from the entry of ``.remote()`` to the return of ``.result()``."""
    from kubefunc import remote

    function = remote(add).options(**options)  # type: ignore[arg-type]

    def once() -> float:
        begun = time.perf_counter()
        if function.remote(1, 2).result(timeout=60) != 3:
            raise RuntimeError("wrong sum")
        return time.perf_counter() - begun

    return once


def express(space: Space, count: int) -> Iterator[Figure]:
    """A small call against a bare Job."""
    mine, theirs = pairs(space, count, call_time())
    ratio = statistics.fmean(mine) / statistics.fmean(theirs)
    tail = percentile(mine, 0.95) / percentile(theirs, 0.95)
    detail = f"ours {spread(mine)}; bare {spread(theirs)}"
    yield at_most("cluster call against a bare Job, mean / mean", ratio, 0.95, detail=detail)
    yield at_most("the same, 95th percentile / 95th percentile", tail, 0.85)


def guaranteed(space: Space, count: int) -> Iterator[Figure]:
    """The same in a Guaranteed Pod, where the courier has a CPU limit."""
    limits = {"limits": {"cpu": "500m", "memory": "256Mi"}, "requests": {"cpu": "500m", "memory": "256Mi"}}
    template = {"spec": {"containers": [{"name": "main", "resources": limits}]}}
    mine, theirs = pairs(space, count, call_time(pod_template=template))
    ratio = statistics.fmean(mine) / statistics.fmean(theirs)
    yield Figure("the same with `main` Guaranteed (500m)", f"{ratio:.3g} (ours {spread(mine)})")


def status_path(space: Space, count: int) -> Iterator[Figure]:
    """The same for a user without permission on events: measured in a process of its own."""
    mine = _in_another_process(space, space.without("events"), count)
    bare = BareJobs(space.kubeconfig)
    theirs = []
    for _ in range(count):
        time.sleep(random.uniform(0.3, 1.3))
        theirs.append(bare.run())
    bare.close()
    ratio = statistics.fmean(mine) / statistics.fmean(theirs)
    detail = f"ours {spread(mine)}; bare {spread(theirs)}"
    yield at_most("the same without permission on events, mean / mean", ratio, 1.7, detail=detail)


def _in_another_process(space: Space, kubeconfig: Path, count: int) -> list[float]:
    environ = {**os.environ, "KUBECONFIG": str(kubeconfig)}
    command = [sys.executable, "-m", "tests.bench.repeat", str(count)]
    output = subprocess.run(command, env=environ, check=True, capture_output=True, text=True).stdout
    return [float(line) for line in output.split()]


def requests(cluster: Cluster, space: Space) -> Iterator[Figure]:
    """Requests of one small call in the API server's audit log, watches and lists apart."""
    from kubefunc import remote

    function = remote(add)
    function.remote(1, 2).result(timeout=60)
    time.sleep(3)
    before = len(requests_of(cluster.audit_log, space.user))
    function.remote(1, 2).result(timeout=60)
    time.sleep(3)
    made = requests_of(cluster.audit_log, space.user)[before:]
    counted = Counter(f"{each.verb} {each.resource}" for each in made if each.verb not in ("watch", "list"))
    detail = ", ".join(f"{count} {name}" for name, count in sorted(counted.items()))
    yield at_most("API requests of a small call, watches apart", counted.total(), 5, detail=detail)


def client_cpu(count: int) -> Iterator[Figure]:
    """CPU seconds of this process over sequential calls."""
    once = call_time()
    once()
    before = time.process_time()
    for _ in range(count):
        once()
    used = (time.process_time() - before) / count * 1000
    yield at_most(f"client CPU per cluster call ({count} calls)", used, 20, " ms")


def large_result(space: Space, count: int) -> Iterator[Figure]:
    """100 MB from the function's return to the return of result(), against kubectl exec cat of such a file."""
    from kubefunc import remote

    function = remote(random_bytes)
    pod = f"cat-{secrets.token_hex(3)}"
    space.admin.apply(sleeper(pod, f"head -c {BIG} /dev/urandom > /tmp/file"))
    space.admin.run("wait", "--for=condition=Ready", f"pod/{pod}", "--timeout=60s")
    time.sleep(3)
    function.remote(1000).result(timeout=60)
    before = _peak_rss()
    mine, theirs = [], []
    for _ in range(count):
        call = function.remote(BIG)
        if len(call.result(timeout=120)) != BIG:
            raise RuntimeError("wrong size")
        finished = call.stats.finished
        mine.append(time.time() - (finished or 0.0))
        theirs.append(_kubectl_cat(space, pod))
    growth = (_peak_rss() - before) / BIG
    detail = f"ours {spread(mine)}; kubectl {spread(theirs)}"
    ratio = statistics.fmean(mine) / statistics.fmean(theirs)
    yield at_most("100 MB result against `kubectl exec cat`, mean / mean", ratio, 0.8, detail=detail)
    yield at_most("growth of the client's peak RSS, of the result's size", growth, 2.2, " x")


def _kubectl_cat(space: Space, pod: str) -> float:
    command = ["kubectl", "--kubeconfig", str(space.kubeconfig), "exec", pod, "--", "cat", "/tmp/file"]
    begun = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        if process.stdout is None:
            raise RuntimeError("no pipe")
        size = 0
        while data := process.stdout.read(1 << 20):
            size += len(data)
    if size != BIG:
        raise RuntimeError(f"kubectl exec cat gave {size} bytes")
    return time.perf_counter() - begun


def _peak_rss() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def memory_of_a_pod(cluster: Cluster, space: Space) -> Iterator[Figure]:
    """What supervisor and courier hold while a function sleeps: proportional set size of their processes."""
    from kubefunc import remote

    call = remote(time.sleep).remote(6)
    deadline = time.monotonic() + 30
    while not call.running() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1.5)
    pods = space.admin.get("pods", "-l", f"kubefunc/call={call.id}")
    sizes = {}
    for container in ("main", "courier"):
        script = "for p in /proc/[0-9]*; do if [ $p != /proc/$$ ]; then grep -h ^Pss: $p/smaps_rollup; fi; done"
        output = space.admin.run(
            "exec", pods[0]["metadata"]["name"], "-c", container, "--", "sh", "-c", f"{script} 2>/dev/null; true"
        )
        sizes[container] = sum(int(line.split()[1]) for line in output.splitlines() if line.startswith("Pss:")) / 1024
    call.result(timeout=60)
    words = f"main {sizes['main']:.1f} MiB (supervisor and child), courier {sizes['courier']:.1f} MiB"
    yield Figure("Pod memory of runner and courier (Pss)", words)


def all_figures(cluster: Cluster, space: Space, count: int) -> Sequence[Figure]:
    """In the order of the table."""
    few = max(5, count // 5)
    return [
        *express(space, count),
        *guaranteed(space, few),
        *status_path(space, max(10, count // 3)),
        *requests(cluster, space),
        *large_result(space, 5),
        *client_cpu(count),
        *memory_of_a_pod(cluster, space),
    ]
