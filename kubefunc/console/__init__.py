"""What a person sees on ``sys.stderr``: kubefunc's own lines, what functions print, and one live line below it."""

from __future__ import annotations

from kubefunc.console.printing import Console, Printer, Silent
from kubefunc.console.terminal import cells, fit
from kubefunc.console.unfinished import LINE_LIMIT

__all__ = ["LINE_LIMIT", "Console", "Printer", "Silent", "cells", "fit"]
