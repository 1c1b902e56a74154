"""Numbers of bytes, for people."""

from __future__ import annotations


def size_text(size: int) -> str:
    """The size in the unit that fits.

    >>> [size_text(size) for size in (1, 700, 4_600, 52_428_800, 3_000_000_000)]
    ['1 byte', '700 bytes', '4.5 KiB', '50.0 MiB', '2.8 GiB']
    """
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= unit:
            return f"{size / unit:,.1f} {name}"
    return "1 byte" if size == 1 else f"{size} bytes"
