"""``kubefunc files``: what of a project is sent with a function, and why the rest stays here."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from kubefunc.cli.place import json_option
from kubefunc.cli.render import find_function
from kubefunc.cli.shown import print_json, visible
from kubefunc.packing.ignored import IGNORE_FILE
from kubefunc.sizes import size_text

if TYPE_CHECKING:
    from kubefunc.packing.packages.imports import Need
    from kubefunc.packing.project_files import LeftOut, Listing

_READ_AT_MOST: Final = 20  # times what may be sent: it is listed what is too much, but not the whole disk
_WHY: Final = {
    "key": "its name looks like that of a key",
    "link": "a link out of the project, or to a hidden file: {detail}",
    "unreadable": "it cannot be read: {detail}",
    "hidden": "its name begins with a dot",
    "cache": "a cache",
    "environment": "a virtual environment",
    "ignored": "{detail}",
}


@click.command()
@click.argument("function", metavar="MODULE:FUNCTION")
@json_option
def files(*, function: str, json_wanted: bool) -> None:
    """List the files that are sent with a function, and those that stay here. Nothing is sent.

    FUNCTION is one that @remote decorates; MODULE is as for `import`, or the path of a file. The exit code is 1 if it
    is more than may be sent.

    \b
    kubefunc files jobs:train
    kubefunc files jobs.py:train --json
    """
    from kubefunc.packing.code import MAX_CODE, ProjectCode
    from kubefunc.packing.payload import Packer, uncompressed
    from kubefunc.packing.project_files import Reason, check_size, list_files

    found = find_function(function).function
    packer = Packer(ProjectCode(limit=_READ_AT_MOST * MAX_CODE), uncompressed)
    listing = list_files(packer.units(found), frozenset(Reason))
    needed = list(Packer.for_cluster().pack(found).needs()) if size_of(listing) <= MAX_CODE else []
    if json_wanted:
        print_json(document(listing, needed, MAX_CODE))
    else:
        click.echo("\n".join(visible(line) for line in lines(listing, needed, MAX_CODE)))
    check_size(listing.files, MAX_CODE)


def size_of(listing: Listing) -> int:
    """Bytes of all that is sent."""
    return sum(file.size for file in listing.files)


def document(listing: Listing, needed: Sequence[Need], limit: int) -> dict[str, Any]:
    """For ``--json``."""
    return {
        "files": [{"name": each.name, "path": each.path, "size": each.size} for each in listing.files],
        "size": size_of(listing),
        "limit": limit,
        "left_out": [
            {"path": each.path, "reason": each.reason.value, "detail": each.detail} for each in listing.left_out
        ],
        "needed": [{"module": each.module, "why": each.why} for each in needed],
    }


def lines(listing: Listing, needed: Sequence[Need], limit: int) -> Iterator[str]:
    """For people."""
    count = "1 file" if len(listing.files) == 1 else f"{len(listing.files)} files"
    yield f"Sent to a cluster with each call: {count}, {size_text(size_of(listing))} of {size_text(limit)} at most."
    yield from table([(size_text(each.size), each.name) for each in listing.files], ">")
    if listing.left_out:
        yield "Stay here:"
        yield from table([(_below_here(each.path), _why(each)) for each in listing.left_out], "<")
    if needed:
        yield "Not sent, as they are no files of yours. The Pod must have:"
        yield from table([(each.module, each.why) for each in needed], "<")


def table(rows: Sequence[tuple[str, str]], side: str) -> Iterator[str]:
    """Two columns.

    >>> list(table([("1 byte", "a"), ("22 bytes", "b")], ">"))
    ['    1 byte  a', '  22 bytes  b']
    """
    width = max((len(first) for first, _ in rows), default=0)
    yield from (f"  {first:{side}{width}}  {second}" for first, second in rows)


def _why(each: LeftOut) -> str:
    why = _WHY[each.reason.value].format(detail=_below_here(each.detail))
    if each.reason.value not in ("key", "link", "hidden"):
        return why
    file = _below_here(os.path.join(each.project, IGNORE_FILE))
    return f"{why} (to send it, write !{os.path.basename(each.path)} into {file})"


def _below_here(path: str) -> str:
    """Without the current directory, if it is in there."""
    return path.removeprefix(os.getcwd() + os.sep)
