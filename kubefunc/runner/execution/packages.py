"""Packages that were installed for this call: how the function's process gets to see them."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

INSTALLED_PARTS = ("site-packages", "dist-packages")


def site_of(environment: str) -> str:
    """The directory of a virtual environment's packages, for this Python."""
    import sysconfig

    scheme = "venv" if "venv" in sysconfig.get_scheme_names() else "posix_prefix"
    return sysconfig.get_path("purelib", scheme, {"base": environment, "platbase": environment})


def activate(environment: str) -> None:
    """Let this process, and the Pythons that it starts, import what a virtual environment has.

    Its packages hide those of the image, never the standard library. Not in the supervisor: ``.pth`` files run code.
    """
    import site

    directory = site_of(environment)
    before = list(sys.path)
    site.addsitedir(directory)
    added = [entry for entry in sys.path if entry not in before]
    sys.path[:] = before
    at = _first_installed(before)
    sys.path[at:at] = [directory, *(entry for entry in added if entry != directory)]
    os.environ["VIRTUAL_ENV"] = environment
    os.environ["PATH"] = f"{environment}/bin:{os.environ.get('PATH', os.defpath)}"
    sys.executable = f"{environment}/bin/python3"


def _first_installed(path: Sequence[str]) -> int:
    """Where the first directory of installed packages stands in a search path; its end, if there is none."""
    places = (number for number, entry in enumerate(path) if os.path.basename(entry) in INSTALLED_PARTS)
    return next(places, len(path))
