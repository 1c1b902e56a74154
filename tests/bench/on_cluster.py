"""The figures of calls on a real cluster."""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass

from tests.bench.bare import BareJobs, sleeper
from tests.bench.caller import Caller
from tests.bench.figures import Figure, at_most, percentile, spread
from tests.bench.work import measured
from tests.cluster.audit import requests_of
from tests.cluster.cluster import Cluster
from tests.cluster.spaces import Space

BIG = 100 * 1000 * 1000
Measure = Callable[[], float]


@dataclass(frozen=True)
class Ground:
    """Where it is measured, and in how many pairs."""

    cluster: Cluster
    space: Space
    pairs: int

    @contextlib.contextmanager
    def bare(self) -> Generator[Measure]:
        """The bare Job to compare with."""
        with self.bare_jobs() as jobs:
            yield jobs.run

    @contextlib.contextmanager
    def bare_jobs(self) -> Generator[BareJobs]:
        """Bare Jobs of every kind, warm."""
        jobs = BareJobs(self.space.kubeconfig)
        try:
            jobs.run()
            yield jobs
        finally:
            jobs.close()


def alternating(count: int, one: Measure, other: Measure) -> tuple[list[float], list[float]]:
    """Both in turn, each at a random phase of the kubelet's one-second tick."""
    ones, others = [], []
    for _ in range(count):
        time.sleep(random.uniform(0.3, 1.3))
        ones.append(one())
        time.sleep(random.uniform(0.3, 1.3))
        others.append(other())
    return ones, others


def ratio(ones: list[float], others: list[float]) -> float:
    """Mean over mean."""
    return statistics.fmean(ones) / statistics.fmean(others)


def express(ground: Ground) -> Iterator[Figure]:
    """A small call against a bare Job."""
    with Caller(ground.space.kubeconfig) as caller, ground.bare() as bare:
        mine, theirs = alternating(ground.pairs, caller.call, bare)
    tail = percentile(mine, 0.95) / percentile(theirs, 0.95)
    detail = f"ours {spread(mine)}; bare {spread(theirs)}"
    yield at_most("cluster call against a bare Job, mean / mean", ratio(mine, theirs), 0.95, detail=detail)
    yield at_most("the same, 95th percentile / 95th percentile", tail, 0.85)


def guaranteed(ground: Ground) -> Iterator[Figure]:
    """The same in a Guaranteed Pod, where the courier has a CPU limit."""
    with Caller(ground.space.kubeconfig, "guaranteed") as caller, ground.bare() as bare:
        mine, theirs = alternating(ground.pairs // 5, caller.call, bare)
    detail = f"ours {spread(mine)}; bare {spread(theirs)}"
    yield Figure("the same with `main` Guaranteed (0.5 CPU), mean / mean", f"{ratio(mine, theirs):.3g} ({detail})")


def status_path(ground: Ground) -> Iterator[Figure]:
    """The same for a user without permission on events."""
    with Caller(ground.space.without("events")) as caller, ground.bare() as bare:
        mine, theirs = alternating(ground.pairs // 3, caller.call, bare)
    detail = f"ours {spread(mine)}; bare {spread(theirs)}"
    yield at_most("the same without permission on events, mean / mean", ratio(mine, theirs), 1.7, detail=detail)


def order(ground: Ground) -> Iterator[Figure]:
    """Courier first in the Pod against main first, as it is."""
    for suffix, way in (("", "by express"), ("-by-status", "by status alone")):
        plain = Caller(ground.space.kubeconfig, suffix.removeprefix("-") or "plain")
        with plain, Caller(ground.space.kubeconfig, f"courier-first{suffix}") as turned:
            as_is, reversed_ = alternating(ground.pairs // 4, plain.call, turned.call)
        detail = f"courier first {spread(reversed_)}; main first {spread(as_is)}"
        yield Figure(
            f"courier first against main first, {way}, mean / mean", f"{ratio(reversed_, as_is):.3g} ({detail})"
        )


def project(ground: Ground) -> Iterator[Figure]:
    """A function out of a package of many files, which all travel, against one out of a file of its own."""
    with Caller(ground.space.kubeconfig, "project") as caller, Caller(ground.space.kubeconfig) as small:
        mine, theirs = alternating(ground.pairs // 4, caller.call, small.call)
    detail = f"package {spread(mine)}; one file {spread(theirs)}"
    yield Figure(
        "a function in the package of these tests, which travels whole, against one in one file, mean / mean",
        f"{ratio(mine, theirs):.3g} ({detail})",
    )


def requests(ground: Ground) -> Iterator[Figure]:
    """Requests of one small call in the API server's audit log, watches and lists apart."""
    with Caller(ground.space.kubeconfig) as caller:
        for what, call, limit in (
            ("a small call", caller.call, 5),
            ("one whose output is followed", caller.loud_call, 6),
        ):
            time.sleep(3)
            before = len(requests_of(ground.cluster.audit_log, ground.space.user))
            call()
            time.sleep(3)
            made = requests_of(ground.cluster.audit_log, ground.space.user)[before:]
            counted = Counter(f"{each.verb} {each.resource}" for each in made if each.verb not in ("watch", "list"))
            detail = ", ".join(f"{count} {name}" for name, count in sorted(counted.items()))
            yield at_most(f"API requests of {what}, watches apart", counted.total(), limit, detail=detail)


def client_cpu(ground: Ground) -> Iterator[Figure]:
    """CPU seconds of a client over calls in a row."""
    with Caller(ground.space.kubeconfig) as caller:
        before = caller.cpu()
        for _ in range(ground.pairs):
            caller.call()
        used = (caller.cpu() - before) / ground.pairs * 1000
    yield at_most(f"client CPU per cluster call ({ground.pairs} calls)", used, 20, " ms")


def large_result(ground: Ground) -> Iterator[Figure]:
    """100 MB from the function's return to the return of result(), against kubectl exec cat of such a file."""
    space, pod = ground.space, f"cat-{secrets.token_hex(3)}"
    space.admin.apply(sleeper(pod, f"head -c {BIG} /dev/urandom > /tmp/part; mv /tmp/part /tmp/file"))
    space.admin.run("wait", "--for=condition=Ready", f"pod/{pod}", "--timeout=60s")
    space.admin.run("exec", pod, "--", "sh", "-c", "until [ -e /tmp/file ]; do sleep 0.2; done")
    _kubectl_cat(space, pod)
    with Caller(space.kubeconfig) as caller:
        before = caller.peak_memory()
        mine, theirs = [caller.large(BIG)], [_kubectl_cat(space, pod)]
        growth = (caller.peak_memory() - before) / BIG
        more = alternating(max(2, ground.pairs // 10 - 1), lambda: caller.large(BIG), lambda: _kubectl_cat(space, pod))
    mine, theirs = mine + more[0], theirs + more[1]
    space.admin.run("delete", "pod", pod, "--wait=false")
    detail = f"ours {spread(mine)}; kubectl {spread(theirs)}"
    yield at_most("100 MB result against `kubectl exec cat`, mean / mean", ratio(mine, theirs), 0.8, detail=detail)
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


def pod_memory(ground: Ground) -> Iterator[Figure]:
    """What supervisor and courier hold while a function sleeps: proportional set size of their processes."""
    from kubefunc import remote

    os.environ.update(KUBECONFIG=str(ground.space.kubeconfig), KUBEFUNC_BACKEND="kubernetes")
    call = remote(measured.sleep).remote(6)
    deadline = time.monotonic() + 30
    while not call.running() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1.5)
    pods = ground.space.admin.get("pods", "-l", f"kubefunc/call={call.id}")
    sizes = {name: _memory_of(ground.space, pods[0]["metadata"]["name"], name) for name in ("main", "courier")}
    call.result(timeout=60)
    words = f"main {sizes['main']:.1f} MiB (supervisor and child), courier {sizes['courier']:.1f} MiB"
    yield Figure("Pod memory of runner and courier (Pss)", words)


def _memory_of(space: Space, pod: str, container: str) -> float:
    script = "for p in /proc/[0-9]*; do if [ $p != /proc/$$ ]; then grep -h ^Pss: $p/smaps_rollup; fi; done"
    output = space.admin.run("exec", pod, "-c", container, "--", "sh", "-c", f"{script} 2>/dev/null; true")
    return sum(int(line.split()[1]) for line in output.splitlines() if line.startswith("Pss:")) / 1024


# In the order of the table.
ROWS: Mapping[str, Callable[[Ground], Iterator[Figure]]] = {
    "express": express,
    "guaranteed": guaranteed,
    "status": status_path,
    "order": order,
    "project": project,
    "requests": requests,
    "large": large_result,
    "cpu": client_cpu,
    "memory": pod_memory,
}
