"""What runs, with which resources, how long and how often."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

from kubefunc.errors import ConfigurationError
from kubefunc.options.kind import Kind, Refused, none
from kubefunc.options.option import LIMIT, SPAN, Group, Unset, option
from kubefunc.options.parsers import exceptions, names, numbers, quantities
from kubefunc.runner import PULL_ALLOWANCE

if TYPE_CHECKING:
    from datetime import timedelta

    from kubefunc.pool import Pool


def _pool(value: object) -> object:
    from kubefunc.pool import Pool, default_pool  # here, as a program without a pool needs none of it

    if value is True:
        return default_pool()
    if value is False:
        return None
    if not isinstance(value, Pool):
        raise Refused("give a Pool, such as Pool(max_workers=8), or True")
    return value


class RunningChanges(TypedDict, total=False):
    """What these options accept."""

    image: str | Unset | None
    cpu: float | str | Unset | None
    memory: str | int | tuple[str | int, str | int] | Unset | None
    cpu_limit: float | str | Unset | None
    gpu: int | Mapping[str, int] | Unset | None
    timeout: float | timedelta | Unset | None
    retries: int | Unset
    retry_exceptions: type[BaseException] | Sequence[type[BaseException]] | Unset | None
    deadline: float | timedelta | Unset
    schedule_timeout: float | timedelta | Unset | None
    pull_allowance: float | timedelta | Unset
    max_disruptions: int | Unset
    pool: Pool | bool | Unset | None


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class Running(Group):
    """What runs, with which resources, how long and how often."""

    # --- what runs

    image: str | None = option(
        None,
        Kind(
            "an image such as 'python:3.12-slim', or None for the caller's own Python",
            names.image,
            nothing=none,
        ),
    )
    """The container image. It needs only ``python3``, of the same minor version as your program.

    Default: None, which means ``python:X.Y-slim`` for your Python X.Y. Pickled code needs the same minor version.
    Local: ignored, functions run with your program's Python.
    """

    cpu: str | None = option(
        None,
        Kind(
            "a number of CPUs such as 0.5 or 2, or '500m', or None for no request",
            quantities.cpu,
            nothing=none,
        ),
    )
    """CPUs that are reserved for the function (its *request*). It may use more where the node is idle.

    Unit: CPUs, or thousandths as ``"500m"``.

    Default: None, no request.
    Local: ignored.
    """

    memory: str | tuple[str, str] | None = option(
        None,
        Kind(
            "a Kubernetes quantity such as '4Gi' or '512Mi', an int of bytes, a pair (start, ceiling) of these, "
            "or None for no limit",
            quantities.memory,
            quantities.read_memory,
            none,
        ),
    )
    """Memory that is reserved for the function, and its limit. Using more raises OutOfMemoryError.

    A pair ``("1Gi", "8Gi")`` starts with the first value. Each retry after OutOfMemoryError doubles it, up to the
    second value.

    Unit: bytes, as a Kubernetes quantity.
    Default: None, neither request nor limit.
    Local: ignored.
    """

    cpu_limit: str | None = option(
        None, Kind("a number of CPUs such as 0.5 or 2, or '500m', or None for no limit", quantities.cpu, nothing=none)
    )
    """The most CPUs that the function may use. The kernel slows it down at this limit.

    Without ``cpu``, the same number is reserved. If a namespace's quota requires limits and you set none, ``cpu`` is
    the limit, or 1 without it.

    Unit: CPUs, or thousandths as ``"500m"``.
    Default: None, no limit, so that the function can use the CPUs of an idle node.
    Local: ignored.
    """

    gpu: Mapping[str, int] | None = option(
        None,
        Kind(
            "a number of NVIDIA GPUs, a dict such as {'amd.com/gpu': 1}, or None",
            quantities.gpu,
            quantities.read_gpu,
            none,
        ),
    )
    """GPUs: a number of ``nvidia.com/gpu``, or a dict such as ``{"amd.com/gpu": 1}``.

    The Pod may also run on nodes that are reserved for these GPUs: it tolerates a taint with the GPU's name.

    Default: None.
    Local: ignored, the function sees the GPUs of this machine.
    """

    # --- how long, how often

    timeout: float | None = option(None, LIMIT)
    """How long one attempt of the function may take, from its start. Unit: seconds.

    Default: None, no limit except ``deadline``.
    Local: obeyed.
    """

    retries: int = option(0, Kind("an int from 0 to 100", numbers.whole_number(0, 100), numbers.read_whole_number))
    """How often the function runs again after an exception, a timeout, a crash, or when it ran out of memory.

    Default: 0, since not every function may run twice. Pods that the cluster ended (drained nodes, preemption) count
    for ``max_disruptions`` instead.
    Local: obeyed.
    """

    retry_exceptions: tuple[type[BaseException], ...] = option(
        (Exception,),
        Kind(
            "an exception class or a tuple of them; None or () retries only processes that died",
            exceptions.classes,
            exceptions.read,
            tuple,
        ),
    )
    """The exceptions after which the function is retried. It is always retried when its process died.

    Default: ``(Exception,)``. It cannot be set from the environment.
    Local: obeyed.
    """

    deadline: float = option(7 * 24 * 3600.0, SPAN)
    """How long the whole Job may take, from submission and with all waiting. Unit: seconds.

    Default: 7 days. Without it, Kubernetes would keep a Job that never starts.
    Local: ignored.
    """

    schedule_timeout: float | None = option(None, LIMIT)
    """How long a call may wait for a node, a quota or a queue before UnschedulableError. Unit: seconds.

    Default: None, wait without a limit. An autoscaler may add a node, or another Pod may end.
    Local: ignored.
    """

    pull_allowance: float = option(PULL_ALLOWANCE, SPAN)
    """Time for pulling the image, which is added to the Pod's time limit. Unit: seconds.

    Default: 900, enough for a large CUDA image on a slow connection.
    Local: ignored.
    """

    max_disruptions: int = option(
        5, Kind("an int from 0 to 1000", numbers.whole_number(0, 1000), numbers.read_whole_number)
    )
    """How often the function runs again because its Pod was drained, preempted, evicted or deleted.

    With 0 the function runs at most once. Otherwise it may run more than once.

    Default: 5.
    Local: ignored.
    """

    pool: Pool | None = option(
        None,
        Kind(
            "a Pool(...), True for one with its defaults, or None for a Job for each call",
            _pool,
            numbers.read_switch,
            none,
        ),
    )
    """Workers that stay and take call after call: a call takes milliseconds instead of the start of a Pod.

    See :class:`kubefunc.Pool`. Functions with the same pool and the same options for their Pod share workers.
    Your next program finds the workers that the last one has left.

    Default: None, each call is a Job and each map one Indexed Job.
    Local: ignored, calls are quick there.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cpu and self.cpu_limit and quantities.quantity(self.cpu) > quantities.quantity(self.cpu_limit):
            raise ConfigurationError(
                f"cpu={self.cpu!r} is more than cpu_limit={self.cpu_limit!r}: raise cpu_limit, or lower cpu"
            )
        if self.timeout is not None and self.timeout > self.deadline:
            raise ConfigurationError(
                f"timeout={self.timeout:g} s is longer than deadline={self.deadline:g} s, the limit for the whole "
                f"Job: raise deadline too"
            )

    @property
    def resolved_image(self) -> str:
        """The image, or the default image of the caller's Python."""
        return self.image or default_image()

    @property
    def memory_start(self) -> str | None:
        """The memory of the first attempt, as a Kubernetes quantity."""
        return self.memory[0] if isinstance(self.memory, tuple) else self.memory

    @property
    def memory_ceiling(self) -> str | None:
        """The most memory that a retry may get, or None if retries do not raise ``memory``."""
        return self.memory[1] if isinstance(self.memory, tuple) else None


def default_image() -> str:
    """The image of the Python that runs this program."""
    minor = f"{sys.version_info.major}.{sys.version_info.minor}"
    # Docker's library tags a Python that is not yet released as X.Y-rc.
    return f"python:{minor}-slim" if sys.version_info.releaselevel == "final" else f"python:{minor}-rc-slim"
