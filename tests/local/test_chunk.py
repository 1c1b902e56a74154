"""A chunk of a map, worked through by the runner's own programs as processes of this machine."""

from __future__ import annotations

import json
import os
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kubefunc import current, errors
from kubefunc.backends.kubernetes.attempts.receipt import FollowIntake
from kubefunc.backends.kubernetes.results.courier_log import envelope_in_log
from kubefunc.runner import EXIT_RAISED, EXIT_TERMINATED, EXIT_VALUE
from kubefunc.runner.protocol import records
from tests.local.chunks import CALL, KEY, TIMEOUT, Chunk
from tests.local.pod import ended_while_loaded

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the runner forks")


def until(true: Callable[[], bool], what: str) -> None:
    """Wait until it is so."""
    end = time.monotonic() + TIMEOUT
    while not true():
        assert time.monotonic() < end, f"in vain: {what}"
        time.sleep(0.01)


# -- outcomes


def test_each_item_has_its_value(tmp_path: Path) -> None:
    """In order, in one process, with the shared keyword arguments; the exit code says that all is well."""

    def add(a: int, b: int, *, more: int) -> tuple[int, int]:
        return a + b + more, os.getpid()

    chunk = Chunk(tmp_path, add, [(number, 10) for number in range(20)], kwargs={"more": 100})
    assert chunk.run() == EXIT_VALUE
    header = chunk.read().header
    assert [record.index for record in chunk.records] == list(range(20))
    assert {index: value for index, (value, _) in chunk.values().items()} == {n: n + 110 for n in range(20)}
    assert len({pid for _, pid in chunk.values().values()}) == 1
    assert (header["items"], header["failed"], header["complete"]) == (20, 0, True)
    assert header["peak_memory"] > 1_000_000


def test_small_outcomes_stand_in_the_termination_message(tmp_path: Path) -> None:
    """All of the chunk: then no stream is needed, and the courier may go at once."""
    chunk = Chunk(tmp_path, abs, [(-1,), (-2,)])
    assert chunk.run() == EXIT_VALUE
    inline = chunk.inline()
    assert inline is not None
    assert chunk.receipt().whole(inline).header["items"] == 2
    assert chunk.values() == {0: 1, 1: 2}
    assert (chunk.out_dir / "inline").exists()


def test_large_outcomes_do_not(tmp_path: Path) -> None:
    """The message then says how many bytes there are; bodies above 64 KiB come by a file, which is removed."""
    chunk = Chunk(tmp_path, bytes, [(300_000,), (5,), (3_000_000,)])
    assert chunk.run() == EXIT_VALUE
    header = chunk.read().header
    assert chunk.message() == f"kubefunc:size:{header['size']}"
    assert chunk.values() == {0: bytes(300_000), 1: bytes(5), 2: bytes(3_000_000)}
    assert not list(chunk.out_dir.glob("item*"))


def test_an_item_that_raises_costs_only_itself(tmp_path: Path) -> None:
    """Its exception is its outcome; the process goes on with the next item, and the index of the Job fails."""

    def picky(number: int) -> int:
        if number == 1:
            raise ValueError(number)
        if number == 2:
            sys.exit(7)
        return os.getpid()

    chunk = Chunk(tmp_path, picky, [(number,) for number in range(4)])
    assert chunk.run() == EXIT_RAISED
    header = chunk.read().header
    assert (header["items"], header["failed"]) == (4, 2)
    values, failed = chunk.values(), chunk.errors()
    assert values[0] == values[3]
    assert failed[1]["outcome"] == "raised"
    assert (failed[2]["code"], failed[2]["detail"]["exit_code"]) == ("exit", 7)


def test_arguments_that_do_not_unpickle_here(tmp_path: Path) -> None:
    """They cost one item too."""
    chunk = Chunk(tmp_path, str, [(1,), (2,)])
    broken = records.join_chunks([records.join_items([(0, b"no pickle"), (1, b"\x80\x04K\x02\x85.")])])
    (chunk.in_dir / "items").write_bytes(broken)
    assert chunk.run() == EXIT_RAISED
    chunk.read()
    assert (chunk.values(), chunk.errors()[0]["code"]) == ({1: "2"}, "load")


def test_a_function_that_does_not_load_here(tmp_path: Path) -> None:
    """One error for the whole chunk, sent once: it holds for each of its items."""
    chunk = Chunk(tmp_path, abs, [(1,), (2,)])
    (chunk.in_dir / "payload").write_bytes(b"no payload")
    assert chunk.run() == EXIT_RAISED
    header = chunk.read().header
    assert (header["outcome"], header["code"], header["chunk"], chunk.records) == ("error", "load", 0, [])


def test_another_python(tmp_path: Path) -> None:
    """Nothing is unpickled by an interpreter of another minor version."""
    chunk = Chunk(tmp_path, abs, [(1,)], python="2.7")
    assert chunk.run() == EXIT_RAISED
    assert chunk.read().header["code"] == "python"


# -- dying, timeouts, retries


def test_a_process_that_dies_costs_only_its_item(tmp_path: Path) -> None:
    """By exit or by signal: a fresh process goes on with the next item."""

    def fragile(number: int) -> int:
        if number == 1:
            os._exit(3)
        if number == 3:
            os.kill(os.getpid(), signal.SIGSEGV)
        return os.getpid()

    chunk = Chunk(tmp_path, fragile, [(number,) for number in range(6)])
    assert chunk.run() == EXIT_RAISED
    chunk.read()
    values, failed = chunk.values(), chunk.errors()
    assert failed[1]["detail"] == {"exit_code": 3}
    assert failed[3]["detail"] == {"signal": signal.SIGSEGV}
    assert sorted(values) == [0, 2, 4, 5]
    assert values[4] == values[5] != values[2] != values[0]


def test_a_process_that_always_dies_ends_the_chunk(tmp_path: Path) -> None:
    """One that does so before it comes to any item is not started for ever: its end is the outcome of all."""

    class Deadly:
        def __call__(self, number: int) -> int:
            return number

        def __reduce__(self) -> tuple[Any, ...]:
            return os._exit, (9,)

    chunk = Chunk(tmp_path, Deadly(), [(1,), (2,)])
    assert chunk.run() == EXIT_RAISED
    assert chunk.read().header["detail"] == {"exit_code": 9}


def test_a_timeout_is_each_items_own(tmp_path: Path) -> None:
    """The item that runs longer is stopped, with all threads' stacks; the time of the others does not add up."""

    def nap(seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    chunk = Chunk(tmp_path, nap, [(0.7,), (30.0,), (0.7,), (0.7,)], timeout=2.0)
    assert chunk.run() == EXIT_RAISED
    chunk.read()
    assert sorted(chunk.values()) == [0, 2, 3]
    detail = chunk.errors()[1]["detail"]
    assert detail["timeout"] == 2.0
    assert "in nap" in detail["stacks"]


def test_a_supervisor_that_was_held_up_blames_no_item_for_that(tmp_path: Path) -> None:
    """Nobody reads its output for a while: what it then hears at once has happened in time."""

    def prints_first(number: int) -> int:
        if number == 0:
            print("x" * 100_000)  # more than a pipe holds, and less than two do
        time.sleep(0.4)
        return number

    chunk = Chunk(tmp_path, prints_first, [(number,) for number in range(12)], timeout=1.0)
    with chunk.start(stdout=subprocess.PIPE) as main:
        time.sleep(3)
        main.communicate(timeout=TIMEOUT)
    chunk.read()
    assert chunk.errors() == {}
    assert chunk.values() == {number: number for number in range(12)}


def test_retries_come_after_the_others(tmp_path: Path) -> None:
    """An item that raises or dies is tried again, as often as ``retries`` says, when all others have ended."""
    marks = tmp_path / "marks"
    marks.mkdir()

    def shaky(number: int) -> int:
        mark = marks / str(number)
        tried = len(mark.read_text()) if mark.exists() else 0
        mark.write_text("x" * (tried + 1))
        if number == 0 and tried == 0:
            raise OSError("once")
        if number == 1 and tried < 2:
            os._exit(1)
        if number == 2:
            raise ValueError("not to be tried again")
        return tried

    chunk = Chunk(tmp_path, shaky, [(number,) for number in range(5)], retries=2, retry_exceptions=[OSError])
    assert chunk.run() == EXIT_RAISED
    chunk.read()
    assert chunk.values() == {0: 1, 1: 2, 3: 0, 4: 0}
    assert list(chunk.errors()) == [2]
    assert [record.index for record in chunk.records][:3] == [2, 3, 4]
    assert {record.index: record.attempts for record in chunk.records} == {0: 2, 1: 3, 2: 1, 3: 1, 4: 1}


# -- what the client sees while it runs


def test_the_item_that_runs_is_noted(tmp_path: Path) -> None:
    """In the termination log, before it starts: whatever kills the whole container, this stays."""

    def wait(number: int) -> None:
        time.sleep(60 if number == 2 else 0)

    chunk = Chunk(tmp_path, wait, [(number,) for number in range(4)])
    with chunk.start() as main:
        until(lambda: chunk.message().split() == ["kubefunc:at:2"], "the note")
        main.kill()


def test_outcomes_are_there_while_the_chunk_runs(tmp_path: Path) -> None:
    """A block is closed 50 ms after the one before, also while the next item runs long."""

    def wait(number: int) -> int:
        time.sleep(60 if number == 3 else 0)
        return number

    chunk = Chunk(tmp_path, wait, [(number,) for number in range(5)])
    with chunk.start() as main:
        seen = chunk.receipt()

        def three() -> bool:
            body = chunk.out_dir / "body"
            if body.exists():
                seen.add(body.read_bytes()[seen.received :])
            return len(chunk.records) == 3

        until(three, "three outcomes")
        main.kill()
    assert chunk.values() == {0: 0, 1: 1, 2: 2}


def test_many_outcomes_are_few_blocks(tmp_path: Path) -> None:
    """Blocks are closed by time and size, not one for each item."""
    chunk = Chunk(tmp_path, abs, [(number,) for number in range(3000)])
    assert chunk.run() == EXIT_VALUE
    assert chunk.read().header["blocks"] < 200
    assert len(chunk.records) == 3000


# -- an output volume without room


def run_with_room(chunk: Chunk, size: int) -> int:
    """The chunk's exit code, where no file can be larger than this."""
    import resource

    with chunk.start() as main:
        resource.prlimit(main.pid, resource.RLIMIT_FSIZE, (size, size))
        return main.wait(TIMEOUT)


@pytest.mark.skipif(sys.platform != "linux", reason="prlimit() is Linux's")
def test_a_large_value_without_room_costs_its_item_alone(tmp_path: Path) -> None:
    """Its error says why; the others have their values, those before it and those after it."""
    chunk = Chunk(tmp_path, lambda size: time.sleep(0.5) or bytes(size), [(300_000,), (300_000,), (3,)])
    assert run_with_room(chunk, 450_000) == EXIT_RAISED
    header = chunk.read().header
    assert (header["complete"], header["failed"]) == (True, 1)
    assert {index: len(value) for index, value in chunk.values().items()} == {0: 300_000, 2: 3}
    error = chunk.errors()[1]
    assert (error["code"], error["detail"]["message"]) == ("storage", "File too large")
    assert not list(chunk.out_dir.glob("item.*"))


@pytest.mark.skipif(sys.platform != "linux", reason="prlimit() is Linux's")
def test_without_room_for_small_outcomes_the_chunk_says_so(tmp_path: Path) -> None:
    """Its envelope holds for each item; nobody looks for a program that has stopped the Pod."""
    chunk = Chunk(tmp_path, lambda size: time.sleep(0.5) or os.urandom(size), [(50_000,)] * 4)
    assert run_with_room(chunk, 60_000) == EXIT_RAISED
    header = chunk.read().header
    assert (header["code"], header["detail"]["kind"]) == ("storage", "limited")


# -- SIGTERM


def test_sigterm_saves_what_has_ended(tmp_path: Path) -> None:
    """The item that runs is lost; the outcomes before it are published, as those of a chunk that is not complete."""

    def wait(number: int) -> int:
        time.sleep(60 if number == 2 else 0)
        return number

    chunk = Chunk(tmp_path, wait, [(number,) for number in range(4)])
    with chunk.start() as main:
        until(lambda: "at:2" in chunk.message(), "the third item")
        main.terminate()
        assert main.wait(TIMEOUT) == EXIT_TERMINATED
    header = chunk.read().header
    assert chunk.values() == {0: 0, 1: 1}
    assert not header["complete"]


def test_sigterm_before_anything_has_ended(tmp_path: Path) -> None:
    """Nothing is left, and the courier need not wait for it."""
    chunk = Chunk(tmp_path, time.sleep, [(60,)])
    with chunk.start() as main:
        until(lambda: "at:0" in chunk.message(), "the first item")
        main.terminate()
        assert main.wait(TIMEOUT) == EXIT_TERMINATED
    assert not (chunk.out_dir / "result").exists()
    assert not (chunk.out_dir / "alive").exists()


def test_sigterm_while_the_program_is_loaded(tmp_path: Path) -> None:
    """No item is begun: the Pod that replaces this one runs them all."""
    chunk = Chunk(tmp_path, time.sleep, [(60,)])
    chunk.environ.update(ended_while_loaded(tmp_path))
    assert chunk.run() == EXIT_TERMINATED
    assert not (tmp_path / "forked").exists()
    assert not (chunk.out_dir / "result").exists()


def test_an_item_may_finish_after_sigterm(tmp_path: Path) -> None:
    """A function that handles SIGTERM itself keeps its outcome; the next item is not started."""

    def careful(number: int) -> str:
        asked: list[int] = []
        signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
        while number > 0 and not asked:
            time.sleep(0.01)
        return "saved" if asked else "early"

    chunk = Chunk(tmp_path, careful, [(number,) for number in range(4)])
    with chunk.start() as main:
        until(lambda: "at:1" in chunk.message(), "the second item")
        time.sleep(0.3)
        main.terminate()
        assert main.wait(TIMEOUT) == EXIT_TERMINATED
    chunk.read()
    assert chunk.values() == {0: "early", 1: "saved"}


def test_an_item_that_exits_because_of_sigterm_has_no_outcome(tmp_path: Path) -> None:
    """``sys.exit(0)`` in a handler, the usual way to save one's work: the Pod that replaces this one runs it again."""

    def saves(number: int) -> int:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        time.sleep(60 if number else 0)
        return number

    chunk = Chunk(tmp_path, saves, [(number,) for number in range(3)])
    with chunk.start() as main:
        until(lambda: "at:1" in chunk.message(), "the second item")
        time.sleep(0.3)
        main.terminate()
        assert main.wait(TIMEOUT) == EXIT_TERMINATED
    assert not chunk.read().header["complete"]
    assert chunk.values() == {0: 0}


# -- replacements


def test_a_replacement_skips_what_the_client_has(tmp_path: Path) -> None:
    """It waits to be told, and runs the rest."""
    chunk = Chunk(tmp_path, abs, [(-number,) for number in range(5)], failures=1)
    with chunk.start() as main:
        time.sleep(0.5)
        with chunk.start("uploader", "skip", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as uploader:
            data = records.pack_indexes([0, 1, 4])
            answer, _ = uploader.communicate(struct.pack("!Q", len(data)) + data, TIMEOUT)
        assert answer == b"K"
        assert main.wait(TIMEOUT) == EXIT_VALUE
    header = chunk.read().header
    assert chunk.values() == {2: 2, 3: 3}
    assert header["complete"]


def test_a_replacement_knows_of_the_pods_before_it(tmp_path: Path) -> None:
    """Those of its own Job, of which Kubernetes tells it, and those of Jobs before, of which the client does."""

    def tell(number: int) -> tuple[int, int, int]:
        return number, current.disruptions(), current.attempt()

    chunk = Chunk(tmp_path, tell, [(1,), (2,)], failures=2, skip_wait=0.0, disruptions=1)
    assert chunk.run() == EXIT_VALUE
    chunk.read()
    assert chunk.values() == {0: (1, 3, 1), 1: (2, 3, 1)}


def test_attempts_of_jobs_with_less_memory_count(tmp_path: Path) -> None:
    """An item that ran out of memory goes on counting in the Job that gives it more, also against ``retries``."""

    def fail_once() -> int:
        if current.attempt() < 3:
            raise ValueError(current.attempt())
        return current.attempt()

    chunk = Chunk(tmp_path, fail_once, [()], retries=2, used=1, retry_exceptions=[ValueError])
    assert chunk.run() == EXIT_VALUE
    chunk.read()
    assert chunk.values() == {0: 3}


def test_a_replacement_of_a_detached_map_waits_for_nobody(tmp_path: Path) -> None:
    """Its client is gone: all items run again at once."""
    chunk = Chunk(tmp_path, abs, [(-1,), (-2,)], failures=1, skip_wait=0.0)
    begun = time.monotonic()
    assert chunk.run() == EXIT_VALUE
    assert time.monotonic() - begun < 9
    chunk.read()
    assert chunk.values() == {0: 1, 1: 2}


def test_arguments_brought_by_the_client(tmp_path: Path) -> None:
    """What is too much for Secrets comes by the courier: the chunk waits for it."""
    chunk = Chunk(tmp_path, len, [(b"x" * 100,), (b"y" * 5,)], number=3, upload_items=True)
    with chunk.start() as main:
        with chunk.start("uploader", "items", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as uploader:
            uploader.communicate(struct.pack("!Q", len(chunk.items)) + chunk.items, TIMEOUT)
        assert main.wait(TIMEOUT) == EXIT_VALUE
    chunk.read()
    assert chunk.values() == {0: 100, 1: 5}


# -- the follower


class Following:
    """A client at the other end of a follower."""

    def __init__(self, chunk: Chunk, offset: int = 0) -> None:
        self.chunk = chunk
        self.intake = FollowIntake()
        self.data = bytearray()
        self.process = chunk.start("follower", str(offset), stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def read(self, true: Callable[[], bool]) -> None:
        """Take what comes until it is so."""
        assert self.process.stdout is not None
        end = time.monotonic() + TIMEOUT
        while not true():
            ready, _, _ = select.select([self.process.stdout], [], [], end - time.monotonic())
            assert ready, "nothing comes any more"
            piece = os.read(self.process.stdout.fileno(), 65536)
            assert piece, "the follower ended"
            for data in self.intake.feed(memoryview(piece)):
                self.data += data

    def leave(self, word: bytes = b"") -> int:
        """Say a last word and close stdin; the exit code."""
        self.process.communicate(word, TIMEOUT)
        return self.process.returncode


def test_a_follower_sends_what_is_written_as_it_comes(tmp_path: Path) -> None:
    """From before the chunk has begun to its end; the client's word ends the courier."""
    gate = tmp_path / "gate"

    def wait(number: int) -> bytes:
        while number == 2 and not gate.exists():
            time.sleep(0.01)
        return bytes(number)

    chunk = Chunk(tmp_path / "chunk", wait, [(number,) for number in range(5)])
    following = Following(chunk)
    seen = chunk.receipt()

    def two() -> bool:
        seen.add(bytes(following.data)[seen.received :])
        return len(chunk.records) == 2

    with chunk.start() as main:
        following.read(two)
        assert main.poll() is None
        gate.touch()
        following.read(lambda: following.intake.total is not None)
    assert following.leave(b"A") == 0
    assert bytes(following.data) == (chunk.out_dir / "result").read_bytes()
    assert following.intake.total == len(following.data)
    assert (chunk.out_dir / "ack").exists()


@pytest.mark.parametrize("offset", [0, 1, 777, 400_000])
def test_a_follower_begins_anywhere(offset: int, tmp_path: Path) -> None:
    """After a cut the next one goes on where the last ended, also when the chunk is over."""
    chunk = Chunk(tmp_path, bytes, [(100_000,), (300_000,)])
    assert chunk.run() == EXIT_VALUE
    following = Following(chunk, offset)
    following.read(lambda: following.intake.total is not None)
    following.leave()
    assert bytes(following.data) == (chunk.out_dir / "result").read_bytes()[offset:]
    assert not (chunk.out_dir / "ack").exists()


def test_what_was_fetched_stays_in_the_log(tmp_path: Path) -> None:
    """A client that has this chunk may be killed before it has the map: whoever attaches then reads the log."""
    chunk = Chunk(tmp_path, os.urandom, [(10_000,), (20_000,)], fetch_grace=600.0)
    assert chunk.run() == EXIT_VALUE
    with chunk.start("courier", stdout=subprocess.PIPE) as courier:
        following = Following(chunk)
        following.read(lambda: following.intake.total is not None)
        following.leave(b"A")
        log, _ = courier.communicate(timeout=TIMEOUT)
    assert courier.returncode == 0
    kept = envelope_in_log(log)
    assert kept == (chunk.out_dir / "result").read_bytes()
    assert chunk.receipt().whole(kept).header["items"] == 2


def test_a_follower_says_that_there_is_nothing(tmp_path: Path) -> None:
    """``main`` was ended without a result."""
    chunk = Chunk(tmp_path, time.sleep, [(60,)])
    following = Following(chunk)
    with chunk.start() as main:
        until(lambda: "at:0" in chunk.message(), "the first item")
        main.terminate()
    following.read(lambda: following.intake.nothing)
    assert following.leave() == 0


def test_a_follower_leaves_with_its_client(tmp_path: Path) -> None:
    """When stdin ends, nobody listens."""
    chunk = Chunk(tmp_path, time.sleep, [(60,)])
    with chunk.start() as main:
        following = Following(chunk)
        until(lambda: "at:0" in chunk.message(), "the first item")
        assert following.leave() == 0
        main.kill()


def test_a_chunk_signed_for_another_call_is_refused(tmp_path: Path) -> None:
    """Blocks and tail are signed for call and chunk: neither is taken for another's."""
    from kubefunc.backends.kubernetes.attempts.receipt import ChunkReceipt

    chunk = Chunk(tmp_path, abs, [(-1,)])
    assert chunk.run() == EXIT_VALUE
    data = (chunk.out_dir / "result").read_bytes()
    for key, call, number in ((b"x" * 32, CALL, 0), (KEY, "f-zzzzzzzz", 0), (KEY, CALL, 1)):
        taken: list[Any] = []
        with pytest.raises(errors.ResultCorruptedError):
            ChunkReceipt(key, call, number, taken.extend).whole(data)
        assert not taken


# -- giving items back


def ask_to_share(chunk: Chunk, seconds: float) -> dict[str, Any]:
    """What ``sharer`` prints when it is started as exec starts it."""
    with chunk.start("sharer", str(seconds), stdout=subprocess.PIPE) as sharer:
        said, _ = sharer.communicate(timeout=TIMEOUT)
    return dict(json.loads(said)) if said else {}


def test_what_has_not_begun_is_given_back(tmp_path: Path) -> None:
    """A slow item runs on, what waits behind it is given back, and told again when asked again."""

    def wait_for(name: str) -> str:
        while not Path(name).exists():
            time.sleep(0.01)
        return name

    release = tmp_path / "release"
    chunk = Chunk(tmp_path, wait_for, [(str(tmp_path),), (str(release),), ("never",), ("nor this",)])
    with chunk.start() as main:
        until(lambda: "at:1" in chunk.message(), "the second item")
        time.sleep(0.5)
        first, second = ask_to_share(chunk, 0.1), ask_to_share(chunk, 0.1)
        release.touch()
        assert main.wait(TIMEOUT) == EXIT_VALUE
    assert first["given"] == second["given"] == [2, 3]
    assert first["begun"] == 2
    assert chunk.read().header["complete"]
    assert sorted(chunk.values()) == [0, 1]
    assert ask_to_share(chunk, 0.1) == {}


def test_what_can_be_done_soon_is_kept(tmp_path: Path) -> None:
    """Where the time that is left for it is long enough, all items stay."""
    chunk = Chunk(tmp_path, time.sleep, [(0.2,)] * 8)
    with chunk.start() as main:
        until(lambda: "at:2" in chunk.message(), "the third item")
        assert ask_to_share(chunk, 60.0)["given"] == []
        assert main.wait(TIMEOUT) == EXIT_VALUE
    chunk.read()
    assert len(chunk.values()) == 8
