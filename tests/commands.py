"""Commands as a user gives them."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


def ran(
    command: Sequence[str], env: Mapping[str, str], directory: Path, within: float = 240
) -> subprocess.CompletedProcess[str]:
    """What a command has printed, which must have ended well."""
    result = subprocess.run(
        command,
        env=env,
        cwd=directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=within,
    )
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    return result
