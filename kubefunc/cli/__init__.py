"""The command ``kubefunc``: one file for each group of commands. Only this package touches click."""

from __future__ import annotations

from kubefunc.cli.commands import main

__all__ = ["main"]
