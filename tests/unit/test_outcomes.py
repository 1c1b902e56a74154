"""How an envelope's content is told to the caller."""

from __future__ import annotations

import sys

import cloudpickle
import pytest

from kubefunc import errors
from kubefunc.diagnosis import Diagnosis
from kubefunc.envelope import Raised, outcome, verify
from kubefunc.reading.failures import own_frames
from kubefunc.runner import CODE_OOM, CODE_TIMEOUT, RAISED
from kubefunc.runner.execution.causes import missing_here
from kubefunc.runner.execution.exceptions import encode
from kubefunc.runner.protocol import wire
from tests.unit.by_hand import KEY, error_envelope

STACKS = """\
Timeout (0:00:02)!
Thread 0x00007f8b6485e2c0 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 320 in wait
  File "/tmp/kubefunc-f-abcdefgh/project/jobs.py", line 155 in stuck_here
  File "kubefunc.pyz/kubefunc/runner/execution/child.py", line 179 in invoke
  File "/home/me/.cache/kubefunc/kubefunc.pyz/kubefunc/runner/__main__.py", line 18 in main
  File "<frozen runpy>", line 88 in _run_code
"""


def told(diagnosis: Diagnosis, error: BaseException) -> BaseException:
    """What the caller gets of an exception that the function raised."""
    nodes, body = encode(error, cloudpickle.dumps)
    header = {
        "outcome": RAISED,
        "nodes": nodes,
        "missing": missing_here(error),
        "traceback": "",
        "call": "f-abcdefgh",
        "printed": 0,
        "attempts": 1,
    }
    ended = outcome(verify(wire.seal(header, body, KEY), KEY, "f-abcdefgh"), diagnosis)
    assert isinstance(ended, Raised)
    return ended.error


def test_stacks_end_where_the_function_begins() -> None:
    """The runner's frames, on a cluster or on this machine, tell a user nothing."""
    assert own_frames(STACKS).splitlines() == STACKS.splitlines()[1:4]


def test_a_timeout_shows_the_stacks_below_the_advice() -> None:
    """The message as in the diagnosis, then where the function stood."""
    ended = outcome(error_envelope(CODE_TIMEOUT, {"timeout": 2.0, "stacks": STACKS}), Diagnosis("", ""))
    assert isinstance(ended, Raised)
    assert isinstance(ended.error, errors.CallTimeoutError)
    assert str(ended.error).startswith(f"{ended.error.diagnosis}\n\nThread 0x")
    assert "runner" not in str(ended.error)


def test_out_of_memory_is_a_signal_too() -> None:
    """The kernel's killer sends SIGKILL."""
    ended = outcome(error_envelope(CODE_OOM, {"limit": 2**26}), Diagnosis("", ""))
    assert isinstance(ended, Raised)
    assert isinstance(ended.error, errors.OutOfMemoryError)
    assert ended.error.diagnosis is not None
    assert ended.error.diagnosis.signal == 9
    assert "64 MiB" in str(ended.error)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 shows no notes")
def test_a_module_that_the_image_lacks() -> None:
    """The function's own exception, with the ways out as a note; on this machine there is no image to change."""
    missing = ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn")
    (note,) = told(Diagnosis("", "", namespace="team"), missing).__notes__
    assert "'torch'" in note
    assert "image=" in note
    assert not hasattr(told(Diagnosis("", ""), missing), "__notes__")
