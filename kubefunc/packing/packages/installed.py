"""What is installed on this machine, compared with what a function wants."""

from __future__ import annotations

import functools
from importlib import metadata

from kubefunc.errors import PackageInstallError
from kubefunc.options.parsers import versions
from kubefunc.options.parsers.requirements import Requirement, Requirements


def check_here(wanted: Requirements) -> None:
    """Refuse to run a function on this machine without its packages: nothing is installed on a user's machine.

    Raises:
        PackageInstallError: some are missing, or have another version.
    """
    _check_here(wanted.parsed)


@functools.lru_cache(maxsize=32)  # only what is in order stays: the answer may change after an error
def _check_here(wanted: tuple[Requirement, ...]) -> None:
    lacking = {each: found for each in wanted if each.is_needed_here() and (found := _lack(each)) is not None}
    if not lacking:
        return
    told = "; ".join(f"{_named(each)} ({found})" for each, found in lacking.items())
    command = " ".join(f"'{each.text}'" for each in lacking)
    raise PackageInstallError(
        f"This call runs on this machine, whose Python does not have what packages= asks for: {told}. "
        f"kubefunc installs nothing here. Install it yourself: pip install {command}"
    )


def _named(requirement: Requirement) -> str:
    return f"{requirement.name}{requirement.specifier}"


def _lack(requirement: Requirement) -> str | None:
    """What is wrong with it here; None if nothing is."""
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return "not installed"
    try:
        return None if versions.matches(version, requirement.specifier) else f"{version} is installed"
    except versions.NotAVersion:  # of an old distribution that no rule binds
        return None
