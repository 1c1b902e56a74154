"""A scheduler for Dask: ``dask.compute(..., scheduler=kubefunc.dask.get)``.

Dask's scheduler runs in this process. Its tasks run on :class:`kubefunc.Executor`: as Jobs on a cluster, or in
processes on this machine. Results come back to this process, which sends them on to the tasks that need them.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

import dask.config
from dask.local import get_async
from dask.optimization import cull, fuse
from dask.system import CPU_COUNT
from dask.utils import ensure_dict

from kubefunc.options import Options, parse_changes

# A module that names this scheduler is imported in Pods too: what sends something is imported when it is needed.

_OPTIONS = frozenset(field.name for field in dataclasses.fields(Options))
TOGETHER_ON_CLUSTER = 1
TOGETHER_HERE = 6  # as with Dask's own processes
# All processes must agree on hashes, by which things find their partition; the seed is that of Dask's own scheduler.
HASH_SEED = "6640"


def get(
    dsk: Mapping[Any, Any],
    keys: Any,
    *,
    num_workers: int | None = None,
    pool: concurrent.futures.Executor | None = None,
    chunksize: int | None = None,
    optimize_graph: bool = True,
    **kwargs: Any,
) -> Any:
    """Compute keys of a graph. Dask calls this function if it is given as ``scheduler=``.

    Args:
        dsk: the graph.
        keys: the keys to compute.
        num_workers: how many chunks of tasks run at once. Default: 500 on a cluster, one for each CPU on this machine.
        pool: the Executor that runs the tasks, also from ``dask.config.set(pool=...)``. Default: a new one, which is
            shut down at the end.
        chunksize: how many tasks run together, one after another, if enough are ready. Default: 1 on a cluster, 6 on
            this machine.
        optimize_graph: join chains of tasks into one task, so that their intermediate results stay in one process.
        **kwargs: any option of :class:`kubefunc.Options`, for a new Executor. Other keywords from Dask are ignored, as
            by its own schedulers.

    Raises:
        ConfigurationError: the value of an option is not accepted.
    """
    options = {name: kwargs.pop(name) for name in _OPTIONS & kwargs.keys()}
    to_graph = getattr(dsk, "__dask_graph__", None)  # of what has not been made into a graph yet
    graph, dependencies = cull(ensure_dict(to_graph() if to_graph else dsk), keys)
    if optimize_graph:
        graph, _ = fuse(graph, keys, dependencies)
    at_once, together = _scale(options)
    at_once = num_workers or dask.config.get("num_workers", None) or at_once
    together = chunksize or dask.config.get("chunksize", None) or together
    given = pool or dask.config.get("pool", None)
    if given is not None:
        return _computed(graph, keys, given, getattr(given, "_max_workers", None) or at_once, together)
    from kubefunc.executors.executor import Executor

    options["env"] = {"PYTHONHASHSEED": os.environ.get("PYTHONHASHSEED", HASH_SEED), **(options.get("env") or {})}
    executor = Executor(at_once, **options)
    try:
        return _computed(graph, keys, executor, at_once, together)
    finally:
        executor.terminate_workers()  # after a failure nobody wants what still runs


def _computed(
    graph: Mapping[Any, Any], keys: Any, executor: concurrent.futures.Executor, at_once: int, together: int
) -> Any:
    futures: list[concurrent.futures.Future[Any]] = []

    def submit(function: Callable[..., Any], /, *args: Any) -> concurrent.futures.Future[Any]:
        future = executor.submit(function, *args)
        futures.append(future)
        return future

    try:
        return get_async(submit, at_once, graph, keys, chunksize=together)
    except BaseException:
        for future in futures:
            future.cancel()
        raise


def _scale(options: Mapping[str, Any]) -> tuple[int, int]:
    """How many tasks at once, and how many together: on a cluster each is worth a Pod, here a process is soon full."""
    from kubefunc.backends.base import keeps_processes
    from kubefunc.chunks import MAX_PARALLELISM
    from kubefunc.session import session

    here = session()
    merged = here.options(parse_changes("kubefunc.dask.get", **options))
    traits = here.backend(merged).traits
    at_once = MAX_PARALLELISM if traits.workers is None else CPU_COUNT
    return at_once, TOGETHER_HERE if keeps_processes(traits, merged) else TOGETHER_ON_CLUSTER
