"""The measured functions, loaded as a script would load them: with a call travels their one file.

A module of this package would travel with all of ``tests``, which each Pod unpacks before it begins. What that costs is
a row of its own, for which there is ``add_in_a_project``.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "script"))
measured = importlib.import_module("measured")


def add_in_a_project(a: int, b: int) -> int:
    """The trivial function, in a package of many files."""
    return a + b
