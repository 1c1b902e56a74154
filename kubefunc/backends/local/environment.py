"""The environment variables that a function sees on this machine: the caller's, or those of a Pod."""

from __future__ import annotations

import socket
from collections.abc import Mapping

from kubefunc.errors import ConfigurationError

CLEAN_ENV = "KUBEFUNC_LOCAL_CLEAN_ENV"
_TRUE = frozenset("1 true yes on".split())
_FALSE = frozenset("0 false no off".split())

# What a stock Python image sets too, and what a process needs to start at all on Windows and to find its files.
_KEPT = frozenset("PATH HOME TMPDIR TEMP TMP SYSTEMROOT SYSTEMDRIVE COMSPEC PATHEXT WINDIR USERPROFILE".split())


def function_environment(environ: Mapping[str, str], options_env: Mapping[str, str]) -> dict[str, str]:
    """The variables for a function: the caller's with those of ``env=``, or with ``KUBEFUNC_LOCAL_CLEAN_ENV=1`` the few
    that a Pod has as well, so that a function which needs a variable of the caller fails here as it does there.

    >>> caller = {"PATH": "/bin", "DB_PASSWORD": "x", "KUBEFUNC_LOCAL_CLEAN_ENV": "1"}
    >>> sorted(function_environment(caller, {"MODE": "fast"}))
    ['HOSTNAME', 'KUBEFUNC_LOCAL_CLEAN_ENV', 'LANG', 'MODE', 'PATH']

    Raises:
        ConfigurationError: the variable has another value.
    """
    if not _is_clean(environ.get(CLEAN_ENV, "")):
        return {**environ, **options_env}
    kept = {name: value for name, value in environ.items() if name in _KEPT or name.startswith("KUBEFUNC_")}
    return {"LANG": "C.UTF-8", "HOSTNAME": socket.gethostname(), **kept, **options_env}


def _is_clean(text: str) -> bool:
    wanted = text.strip().lower()
    if wanted and wanted not in _TRUE | _FALSE:
        raise ConfigurationError(f"{CLEAN_ENV}={text!r} is neither yes nor no: set it to 1, or unset it.")
    return wanted in _TRUE
