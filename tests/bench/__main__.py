"""``python -m tests.bench [KIND | ROW ...] [--pairs N] [--write]``: measure, print, write down.

``local``, ``cluster``, ``pool``, ``packages`` and ``soak`` are all rows of that kind; without a word, all of them.
``--write`` puts what was measured into docs/benchmarks.md, in place of what stood there of its kind; so it takes whole
kinds only.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.bench import (
    against_others,
    many_workers,
    maps_on_cluster,
    on_cluster,
    on_this_machine,
    packages,
    second_start,
    soak,
    warm,
    warm_bytes,
)
from tests.bench.figures import HEAD, Figure, row
from tests.cluster.cluster import down, up
from tests.cluster.spaces import make_space

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"
ON_CLUSTER = {
    **on_cluster.ROWS,
    **maps_on_cluster.ROWS,
    **warm.ROWS,
    **warm_bytes.ROWS,
    **against_others.ROWS,
    **many_workers.ROWS,
    **second_start.ROWS,
    **packages.ROWS,
    **soak.ROWS,
}
KINDS = {
    "local": tuple(on_this_machine.ROWS),
    "cluster": (*on_cluster.ROWS, *maps_on_cluster.ROWS),
    "pool": (*warm.ROWS, *warm_bytes.ROWS, *against_others.ROWS, *many_workers.ROWS, *second_start.ROWS),
    "packages": tuple(packages.ROWS),
    "soak": tuple(soak.ROWS),
}


def main() -> None:
    """Measure what was asked for, kind by kind."""
    words = " ".join((*KINDS, *(name for names in KINDS.values() for name in names)))
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=f"Rows: {words}.")
    parser.add_argument("what", nargs="*", help="rows or kinds; none: all")
    parser.add_argument("--pairs", type=int, default=100, help="of a cluster call and a bare Job (default: 100)")
    parser.add_argument("--write", action="store_true", help="into docs/benchmarks.md")
    asked = parser.parse_args()
    # Scripts are measured as people run them: compiled once, not each time.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if unknown := set(asked.what) - set(words.split()):
        parser.error(f"no such rows: {' '.join(sorted(unknown))}; there are {words}")
    for kind, names in KINDS.items():
        wanted = [name for name in names if not asked.what or {kind, name} & set(asked.what)]
        if not wanted:
            continue
        if asked.write and len(wanted) < len(names):
            parser.error(f"--write wants all of {kind}, not {' '.join(wanted)} alone")
        begun = about(kind, asked.pairs)
        print(f"{begun}\n\n{HEAD}", flush=True)
        figures = list(measured(kind, wanted, asked.pairs))
        if asked.write:
            PAGE.write_text(with_figures(PAGE.read_text(), kind, f"{begun}\n\n{table(figures)}"))


def measured(kind: str, names: Sequence[str], pairs: int) -> Iterator[Figure]:
    """The figures, each printed as soon as it is known."""
    measure = _local if kind == "local" else _on_cluster
    for figure in measure(names, pairs):
        print(row(figure), flush=True)
        yield figure


def _local(names: Sequence[str], _: int) -> Iterator[Figure]:
    for name in names:
        yield from on_this_machine.ROWS[name]()


def _on_cluster(names: Sequence[str], pairs: int) -> Iterator[Figure]:
    """On a cluster that lives for this run: it ends when the pipe closes, however this process ends."""
    reading_end, owner = os.pipe()
    cluster = up(f"bench-{os.getpid()}", reading_end)
    try:
        with tempfile.TemporaryDirectory() as directory:
            ground = on_cluster.Ground(cluster, make_space(cluster.admin, Path(directory)), pairs)
            for name in names:
                yield from ON_CLUSTER[name](ground)
    finally:
        down(cluster)
        os.close(reading_end)
        os.close(owner)


def table(figures: Sequence[Figure]) -> str:
    """The figures as a Markdown table."""
    return "\n".join([HEAD, *map(row, figures)])


def about(kind: str, pairs: int) -> str:
    """When, by what command and on what it was measured."""
    command = f"nox -s bench -- {kind}" + (f" --pairs {pairs}" if kind == "cluster" else "")
    cluster = "" if kind == "local" else ", Kubernetes 1.34 on the same machine"
    what = f"{os.cpu_count()} cores, {sys.platform}, Python {platform.python_version()}{cluster}"
    load = f"load {os.getloadavg()[0]:.1f} at the start"
    return f"`{command}`, {datetime.date.today().isoformat()}: {what}; {load}."


def with_figures(page: str, kind: str, figures: str) -> str:
    """The page with these figures between the marks of their kind."""
    marked = re.compile(rf"(<!-- {kind} figures -->\n).*?(<!-- end -->)", re.DOTALL)
    if not marked.search(page):
        raise ValueError(f"{PAGE.name} has no place for {kind} figures")
    return marked.sub(lambda found: f"{found[1]}\n{figures}\n\n{found[2]}", page)


if __name__ == "__main__":
    main()
