"""Compiled modules of code that was patched: those of its unchanged files need not be compiled again."""

from __future__ import annotations

import contextlib
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

FOLDER = "__pycache__"


def link_compiled(base: str, place: str, unchanged: Iterable[str]) -> None:
    """Link what Python has compiled of these files in the one directory to the other.

    Python writes such a file beside its place and renames it, so a link never changes. It compares its time and size
    with those of the source: the sources in ``place`` must have the times that those in ``base`` had at first.
    """
    names: dict[str, set[str]] = {}  # of modules, by their directory
    for path in unchanged:
        folder, name = os.path.split(path)
        if name.endswith(".py"):
            names.setdefault(folder, set()).add(name.removesuffix(".py"))
    for folder, modules in names.items():
        with contextlib.suppress(OSError):  # no module of it was imported, or calls have done something to it
            _link_folder(os.path.join(base, folder, FOLDER), os.path.join(place, folder, FOLDER), modules)


def _link_folder(base: str, place: str, modules: set[str]) -> None:
    tag = f".{sys.implementation.cache_tag}"
    found = [name for name in os.listdir(base) if name.endswith(".pyc") and name.partition(tag)[0] in modules]
    if found:
        os.mkdir(place)
    for name in found:
        os.link(os.path.join(base, name), os.path.join(place, name))
