"""Calls as processes on this machine: a fresh process for each, no cluster needed.

``backend.py`` holds the calls, ``run.py`` is one of them; how a process is started and watched is the affair of
:class:`kubefunc.backends.local.run.Processes`: ``forking.py`` where there is fork, ``oneshot.py`` where there is not.
"""

from __future__ import annotations

import os

from kubefunc.backends.local.backend import LocalBackend


def local_backend() -> LocalBackend:
    """The backend of this machine, with what its system offers to start processes."""
    if hasattr(os, "fork"):
        from kubefunc.backends.local.forking import Forked

        return LocalBackend(Forked)
    from kubefunc.backends.local.oneshot import OneShots

    return LocalBackend(OneShots)
