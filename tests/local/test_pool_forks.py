"""A forked child has its parent's calls in a pool in its memory. Whatever it does with them, they go on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

_PROGRAM = """
import os, sys, time
from kubefunc import Pool, current, remote, testing

def slow(marks):
    with open(marks, "a") as file:
        file.write("run ")
    time.sleep(1.0)
    return current.disruptions()

def count(to):
    for number in range(to):
        time.sleep(0.1)
        yield number

def in_child(work):
    child = os.fork()
    if child == 0:
        work()
        time.sleep(0.2)
        os._exit(0)
    os.waitpid(child, 0)

with testing.cluster(), Pool(max_workers=1, share=False) as pool:
    call = remote(slow, pool=pool).remote(sys.argv[1])
    while not os.path.exists(sys.argv[1]):
        time.sleep(0.01)
    in_child(call.cancel)
    print(call.result(30), open(sys.argv[1]).read())
    values = remote(count, pool=pool).remote(5)
    first = next(values)
    in_child(values.close)
    print(first, *values)
"""


def test_what_a_forked_child_cancels_goes_on_in_its_parent(tmp_path: Path) -> None:
    """Nothing is written to the streams of the parent: neither of a call nor of a generator function."""
    script = tmp_path / "program.py"
    script.write_text(_PROGRAM)
    command = [sys.executable, str(script), str(tmp_path / "marks")]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == ["0 run ", "0 1 2 3 4"], done.stderr
