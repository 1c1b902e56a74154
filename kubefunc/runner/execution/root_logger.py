"""``logging`` in the process of a call."""

from __future__ import annotations

import logging

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


def set_up(wanted: Mapping[str, Any]) -> None:
    """As it was set up for the caller; ``sys.stderr`` is looked up at each record, for a function may replace it."""
    handler = logging._StderrHandler()  # type: ignore[attr-defined]
    handler.setFormatter(logging.Formatter(wanted["format"], wanted["datefmt"], wanted["style"]))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(wanted["level"])
