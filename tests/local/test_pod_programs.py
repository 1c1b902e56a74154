"""The programs of a Pod as processes: main, courier, reader and uploader, and the files by which they know of each
other.
"""

from __future__ import annotations

import asyncio
import atexit
import base64
import contextlib
import functools
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

from kubefunc import current
from kubefunc.backends.kubernetes.api.transfer import Intake, ResultBuffer
from kubefunc.envelope import verify
from kubefunc.runner import (
    EXIT_COURIER_TERMINATED,
    EXIT_RAISED,
    EXIT_TERMINATED,
    EXIT_VALUE,
    LOG_HEAD,
    LOG_TAIL,
    TERMINATION_SIZE,
    TERMINATION_UNFETCHED,
)
from kubefunc.runner.protocol import pipes, wire
from tests.local.pod import CALL, KEY, WITHIN, Pod, ended_while_loaded, until, written
from tests.local.programs import alive

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Pods are Linux")

Made = Callable[..., Pod]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """Makes this test's Pod."""
    return lambda function, **spec: Pod(tmp_path, function, **spec)


def large() -> bytes:
    """More than a termination message holds."""
    return bytes(range(256)) * 1200


def seven() -> int:
    """A small value."""
    return 7


def ends(process: subprocess.Popen[bytes]) -> int:
    """The exit code, once it has ended."""
    code = process.wait(WITHIN)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None and not pipe.closed:
            pipe.close()
    return code


def pipe(end: IO[bytes] | None) -> IO[bytes]:
    """A pipe that is there."""
    assert end is not None
    return end


def waiting_for(tmp_path: Path) -> Callable[[], int]:
    """A function that says that it runs and then waits for the file ``go``."""
    running, go = str(tmp_path / "running"), str(tmp_path / "go")

    def function() -> int:
        Path(running).touch()
        while not Path(go).exists():
            time.sleep(0.01)
        return 7

    return function


# -- main


def test_a_small_value_stands_in_the_termination_message(made: Made) -> None:
    """And in the file; both are the same call's, and ``inline`` says that the message is enough."""
    pod = made(seven)
    assert pod.run("main") == (EXIT_VALUE, b"")
    inside = wire.from_termination_text(pod.message.read_text())
    assert inside is not None
    assert pickle.loads(verify(inside, KEY, CALL).body) == pickle.loads(pod.result().body) == 7
    assert pod.has("inline")
    assert not pod.is_locked()
    assert oct((pod.out_dir / "result").stat().st_mode)[-3:] == "644"


@pytest.mark.parametrize("spec", [{}, {"inline": False}], ids=["large", "not wanted"])
def test_otherwise_the_message_tells_size_and_digest(made: Made, spec: dict[str, bool]) -> None:
    """A large value, or one that may not stand in the Pod's status."""
    pod = made(large if not spec else seven, **spec)
    assert pod.run("main")[0] == EXIT_VALUE
    header = pod.result().header
    assert pod.message.read_text() == f"{TERMINATION_SIZE}{header['size']}:sha256:{header['sha256']}"
    assert not pod.has("inline")


def test_what_raises_or_dies_leaves_a_result_too(made: Made) -> None:
    """Exit code 64, which tells the Job that no other Pod would do better."""
    pod = made(lambda: os._exit(3))
    assert pod.run("main")[0] == EXIT_RAISED
    assert pod.result().header["detail"] == {"exit_code": 3}


def test_a_function_that_has_used_up_all_descriptors(made: Made) -> None:
    """Its own exception is told, though nothing can be loaded any more that would tell more of it."""

    def leak() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        held = []
        while True:
            held.append(os.open(os.devnull, os.O_RDONLY))

    pod = made(leak)
    assert pod.run("main")[0] == EXIT_RAISED
    header = pod.result().header
    assert header["nodes"][0]["type"] == "OSError"
    assert "Too many open files" in header["traceback"]


def test_output_is_passed_on_and_counted(made: Made) -> None:
    """To the container's log; the envelope knows how much it was and has the end of it."""
    pod = made(lambda: print("x" * 20_000))
    code, printed = pod.run("main")
    assert (code, len(printed)) == (EXIT_VALUE, 20_001)
    envelope = pod.result()
    assert envelope.printed == 20_001
    assert envelope.output == printed[-16 * 1024 :]


def test_the_lock_appears_held_and_is_freed_with_the_result(made: Made, tmp_path: Path) -> None:
    """It exists: main has started. It is free: main has ended. ``alive`` is touched meanwhile."""
    pod = made(waiting_for(tmp_path))
    main = pod.start("main")
    until(lambda: pod.has("lock"), "the lock")
    assert pod.is_locked()
    until((tmp_path / "running").exists, "the function")
    touched = (pod.out_dir / "alive").stat().st_mtime_ns
    until(lambda: (pod.out_dir / "alive").stat().st_mtime_ns > touched, "a newer alive")
    assert not pod.has("result")
    assert pod.is_locked()
    (tmp_path / "go").touch()
    assert ends(main) == EXIT_VALUE
    assert not pod.is_locked()
    assert pod.has("result")


def test_another_python_is_told_before_anything_is_unpickled(made: Made) -> None:
    """The image's Python must be the caller's."""
    pod = made(seven, python="2.7")
    pod.write("payload", b"not even looked at")
    assert pod.run("main")[0] == EXIT_RAISED
    assert pod.result().header["code"] == "python"


@pytest.mark.parametrize("change", ["cut", "bit"])
def test_a_damaged_payload_is_not_unpickled(made: Made, change: str) -> None:
    """The call ends with an error that says so."""
    pod = made(seven)
    data = bytearray(pod.payload)
    data[-3] ^= 4
    pod.write("payload", bytes(data) if change == "bit" else pod.payload[:-3])
    assert pod.run("main")[0] == EXIT_RAISED
    header = pod.result().header
    assert header["code"] == "load"
    assert "WireError" in header["nodes"][0]["type"]


def test_shards_of_a_payload_are_joined(made: Made) -> None:
    """In the order of their numbers, also beyond nine."""
    pod = made(seven)
    (pod.in_dir / "payload").unlink()
    step = len(pod.payload) // 11 + 1
    for number in range(11):
        pod.write(f"payload.{number}", pod.payload[number * step : (number + 1) * step])
    assert pod.run("main")[0] == EXIT_VALUE


# -- SIGTERM, in each phase of main


@pytest.mark.parametrize(("program", "code"), [("main", EXIT_TERMINATED), ("courier", 0)])
def test_sigterm_while_the_program_is_loaded(made: Made, tmp_path: Path, program: str, code: int) -> None:
    """It waits for the handler: dropped, it would leave the Pod to its grace period. No function is begun then."""
    pod = made(waiting_for(tmp_path), pull_allowance=600.0)
    pod.environ.update(ended_while_loaded(tmp_path))
    assert ends(pod.start(program)) == code
    assert not (tmp_path / "forked").exists()
    assert not (tmp_path / "running").exists()
    assert not pod.has("result")


def test_the_courier_passes_on_a_sigterm_that_main_has_missed(made: Made, tmp_path: Path) -> None:
    """A container's first process misses one that comes while its Python starts. The Pod ends all the same, soon: a
    function that runs is told, once; one that was not begun is not.
    """
    said = tmp_path / "said"

    def function() -> None:
        def told(*_: object) -> None:
            with said.open("a") as file:
                file.write("told ")

        signal.signal(signal.SIGTERM, told)
        said.write_text("runs ")
        time.sleep(5)
        sys.exit(0)

    pod = made(function)
    courier, main = pod.start("courier"), pod.start("main")
    until(written(said), "the function")
    until(lambda: pod.has("readers"), "the courier")
    courier.send_signal(signal.SIGTERM)
    assert ends(main) == EXIT_TERMINATED
    assert ends(courier) == 0
    assert said.read_text() == "runs told "
    assert ends(pod.start("main")) == EXIT_TERMINATED  # as one that starts only now
    assert said.read_text() == "runs told "


def test_sigterm_while_the_function_runs(made: Made, tmp_path: Path) -> None:
    """The function gets it; without a result main ends with 143, and nobody waits for ``alive`` to grow old."""
    pod = made(waiting_for(tmp_path))
    main = pod.start("main")
    until((tmp_path / "running").exists, "the function")
    main.send_signal(signal.SIGTERM)
    assert ends(main) == EXIT_TERMINATED
    assert not pod.has("result")
    assert not pod.has("alive")
    assert not pod.is_locked()


def test_sigterm_that_the_function_takes_as_a_sign_to_save_its_work(made: Made, tmp_path: Path) -> None:
    """What it returns then counts."""
    running = str(tmp_path / "running")

    def function() -> str:
        stop: list[int] = []
        signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
        Path(running).touch()
        while not stop:
            time.sleep(0.01)
        return "saved"

    pod = made(function)
    main = pod.start("main")
    until((tmp_path / "running").exists, "the function")
    main.send_signal(signal.SIGTERM)
    assert ends(main) == EXIT_VALUE
    assert pickle.loads(pod.result().body) == "saved"


def test_sigterm_between_two_attempts(made: Made, tmp_path: Path) -> None:
    """No new one is begun here: it is due, so the Pod that replaces this one begins it."""
    log = tmp_path / "attempts"

    def function() -> None:
        with log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        raise OSError("this time")

    pod = made(function, retries=3, backoff=[600.0, 1.0, 600.0])
    main = pod.start("main")
    until(lambda: log.exists() and log.read_text().endswith("\n"), "the first attempt")
    until(lambda: not alive(int(log.read_text())), "its end")
    main.send_signal(signal.SIGTERM)
    assert ends(main) == EXIT_TERMINATED
    assert not pod.has("result")
    assert len(log.read_text().split()) == 1


def test_at_sigterm_finally_blocks_and_exit_handlers_run(made: Made, tmp_path: Path) -> None:
    """Without a handler of the function's own: it is stopped by an exception, as Ctrl-C does it."""
    said = tmp_path / "said"

    def function() -> None:
        def say(word: str) -> None:
            with said.open("a") as file:
                file.write(f"{word} ")

        atexit.register(say, "exit")
        try:
            say("running")
            time.sleep(600)
        except ValueError:
            say("caught")
        finally:
            say("finally")

    pod = made(function)
    main = pod.start("main")
    until(written(said), "the function")
    main.send_signal(signal.SIGTERM)
    assert ends(main) == EXIT_TERMINATED
    assert said.read_text() == "running finally exit "
    assert not pod.has("result")


def test_at_sigterm_a_coroutine_is_cancelled(made: Made, tmp_path: Path) -> None:
    """Its ``finally:`` blocks may await."""
    said = tmp_path / "said"

    async def function() -> None:
        try:
            said.touch()
            await asyncio.sleep(600)
        finally:
            await asyncio.sleep(0.01)
            said.write_text("tidy")

    pod = made(function)
    main = pod.start("main")
    until(said.exists, "the function")
    main.send_signal(signal.SIGTERM)
    assert ends(main) == EXIT_TERMINATED
    assert said.read_text() == "tidy"


def exits_in_a_handler(running: Path) -> None:
    """The usual way to save one's work."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    running.touch()
    time.sleep(600)


def fails_with_its_child(running: Path) -> None:
    """What it has started gets SIGTERM, too."""
    signal.signal(signal.SIGTERM, lambda *_: None)
    running.touch()
    subprocess.run(["sleep", "600"], check=True)


@pytest.mark.parametrize("function", [exits_in_a_handler, fails_with_its_child])
def test_what_follows_from_sigterm_is_no_failure(function: Callable[[Path], None], made: Made, tmp_path: Path) -> None:
    """An exit or an error after SIGTERM is no result: the function runs again in another Pod, not counted."""
    pod = made(functools.partial(function, tmp_path / "running"), retries=0)
    main = pod.start("main")
    until((tmp_path / "running").exists, "the function")
    time.sleep(0.2)  # until sleep(1) runs
    main.send_signal(signal.SIGTERM)
    assert ends(main) == EXIT_TERMINATED
    assert not pod.has("result")


def test_a_function_that_outlives_sigterm(made: Made, tmp_path: Path) -> None:
    """It is killed before the kubelet's grace period ends, so that the exit code says: ended from outside."""
    running = str(tmp_path / "running")

    def function() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        Path(running).touch()
        time.sleep(600)

    pod = made(function)
    pod.environ["KUBEFUNC_STOP_GRACE"] = "2"
    main = pod.start("main")
    until((tmp_path / "running").exists, "the function")
    began = time.monotonic()
    main.send_signal(signal.SIGTERM)
    assert ends(main) == EXIT_TERMINATED
    assert time.monotonic() - began >= 1.0


def test_attempts_are_counted_on_from_those_of_an_earlier_job(made: Made) -> None:
    """``current.attempt()`` says 2 after one that was killed for its memory, and one of two retries is left."""

    def function() -> None:
        raise ValueError(current.attempt())

    pod = made(function, used=1, retries=2, backoff=[0.01, 1.0, 0.01])
    code, printed = pod.run("main")
    assert code == EXIT_RAISED
    assert b"attempt 3 of 3 after ValueError: 2" in printed
    assert pod.result().header["attempts"] == 3


def test_a_function_with_calls_of_its_own_may_cancel_them_at_its_timeout(made: Made, tmp_path: Path) -> None:
    """It is stopped by SIGTERM first, so that its exit handlers run; killed, it would leave those calls running."""
    said = tmp_path / "said"

    def function() -> str:
        atexit.register(said.write_text, "cancelled")
        with contextlib.suppress(SystemExit):
            time.sleep(600)
        return "too late"

    pod = made(function, nested=True, timeout=0.5)
    assert pod.run("main")[0] == EXIT_RAISED
    assert said.read_text() == "cancelled"
    assert pod.result().header["code"] == "timeout"


def test_sigterm_while_the_payload_is_awaited(made: Made) -> None:
    """Ends at once."""
    pod = made(seven, upload=True)
    main = pod.start("main")
    until(lambda: pod.has("lock"), "the lock")
    main.send_signal(signal.SIGTERM)
    assert ends(main) == EXIT_TERMINATED


# -- the uploader


def test_an_upload_starts_the_function(made: Made) -> None:
    """The payload appears whole, by its name; K says that it is there."""
    pod = made(seven, upload=True)
    main = pod.start("main")
    assert pod.run("uploader", given=pipes.UPLOAD_HEAD.pack(len(pod.payload)) + pod.payload) == (0, b"K")
    assert ends(main) == EXIT_VALUE


@pytest.mark.parametrize("given", [b"", b"\0\0", pipes.UPLOAD_HEAD.pack(10) + b"nine byte"])
def test_a_cut_upload_leaves_no_payload(made: Made, given: bytes) -> None:
    """Half a payload is never taken for one."""
    pod = made(seven, upload=True)
    code, said = pod.run("uploader", given=given)
    assert (code, said) == (1, b"")
    assert not [each for each in pod.out_dir.iterdir() if each.name.startswith("payload")]


def test_a_payload_that_never_comes(made: Made) -> None:
    """Ends in its own error, after the time that starting may take."""
    pod = made(seven, upload=True, pull_allowance=0.2)
    assert pod.run("main")[0] == EXIT_RAISED
    assert pod.result().header["code"] == "upload"


# -- the reader


@pytest.mark.parametrize("offset", [0, 1, 100_000, 300_000])
def test_a_reader_sends_from_an_offset_on(made: Made, offset: int) -> None:
    """So a stream that broke is resumed where it did. The acknowledgement leaves ``ack``."""
    pod = made(large)
    pod.run("main")
    whole = (pod.out_dir / "result").read_bytes()
    code, sent = pod.run("reader", str(offset), given=b"A")
    assert code == 0
    assert sent == b"R" + pipes.READER_HEAD.pack(len(whole), offset) + whole[offset:]
    assert pod.has("ack")


def test_a_reader_that_is_left_acknowledges_nothing(made: Made) -> None:
    """The end of its stdin is no acknowledgement."""
    pod = made(large)
    pod.run("main")
    assert pod.run("reader", "0")[0] == 0
    assert not pod.has("ack")


def test_a_reader_waits_for_main(made: Made, tmp_path: Path) -> None:
    """Started before main, it sends as soon as main has ended."""
    pod = made(waiting_for(tmp_path))
    reader = pod.start("reader", "0")
    main = pod.start("main")
    until((tmp_path / "running").exists, "the function")
    assert reader.poll() is None
    (tmp_path / "go").touch()
    assert ends(main) == EXIT_VALUE
    buffer = ResultBuffer()
    intake = Intake(buffer)
    while intake.outcome is None:  # in pieces, if it saw main writing
        intake.feed(memoryview(os.read(pipe(reader.stdout).fileno(), 65536)))
    assert pickle.loads(verify(buffer.data, KEY, CALL).body) == 7
    pipe(reader.stdin).write(b"A")
    until(lambda: pod.has("ack"), "the acknowledgement")
    assert ends(reader) == 0


def large_and_slow(directory: Path) -> Callable[[], object]:
    """A function whose large result is pickled in two halves, the second one when told."""

    class Slow:
        def __reduce__(self) -> tuple[object, ...]:
            while not (directory / "go").exists():
                time.sleep(0.01)
            return bytes, (3,)

    return lambda: [b"large" * 50_000, Slow(), b"result" * 50_000]


def test_a_large_result_is_sent_while_it_is_written(made: Made, tmp_path: Path) -> None:
    """Its first half is with the client before there is a second; both together are the result."""
    pod = made(large_and_slow(tmp_path))
    reader = pod.start("reader", "0")
    main = pod.start("main")
    buffer = ResultBuffer()
    intake = Intake(buffer)
    while buffer.received < 250_000:
        intake.feed(memoryview(os.read(pipe(reader.stdout).fileno(), 65536)))
    assert not pod.has("result")
    (tmp_path / "go").touch()
    while intake.outcome is None:
        intake.feed(memoryview(os.read(pipe(reader.stdout).fileno(), 65536)))
    assert pickle.loads(verify(buffer.data, KEY, CALL, buffer.sha256).body)[2] == b"result" * 50_000
    pipe(reader.stdin).write(b"A")
    assert (ends(main), ends(reader)) == (EXIT_VALUE, 0)
    assert pod.has("ack")


def test_half_a_large_result_is_void_when_its_process_dies(made: Made, tmp_path: Path) -> None:
    """The reader says so instead of going on with another attempt's bytes."""
    pod = made(large_and_slow(tmp_path), timeout=1.0)
    reader = pod.start("reader", "0")
    main = pod.start("main")
    assert ends(main) == EXIT_RAISED
    assert pipe(reader.stdout).read()[-1:] == b"N"
    assert ends(reader) == 0
    assert pod.result().header["code"] == "timeout"


def test_a_reader_has_nothing_to_send(made: Made, tmp_path: Path) -> None:
    """main ended by SIGTERM: N."""
    pod = made(waiting_for(tmp_path))
    main = pod.start("main")
    until((tmp_path / "running").exists, "the function")
    main.send_signal(signal.SIGTERM)
    ends(main)
    assert pod.run("reader", "0") == (0, b"N")


# -- the courier


def test_the_courier_ends_at_once_where_the_message_is_enough(made: Made) -> None:
    """Nothing of the result is left to fetch."""
    pod = made(seven)
    courier = pod.start("courier")
    pod.run("main")
    assert ends(courier) == 0


def test_the_courier_ends_when_the_result_was_fetched(made: Made) -> None:
    """The reader's acknowledgement lets it go, and it writes nothing."""
    pod = made(large, fetch_grace=600.0)
    courier = pod.start("courier")
    pod.run("main")
    assert courier.poll() is None
    pod.run("reader", "0", given=b"A")
    assert ends(courier) == 0


def test_a_reader_whose_client_is_gone_does_not_hold_a_pod_that_is_to_end(made: Made) -> None:
    """Who acknowledged has the result; one that nobody reads from any more would take its 30 s to notice."""
    pod = made(large, fetch_grace=600.0)
    pod.run("main")
    stuck = pod.start("reader", "0")
    assert pipe(stuck.stdout).read(1) == b"R"
    courier = pod.start("courier")
    pod.run("reader", "0", given=b"A")
    time.sleep(0.3)
    assert courier.poll() is None
    courier.send_signal(signal.SIGTERM)
    assert ends(courier) == 0
    assert stuck.poll() is None
    stuck.kill()
    ends(stuck)


def test_the_courier_leaves_an_unfetched_result_in_its_log(made: Made) -> None:
    """After fetch_grace, whole."""
    pod = made(large, fetch_grace=0.1)
    pod.run("main")
    code, log = pod.run("courier")
    assert code == 0
    whole = (pod.out_dir / "result").read_bytes()
    head, *lines, tail = log.decode().splitlines()
    assert (head, tail) == (f"{LOG_HEAD}{len(whole)}", LOG_TAIL)
    assert b"".join(base64.b64decode(line) for line in lines) == whole


def test_the_courier_waits_for_a_reader_at_work(made: Made) -> None:
    """Its end would kill the reader: it ends only while it alone holds ``readers``."""
    pod = made(large, fetch_grace=0.0)
    pod.run("main")
    reader = pod.start("reader", "0")
    assert pipe(reader.stdout).read(1) == b"R"
    courier = pod.start("courier")
    time.sleep(0.5)
    assert courier.poll() is None
    size = len((pod.out_dir / "result").read_bytes()) + pipes.READER_HEAD.size
    while size:
        size -= len(pipe(reader.stdout).read(size))
    pipe(reader.stdin).write(b"A")
    ends(reader)
    assert pipe(courier.stdout).read() == b""
    assert ends(courier) == 0


def test_a_result_that_may_not_go_to_the_log_waits(made: Made) -> None:
    """For result_ttl; then it is given up."""
    pod = made(large, fetch_grace=0.0, results_in_log=False, result_ttl=0.3)
    pod.run("main")
    began = time.monotonic()
    assert pod.run("courier") == (0, b"")
    assert time.monotonic() - began > 0.3
    assert pod.message.read_text() == TERMINATION_UNFETCHED


def test_sigterm_does_not_end_the_courier_while_main_lives(made: Made, tmp_path: Path) -> None:
    """The result is still to come: it goes to the log then, and the exit code says that SIGTERM came."""
    running, go = str(tmp_path / "running"), str(tmp_path / "go")

    def function() -> bytes:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the courier passes it on
        Path(running).touch()
        while not Path(go).exists():
            time.sleep(0.01)
        return bytes(100_000)

    pod = made(function, inline=False, fetch_grace=600.0)
    courier, main = pod.start("courier"), pod.start("main")
    until((tmp_path / "running").exists, "the function")
    until(lambda: pod.has("readers"), "the courier")
    time.sleep(0.2)
    courier.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert courier.poll() is None
    (tmp_path / "go").touch()
    assert ends(main) == EXIT_VALUE
    log = pipe(courier.stdout).read()
    assert log.startswith(LOG_HEAD.encode())
    assert log.endswith(f"{LOG_TAIL}\n".encode())
    assert ends(courier) == EXIT_COURIER_TERMINATED


@pytest.mark.parametrize("how", ["SIGTERM", "time"])
def test_the_courier_of_a_main_that_never_starts(made: Made, how: str) -> None:
    """Ends by SIGTERM, or when starting has taken too long."""
    pod = made(seven, pull_allowance=0.3 if how == "time" else 600.0)
    courier = pod.start("courier")
    until(lambda: pod.has("readers"), "the courier")
    time.sleep(0.2)
    if how == "SIGTERM":
        courier.send_signal(signal.SIGTERM)
    assert ends(courier) == 0


def test_a_killed_main_leaves_nothing_to_wait_for(made: Made, tmp_path: Path) -> None:
    """Its lock is free and there is no result: the courier ends once ``alive`` is old, here made so."""
    pod = made(waiting_for(tmp_path))
    courier, main = pod.start("courier"), pod.start("main")
    until((tmp_path / "running").exists, "the function")
    main.kill()
    ends(main)
    time.sleep(0.2)
    assert courier.poll() is None
    os.utime(pod.out_dir / "alive", (0, 0))
    assert ends(courier) == 0
    (tmp_path / "go").touch()
