"""Modules that a Pod will lack, told before anything is sent, and what to do."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterable, Sequence
from importlib import metadata
from typing import TypeAlias

from kubefunc.errors import ConfigurationError, MissingModuleError
from kubefunc.options import Options
from kubefunc.options.kind import Refused
from kubefunc.options.parsers import versions
from kubefunc.options.parsers.requirements import Requirement, Requirements, canonical, parse
from kubefunc.packing.modules import unit_of
from kubefunc.packing.packages.imports import Need, is_foreign


def refuse_missing(needs: Iterable[Need], options: Options) -> None:
    """Refuse a call whose Pod will lack one of these modules, or one that a worker is to preload.

    Raises:
        MissingModuleError: with the module, who imports it, and the way out.
        ConfigurationError: workers of a pool are to preload code of the caller's own.
    """
    wanted = options.requirements()
    lacking = [need for need in (*needs, *_preloaded(options)) if not _is_brought(need, wanted)]
    if lacking:
        raise MissingModuleError(_message(lacking, options), name=lacking[0].module)


def _preloaded(options: Options) -> list[Need]:
    """What workers of a pool import first, as far as it is a package that is installed here."""
    modules = options.pool.preload if options.pool is not None else ()
    for each in modules:
        if unit_of(each) is not None:
            raise ConfigurationError(
                f"Pool: preload={each!r}: that is code of your own, which is sent with each call, and not with a "
                "worker. Leave it out, or name an image that has it installed: image=..."
            )
    installed = [each for each in modules if is_foreign(each) and distributions_of(each.partition(".")[0])]
    return [Need(each, "imported by workers, preload=") for each in installed]


def _is_brought(need: Need, wanted: Requirements | None) -> bool:
    """Whether the packages bring it, or may: those of a package that is not installed here are not known."""
    if wanted is None:
        return False
    if any(canonical(need.top) == each.name for each in wanted.parsed):
        return True
    brought = _closure(wanted.parsed, places())
    return brought is None or not brought.isdisjoint(distributions_of(need.top))


@functools.lru_cache(maxsize=32)
def _closure(wanted: tuple[Requirement, ...], _: Places) -> frozenset[str] | None:
    """These distributions and all that they require, as far as they are installed here; None if one is not."""
    found: set[str] = set()
    pending = list(wanted)
    while pending:
        each = pending.pop()
        if each.name in found:
            continue
        try:
            pending += required_by(each.name, each.extras)
        except metadata.PackageNotFoundError:
            return None
        found.add(each.name)
    return frozenset(found)


def required_by(name: str, extras: Sequence[str] = ()) -> list[Requirement]:
    """What a distribution that is installed here requires, with these extras, on this machine.

    Raises:
        PackageNotFoundError: it is not installed.
    """
    lines = metadata.requires(name) or ()
    return [below for line in lines if (below := _needed(line, extras)) is not None]


def _needed(line: str, extras: Sequence[str]) -> Requirement | None:
    """A requirement out of a distribution's metadata, if it holds here."""
    try:
        requirement = parse(line)
        environment = versions.environment()
        holds = not requirement.marker or any(
            versions.applies(requirement.marker, {**environment, "extra": extra}) for extra in ("", *extras)
        )
    except (Refused, versions.NotAVersion):
        return None
    return requirement if holds else None


def distributions_of(top: str) -> list[str]:
    """The distributions installed here that a topmost module is part of, by their canonical names."""
    return [canonical(name) for name in _distributions(places()).get(top, [])]


Places: TypeAlias = tuple[tuple[str, int], ...]


def places() -> Places:
    """Where packages may be installed, and when something was there last: a notebook may install one meanwhile."""
    return tuple((entry, _changed_at(entry)) for entry in sys.path)


def _changed_at(directory: str) -> int:
    try:
        return os.stat(directory or os.curdir).st_mtime_ns
    except OSError:  # sys.path may name what does not exist
        return 0


@functools.lru_cache(maxsize=1)
def _distributions(_: Places) -> dict[str, list[str]]:
    """As importlib.metadata.packages_distributions(), which on Python 3.10 knows only a part of them."""
    found: dict[str, list[str]] = {}
    for each in metadata.distributions():
        for top in _tops(each):
            names = found.setdefault(top, [])
            if each.metadata["Name"] not in names:
                names.append(each.metadata["Name"])
    return found


def _tops(distribution: metadata.Distribution) -> set[str]:
    """The topmost modules of a distribution: as it says itself, or those of its files."""
    listed = (distribution.read_text("top_level.txt") or "").split()
    if listed:
        return set(listed)
    code = (file for file in distribution.files or () if file.suffix in (".py", ".so", ".pyd"))
    return {file.parts[0].partition(".")[0] for file in code if ".." not in file.parts}


def _message(lacking: Sequence[Need], options: Options) -> str:
    what, it = ("a module", "it") if len(lacking) == 1 else ("modules", "them")
    install = ", ".join(repr(distribution_for(need.module)) for need in lacking)
    way = f"add {install} to packages=" if options.packages else f"packages=[{install}]"
    return "\n".join(
        [
            f"The function needs {what} that the Pod will not have, as {options.resolved_image} does not have {it}:",
            *(f"  {need.top} ({need.why})" for need in lacking),
            f"Let the Pod install {it}: {way}. Or name an image that has {it}: image=...",
        ]
    )


def distribution_for(module: str) -> str:
    """What to install for a module: the distribution that it comes from here, else its own topmost name.

    Of several that share a namespace, such as ``google``, it is the one with the most of the module's path.

    >>> distribution_for("no_such_module.part")
    'no_such_module'
    """
    top = module.partition(".")[0]
    names = _NOT_INSTALLED_AS.get(top) or distributions_of(top)
    return max(names, key=lambda name: _common_parts(name, module), default=top)


_NOT_INSTALLED_AS = {"distutils": ["setuptools"]}  # it has left the standard library with Python 3.12


def _common_parts(name: str, module: str) -> int:
    """How much of the module's path the distribution has."""
    parts = tuple(module.split("."))
    try:
        files = metadata.files(name) or ()
    except metadata.PackageNotFoundError:
        return 0
    return max((_same_start((*file.parts[:-1], file.stem.partition(".")[0]), parts) for file in files), default=0)


def _same_start(one: Sequence[str], other: Sequence[str]) -> int:
    return next(
        (count for count, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
