"""``python -m kubefunc`` is the command ``kubefunc``."""

from __future__ import annotations

from kubefunc.cli import main

main(prog_name="kubefunc")
