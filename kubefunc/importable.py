"""Under which name another process can import an object, and whether it can."""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Iterable
from typing import NamedTuple

import cloudpickle  # type: ignore[import-untyped, unused-ignore]


class Place(NamedTuple):
    """Where the import system has a module, or would have it: its file and a package's directories."""

    file: str | None
    directories: tuple[str, ...] | None


def importable_reference(obj: object) -> tuple[str, str] | None:
    """Module and qualified name under which another process can import this very object, or None.

    None for what ``__main__``, a notebook or a function body defines, and for what its name no longer means.
    A function is also found where its ``RemoteFunction`` stands under its name.

    >>> import json
    >>> importable_reference(json.dumps)
    ('json', 'dumps')
    >>> importable_reference(lambda: 1) is None
    True
    """
    found = named(obj)
    if found is None or not (found is obj or function_of(found) is obj):
        return None
    return str(getattr(obj, "__module__", "")), str(getattr(obj, "__qualname__", ""))


def named(obj: object) -> object | None:
    """What the object's own name means in its own module, if another process can and may import that module."""
    module, name = getattr(obj, "__module__", None), getattr(obj, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or "<" in name or not has_source(module):
        return None
    if goes_by_value(module):
        return None
    found: object = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def goes_by_value(module: str) -> bool:
    """Whether the user has said so: ``cloudpickle.register_pickle_by_value(module)``, of it or of a parent."""
    registered = cloudpickle.list_registry_pickle_by_value()
    return any(module == each or module.startswith(f"{each}.") for each in registered)


def function_of(found: object) -> object | None:
    """The function inside a RemoteFunction: recognised by name, as its room lies above this one."""
    kind = type(found)
    ours = kind.__module__.partition(".")[0] == "kubefunc"
    if not ours or kind.__name__ not in ("RemoteFunction", "AsyncRemoteFunction"):
        return None
    return getattr(found, "function", None)


def has_source(name: str) -> bool:
    """Whether the loaded module came from something that another process can import too.

    False for a module that was made in memory, for ``__main__``, and for one whose parent is not loaded (a bare file
    that was loaded under a dotted name): pickle would import the parent.
    """
    if name in ("__main__", "__mp_main__"):
        return False
    top, dot, _ = name.partition(".")
    if top in sys.stdlib_module_names:
        return True
    if dot and top not in sys.modules:
        return False
    # Any parent will do: importing a compiled package may create its submodules in memory.
    return any(loaded(each) is not None for each in with_parents(name))


def with_parents(name: str) -> list[str]:
    """The names of a module's parents, topmost first, and its own.

    >>> with_parents("os.path")
    ['os', 'os.path']
    """
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)]


def loaded(name: str) -> Place | None:
    """Where the module that is already imported under this name came from; None if it came from nowhere."""
    module = sys.modules.get(name)
    if not isinstance(module, types.ModuleType):
        return None
    # Not getattr: it would make a lazily loaded module load itself.
    namespace = object.__getattribute__(module, "__dict__")
    file, path = namespace.get("__file__"), namespace.get("__path__")
    if isinstance(file, str):
        return Place(os.path.abspath(file), None if path is None else listed(path))
    return None if path is None else Place(None, listed(path))


def listed(path: Iterable[str]) -> tuple[str, ...]:
    """A package's directories. Those of a namespace package cannot be asked once its parent is not loaded any more."""
    try:
        return tuple(path)
    except KeyError:
        return tuple(getattr(path, "_path", ()))
