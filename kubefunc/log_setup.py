"""The caller's set-up of ``logging``, as functions are told of it: level and format of the root logger."""

from __future__ import annotations

import logging
import sys
from typing import Any

_PLAIN = logging.Formatter(logging.BASIC_FORMAT)


def log_setup() -> dict[str, Any] | None:
    """What a function's process needs to log as this one does; None where logging is not set up here.

    A handler with a formatter of a class of its own, or whose format needs what only this program gives to records,
    counts with its level; the format is that of ``logging.basicConfig()`` then.
    """
    root = logging.getLogger()
    if not root.handlers:
        return None
    handler = next(filter(_writes_to_console, root.handlers), root.handlers[0])
    formatter = handler.formatter or _PLAIN
    if type(formatter) is not logging.Formatter or not _formats_any_record(formatter):
        formatter = _PLAIN
    return {
        "level": max(root.level, handler.level),
        "format": formatter._fmt,
        "datefmt": formatter.datefmt,
        "style": {"StrFormatStyle": "{", "StringTemplateStyle": "$"}.get(type(formatter._style).__name__, "%"),
    }


def _writes_to_console(handler: logging.Handler) -> bool:
    return isinstance(handler, logging.StreamHandler) and handler.stream in (sys.stderr, sys.__stderr__, sys.stdout)


def _formats_any_record(formatter: logging.Formatter) -> bool:
    record = logging.LogRecord("name", logging.INFO, __file__, 1, "message", (), None)
    try:
        formatter.format(record)
    except Exception:  # noqa: BLE001 - a field that a filter or a record factory of this program adds
        return False
    return True
