"""Run a Python function as a Kubernetes Job and get its result, its exception or a plain explanation.

::

    from kubefunc import remote

    @remote(cpu=2, memory="4Gi")
    def train(seed: int) -> float: ...

    call = train.remote(1)     # a Job, or a process on this machine if no cluster is configured
    call.result()

Names load when you first use them: Pods import this module too. They must start fast and have no backend.
"""

from __future__ import annotations

TYPE_CHECKING = False  # `typing` would cost each program in a Pod as much as all else that it imports

__version__ = "0.1.0"

__all__ = [
    "Call",
    "ConfigMapKey",
    "Executor",
    "File",
    "GangCall",
    "MapCall",
    "Options",
    "Pool",
    "RemoteFunction",
    "SecretKey",
    "Stream",
    "attach",
    "attach_map",
    "configure",
    "current",
    "errors",
    "remote",
    "testing",
    "volumes",
]

if TYPE_CHECKING:
    from kubefunc import current, errors, testing, volumes
    from kubefunc.executors.executor import Executor
    from kubefunc.function import RemoteFunction, remote
    from kubefunc.handles.call import Call, attach
    from kubefunc.handles.gang_call import GangCall
    from kubefunc.handles.map_call import MapCall, attach_map
    from kubefunc.handles.stream import Stream
    from kubefunc.options import ConfigMapKey, Options, SecretKey
    from kubefunc.pool import Pool
    from kubefunc.runner.protocol.file import File
    from kubefunc.session import configure
else:
    # Hidden from type checkers: they would take a module's __getattr__ for a promise that any name exists.
    _ROOMS = {
        "Call": "kubefunc.handles.call",
        "attach": "kubefunc.handles.call",
        "Executor": "kubefunc.executors.executor",
        "RemoteFunction": "kubefunc.function",
        "GangCall": "kubefunc.handles.gang_call",
        "remote": "kubefunc.function",
        "MapCall": "kubefunc.handles.map_call",
        "attach_map": "kubefunc.handles.map_call",
        "ConfigMapKey": "kubefunc.options",
        "Options": "kubefunc.options",
        "SecretKey": "kubefunc.options",
        "Pool": "kubefunc.pool",
        "File": "kubefunc.runner.protocol.file",
        "configure": "kubefunc.session",
        "Stream": "kubefunc.handles.stream",
    }
    _MODULES = ("current", "errors", "testing", "volumes")

    def __getattr__(name):
        """Import a public name's module at the name's first use (PEP 562)."""
        from importlib import import_module

        if name in _MODULES:
            return import_module(f"kubefunc.{name}")
        if name not in _ROOMS:
            raise AttributeError(f"module 'kubefunc' has no attribute {name!r}")
        value = getattr(import_module(_ROOMS[name]), name)
        globals()[name] = value
        return value

    def __dir__():
        return sorted({*globals(), *__all__})
