"""Calls as processes on this machine: a fresh process for each, no cluster needed.

``backend.py`` holds the calls, ``run.py`` is one of them; how a process is started and watched is the affair of
:class:`kubefunc.backends.local.run.Processes`: ``forking.py`` where there is fork, ``oneshot.py`` where there is not.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kubefunc.backends.local.backend import LocalBackend


def local_backend() -> LocalBackend:
    """The backend of this machine, with what its system offers to start processes.

    Raises:
        ConfigurationError: it is not known where Python is.
    """
    directory = tempfile.mkdtemp(prefix="kubefunc-")
    if not hasattr(os, "fork"):
        return _by_oneshots(directory)
    from kubefunc.backends.local.launch import ServerProcess

    environ = dict(os.environ)
    server = None
    with contextlib.suppress(OSError):  # a call will try again, and tell
        server = ServerProcess(directory, environ)
    # The rest is loaded while the server starts.
    from pathlib import Path

    from kubefunc.backends.local.backend import LocalBackend
    from kubefunc.backends.local.forking import Forked

    return LocalBackend(Path(directory), lambda where, ended: Forked(where, ended, server, environ))


def _by_oneshots(directory: str) -> LocalBackend:
    from pathlib import Path

    from kubefunc.backends.local.backend import LocalBackend
    from kubefunc.backends.local.oneshot import OneShots

    return LocalBackend(Path(directory), OneShots)
