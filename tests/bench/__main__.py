"""``python -m tests.bench [PAIRS]``: measure all figures, print them, write docs/benchmarks.md."""

from __future__ import annotations

import datetime
import os
import platform
import sys
import tempfile
from pathlib import Path

from tests.bench import on_cluster, on_this_machine
from tests.bench.figures import Figure, table
from tests.cluster.cluster import down, up
from tests.cluster.spaces import make_space

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"
MARK = "<!-- measured -->"


def main() -> None:
    """Local figures first; then those of a cluster that lives for this run."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    figures = [*on_this_machine.all_figures(20), *_on_cluster(count)]
    measured = f"{MARK}\n{_about()}\n\n{table(figures)}\n"
    print(measured)
    head = PAGE.read_text().partition(MARK)[0] if PAGE.exists() else "# Benchmarks\n\n"
    PAGE.write_text(head + measured)


def _on_cluster(count: int) -> list[Figure]:
    cluster = up(f"bench-{os.getpid()}", os.getpid())
    try:
        with tempfile.TemporaryDirectory() as directory:
            space = make_space(cluster.admin, Path(directory))
            os.environ.update(KUBECONFIG=str(space.kubeconfig), KUBEFUNC_BACKEND="kubernetes")
            return list(on_cluster.all_figures(cluster, space, count))
    finally:
        down(cluster)


def _about() -> str:
    day = datetime.date.today().isoformat()
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}, Kubernetes 1.34"
    return f"Measured {day} by `nox -s bench`, {machine}."


if __name__ == "__main__":
    main()
