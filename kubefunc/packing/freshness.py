"""Whether the caller's modules have changed on disk since some moment: what long-lived workers have to ask."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import ModuleType

from kubefunc.errors import SerializationError
from kubefunc.packing.modules import INSTALLED_PARTS, Unit, UnitFinder
from kubefunc.packing.project_files import ProjectFile, list_files

_LOOK_EVERY = 0.2  # seconds: looking costs a stat for each file, and people do not edit faster


class LoadedCode:
    """The source files of the caller's loaded modules, and of the packages around them, as they are when it is made."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._units: dict[str, Unit | None] = {}
        self._loads: dict[str, object] = {}
        self._files = self._look()

    def changed(self) -> str | None:
        """The path of a file that has changed or gone; what is new is known from now on.

        Asked often it looks only now and then; at once where modules were loaded, or loaded again.
        """
        if self._clock() < self._looked_at + _LOOK_EVERY and not self._loaded_again():
            return None
        before, self._files = self._files, self._look()
        return next((file.path for name, file in before.items() if self._files.get(name) != file), None)

    def _look(self) -> dict[str, ProjectFile]:
        self._looked_at = self._clock()
        self._loaded = len(sys.modules)
        finder = UnitFinder()
        for name, module in list(sys.modules.items()):
            if name not in self._units:
                self._units[name] = finder.find(name) if _may_be_a_callers(module) else None
        self._loads = {name: _load_of(name) for name, unit in self._units.items() if unit is not None}
        units = {unit for unit in self._units.values() if unit is not None}
        try:
            files = list_files(sorted(units, key=lambda unit: unit.name)).files
        except SerializationError:  # told by the call that needs the file
            return {}
        return {file.name: file for file in files if file.is_code}

    def _loaded_again(self) -> bool:
        if len(sys.modules) != self._loaded:
            return True
        return any(_load_of(name) is not load for name, load in self._loads.items())


def _load_of(name: str) -> object:
    """Another object after each load of the module."""
    return getattr(sys.modules.get(name), "__spec__", None)


def _may_be_a_callers(module: ModuleType) -> bool:
    """Sorts out most of what is installed, without a look at the disk. A lazily loaded module is not loaded by it."""
    try:
        file = object.__getattribute__(module, "__dict__").get("__file__")
    except AttributeError:  # anything may stand in sys.modules
        return False
    if not isinstance(file, str) or file.startswith((sys.prefix, sys.base_prefix)):
        return False
    return INSTALLED_PARTS.isdisjoint(file.replace("\\", "/").split("/"))
