"""How long a script takes to its first result when an earlier run has left warm workers."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench.figures import Figure, at_most, spread
from tests.bench.on_cluster import Ground
from tests.conftest import ROOT

RUNS = 20
LIMIT = 0.35  # seconds
FILES = 300

# As a person writes it; its source stands in a file.
SCRIPT = """
from kubefunc import Pool, remote

@remote(pool=Pool(max_workers=1), verbose=False)
def double(x):
    return 2 * x

print(double.remote(21).result(90), flush=True)
"""


def second_start(ground: Ground) -> Iterator[Figure]:
    """From the interpreter's start to the first result; beside it, an interpreter that does nothing."""
    script = ground.space.kubeconfig.parent / "script.py"
    script.write_text(SCRIPT)
    first_result(ground.space.kubeconfig, script)  # starts the worker
    took, bare = [], []
    for _ in range(RUNS):
        took.append(first_result(ground.space.kubeconfig, script))
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        bare.append(time.perf_counter() - began)
    detail = f"{spread(took)}; `python -c pass` {1000 * statistics.median(bare):.0f} ms"
    yield at_most("second start of a script, to its first result, median", statistics.median(took), LIMIT, " s", detail)
    ground.space.clear()


def second_start_of_a_project(ground: Ground) -> Iterator[Figure]:
    """The same with a package of many files, as it was and with one of them edited, in turn."""
    place = ground.space.kubeconfig.parent / "project"
    write_package(place / "package", FILES)
    script = place / "script.py"
    script.write_text(SCRIPT.replace("x):", "x):\n    import package"))
    first_result(ground.space.kubeconfig, script)  # starts the worker
    same, edited = [], []
    for number in range(RUNS):
        same.append(first_result(ground.space.kubeconfig, script))
        (place / "package" / "part0.py").write_text(source_of(number))
        edited.append(first_result(ground.space.kubeconfig, script))
    size = sum(path.stat().st_size for path in place.rglob("*.py")) / 1e6
    title = f"second start of a script whose package has {FILES} files ({size:.1f} MB), to its first result"
    yield Figure(title, spread(same))
    yield Figure("the same, with one of the files edited", spread(edited))
    ground.space.clear()


def write_package(place: Path, files: int) -> None:
    """Modules of about 4 KB; each imports another one."""
    place.mkdir(parents=True)
    (place / "__init__.py").write_text("")
    for number in range(files):
        (place / f"part{number}.py").write_text(source_of(number))


def source_of(number: int) -> str:
    """A module like those that people write: imports, constants, functions."""
    lines = ["import json", f"from package import part{number + 1}", f"LIMITS = {list(range(number, number + 20))}"]
    for name in range(20):
        lines += [
            f"def step_{name}(rows, limit={number + name}):",
            f'    """Rows below the limit of step {name}, as text."""',
            "    kept = [row for row in rows if row < limit and row not in LIMITS]",
            "    return json.dumps({'rows': kept, 'left': len(rows) - len(kept)})",
        ]
    return "\n".join(lines) + "\n"


def first_result(kubeconfig: Path, script: Path) -> float:
    """Seconds from the start of the interpreter to the line with the result.

    As for anyone who has installed kubefunc, its modules are compiled once, not at each start.
    """
    environ = {
        **os.environ,
        "KUBECONFIG": str(kubeconfig),
        "PYTHONPATH": str(ROOT),
        "PYTHONPYCACHEPREFIX": str(script.parent / "compiled"),
    }
    environ.pop("PYTHONDONTWRITEBYTECODE", None)
    began = time.perf_counter()
    with subprocess.Popen([sys.executable, str(script)], env=environ, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        line = program.stdout.readline()
        took = time.perf_counter() - began
    if line != "42\n":
        raise RuntimeError(f"the script said {line!r}")
    return took


ROWS = {"pool-second": second_start, "pool-project": second_start_of_a_project}
