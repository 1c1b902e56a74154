"""Real wheels for the tests' own package index, fetched once from the index that this machine is configured with."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from tests.cluster.cache import cached

REAL = ("numpy", "pandas", "scikit-learn", "pyarrow")


def real_wheels(names: Sequence[str]) -> Path:
    """A directory with the wheels of these distributions, as installed here, and of all that they require."""
    pinned = [f"{name}=={metadata.version(name)}" for name in sorted(names)]
    recipe = json.dumps([pinned, sys.version_info[:2], "1"])

    def make(directory: Path) -> None:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:", "--dest", str(directory)]
        done = subprocess.run([*command, *pinned], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"pip download {' '.join(pinned)}: {done.stderr.strip()}")

    return cached("wheels", [recipe.encode()], make)
