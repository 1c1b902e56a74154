"""A module of the caller's project that needs a package which a stock image does not have."""

from __future__ import annotations

import click

from kubefunc import remote


@remote
def style(text: str) -> str:
    """Uses it."""
    return click.style(text, bold=True)
