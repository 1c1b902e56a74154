"""What a call leaves running ends before the next call, and costs nothing where it leaves nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

_PROGRAM = """
import os, signal, sys, time
from kubefunc.runner.execution import orphans

orphans.become_subreaper()
leaves = sys.argv[1]
said, say = os.pipe()
call = os.fork()
if call == 0:
    if leaves != "nobody":
        def stay():
            if os.fork() == 0:
                time.sleep(60)
        if leaves == "of a thread":
            import threading
            threading.Thread(target=lambda: (stay(), time.sleep(60)), daemon=True).start()
            time.sleep(0.2)
        else:
            stay()
    os.write(say, b".")
    time.sleep(60)
os.read(said, 1)
orphans.kill_orphans(keep=set(), ended=call)
print(*["call" if each == call else "orphan" for each in orphans.children()], sep=",")
"""


def _left_after(leaves: str) -> str:
    """Who is there when what the call has left was killed."""
    program = [sys.executable, "-c", _PROGRAM, leaves]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        try:
            return process.stdout.readline().strip()
        finally:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.skipif(sys.platform != "linux", reason="other kernels do not tell the children of a process")
@pytest.mark.parametrize(
    ("leaves", "left"),
    [("nobody", "call"), ("a child", ""), ("of a thread", "")],
)
def test_only_a_process_that_leaves_nobody_is_not_waited_for(leaves: str, left: str) -> None:
    """It ends by itself, and the next call may begin. With what others leave, they end at once."""
    assert _left_after(leaves) == left
