"""Options that most functions need not set: whom to trust, and further fields of the Job and its Pod."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from kubefunc.options.option import SWITCH, Group, Unset, option


class AdvancedChanges(TypedDict, total=False):
    """What these options accept."""

    untrusted: bool | Unset


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class Advanced(Group):
    """Whom to trust, and further fields of the Job and its Pod."""

    untrusted: bool = option(False, SWITCH)
    """Run a function that you do not trust: generated code, or other people's.

    Results travel as JSON and exceptions as text (``errors.RemoteError``). Your program unpickles nothing that the
    function sends. The Pod gets no token, a read-only file system and a user namespace of its own. Each item of a map
    has its own Pod.

    Default: False, so that a function may return any Python object.
    Local: results travel in the same way, but the function runs as your user on this machine.
    """
