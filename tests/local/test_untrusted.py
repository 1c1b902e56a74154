"""Functions with ``untrusted=True``, run for real: on this machine's backend, and as the programs of a Pod."""

from __future__ import annotations

import hmac
import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kubefunc
from kubefunc import errors, remote
from kubefunc.runner import EXIT_TERMINATED, EXIT_VALUE, READER_NOTHING
from tests.local.pod import Pod

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Pods are Linux")


# -- on this machine


@remote(untrusted=True)
def summary(numbers: list[float]) -> dict[str, Any]:
    """Plain data, and a line with an escape sequence."""
    print("\x1b[2Jdone")
    return {"sum": sum(numbers), "range": (min(numbers), max(numbers))}


@remote(untrusted=True)
def fails(text: str) -> None:
    """Its exception's class is not to be had in JSON."""
    raise LookupError(text)


@remote(untrusted=True)
def odd() -> object:
    """JSON has no sets."""
    return {"rows": [{1, 2}]}


def test_values_travel_as_json(forked: None) -> None:
    """Tuples become lists; what was printed cannot move the cursor, and logs() is the same text."""
    call = summary.remote([1.5, 2.5])
    assert call.result(60) == {"sum": 4.0, "range": [1.5, 2.5]}
    assert call.logs() == "\\x1b[2Jdone\n"
    assert summary.map([[1.0], [2.0, 3.0]]).result(60) == [
        {"sum": 1.0, "range": [1.0, 1.0]},
        {"sum": 5.0, "range": [2.0, 3.0]},
    ]


def test_exceptions_travel_as_text(forked: None) -> None:
    """Type, text and traceback; they are retried as any other."""
    error = fails.options(retries=1).remote("no such station").exception(60)
    assert isinstance(error, errors.RemoteError)
    assert (error.type_name, error.text) == ("LookupError", "no such station")
    assert "in fails" in error.traceback
    assert "in fails" in str(error.__cause__)


def test_a_value_that_json_lacks_is_told_with_its_path(forked: None) -> None:
    """The function's process finds it out."""
    with pytest.raises(errors.SerializationError, match=r"result\['rows'\]\[0\] is of type set"):
        odd.remote().result(60)


PROGRAM = """
from kubefunc import remote

@remote(untrusted=True)
def one():
    return 1

print(one.remote().result(), one.remote().result())
"""


def test_one_line_says_what_this_machine_does_not_protect(clean_env: dict[str, str]) -> None:
    """At the first such call of a program."""
    ran = subprocess.run([sys.executable, "-c", PROGRAM], env=clean_env, capture_output=True, text=True, timeout=60)
    assert ran.stdout == "1 1\n"
    said = [line for line in ran.stderr.splitlines() if "untrusted=True on this machine" in line]
    assert len(said) == 1
    assert "runs as your user" in said[0]


def test_an_executor_here_would_share_processes(forked: None) -> None:
    """So it is refused, with what to do instead."""
    with (
        kubefunc.Executor(untrusted=True) as executor,
        pytest.raises(errors.ConfigurationError, match=r"share processes.*f\.remote\(\)"),
    ):
        executor.submit(abs, -1)


def test_items_of_a_map_share_no_chunk(forked: None) -> None:
    """A chunk is one process in one Pod, and an item could change what the next one gets."""
    with pytest.raises(errors.ConfigurationError, match="chunksize=10 lets items share a process"):
        summary.map([[1.0]], chunksize=10)
    assert summary.map([[1.0]], chunksize=1).result(60)[0]["sum"] == 1.0


# -- a function that tampers with the files of its Pod


def tampering(what: str, out_dir: str) -> Callable[[], object]:
    """A function that puts something else in the place of what main, courier and client agree by."""

    def function() -> object:
        out = Path(out_dir)

        def replace(name: str) -> Path:
            (out / name).unlink(missing_ok=True)
            return out / name

        if what == "lock is a pipe":
            os.mkfifo(replace("lock"))
        elif what == "no lock":
            replace("lock")
        elif what == "alive in the future":
            os.utime(out / "alive", (4e9, 4e9))
        elif what == "readers is a link":
            (out / "readers").symlink_to(out / "elsewhere")
        elif what == "acknowledged":
            (out / "ack").touch()
        elif what == "claims to be inline":
            (out / "inline").touch()
        elif what == "body is a link":
            replace("body").symlink_to("/etc/passwd")
        return 7

    return function


PLACES = [
    *("lock is a pipe", "no lock", "alive in the future", "readers is a link", "acknowledged", "claims to be inline"),
    "body is a link",
]


@pytest.mark.parametrize("what", PLACES)
def test_tampering_keeps_no_pod_from_ending(tmp_path: Path, what: str) -> None:
    """Main ends with its result, and the courier after it: at worst the call loses its own result."""
    out = tmp_path / "out"
    pod = Pod(tmp_path, tampering(what, str(out)), untrusted=True, fetch_grace=0.0)
    assert pod.run("main")[0] == EXIT_VALUE
    assert json.loads(bytes(pod.result().body)) == 7
    began = time.monotonic()
    code, _ = pod.run("courier")
    assert time.monotonic() - began < 30
    assert code == (0 if what != "readers is a link" else code)


@pytest.mark.parametrize("kind", ["pipe", "link", "device"])
def test_what_stands_for_a_result_must_be_a_file(tmp_path: Path, kind: str) -> None:
    """A pipe would hold a reader for ever, a link would show a file of the courier's container."""
    pod = Pod(tmp_path, lambda: 7, untrusted=True, fetch_grace=0.0)
    assert pod.run("main")[0] == EXIT_VALUE
    result = pod.out_dir / "result"
    result.unlink()
    if kind == "pipe":
        os.mkfifo(result)
    else:
        result.symlink_to(pod.in_dir / "key" if kind == "link" else "/dev/zero")
    (pod.out_dir / "inline").unlink(missing_ok=True)
    assert pod.run("reader", "0") == (0, READER_NOTHING)
    assert b"kubefunc:log" not in pod.run("courier")[1]


def test_a_function_that_ends_its_supervisor_leaves_no_result(tmp_path: Path) -> None:
    """And no courier that waits for one, though it has set the time of ``alive`` to a day to come."""
    out = str(tmp_path / "out")

    def function() -> None:
        os.utime(f"{out}/alive", (4e9, 4e9))
        os.kill(os.getppid(), 15)
        time.sleep(30)

    pod = Pod(tmp_path, function, untrusted=True)
    assert pod.run("main")[0] == EXIT_TERMINATED
    assert pod.run("courier")[0] == 0
    assert pod.run("reader", "0")[1].endswith(READER_NOTHING)


def test_a_function_can_sign_what_it_likes_in_its_pod(tmp_path: Path) -> None:
    """The key lies in its container: this is the attack, written out, that unpickling would fall to."""
    in_dir, out_dir = str(tmp_path / "in"), str(tmp_path / "out")
    owned = tmp_path / "owned"

    class Exploit:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(owned),)

    def function() -> None:
        import hashlib

        body = pickle.dumps(Exploit())
        header = json.dumps(
            {
                "call": "f-abcdefgh",
                "outcome": "value",
                "size": len(body),
                "printed": 0,
                "sha256": hashlib.sha256(body).hexdigest(),
            }
        ).encode()
        key = Path(in_dir, "key").read_bytes()
        mac = hmac.new(key, hashlib.sha256(header).digest(), "sha256").digest()
        Path(out_dir, "result").write_bytes(body + header + len(header).to_bytes(4, "big") + mac + b"KFE1")
        os.kill(os.getppid(), 9)  # only here: in a Pod it is the first process, which ignores that

    pod = Pod(tmp_path, function, untrusted=True)
    pod.run("main")
    envelope = pod.result()  # the signature is right
    from kubefunc import untrusted
    from kubefunc.diagnosis import Diagnosis
    from kubefunc.envelope import Raised

    ended = untrusted.outcome(envelope, Diagnosis("", ""))
    assert isinstance(ended, Raised)
    assert not owned.exists()
    pickle.loads(bytes(envelope.body))
    assert owned.exists()
