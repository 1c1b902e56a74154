"""Project code on a warm worker: after an edit only what differs travels, and just what is on disk here runs there."""

from __future__ import annotations

import dataclasses
import os
import pickle
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from kubefunc.backends.base import Sink, Submission
from kubefunc.backends.kubernetes.warm.batch import Batch
from kubefunc.backends.kubernetes.warm.known_code import KnownCode
from kubefunc.backends.kubernetes.warm.parcel import Parcel
from kubefunc.backends.kubernetes.warm.run import Run
from kubefunc.backends.kubernetes.warm.tables import TableFiles
from kubefunc.options import Options
from kubefunc.packing.code_archive import CodeArchive
from kubefunc.packing.payload import Packer
from kubefunc.runner.execution.request import CALL
from kubefunc.runner.protocol import wire
from kubefunc.runner.warm.code import join_patch, table_of
from kubefunc.runner.warm.frames import DATA, GOODBYE, KEEP
from kubefunc.runner.warm.kept import MOST, Kept, name_of_code
from kubefunc.runner.warm.lease import request_key
from tests.local.warm import KEY, TOKEN, PipeClient, WarmWorker

Files = dict[str, tuple[bool, bytes]]  # whether each is executable, and its content
MODULES = 200
MUCH = 20  # an archive is at least so many times larger than a patch of one file


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WarmWorker]:
    """A worker. Python keeps there what it has compiled, as in a Pod."""
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    made = WarmWorker(tmp_path)
    yield made
    made.stop()


def project() -> Files:
    """A package that compresses badly, so that sizes say something: modules, a program and data."""
    chance = random.Random(3)
    files: Files = {"package/__init__.py": (False, b""), "package/data/table.csv": (False, b"1,2\n")}
    files["package/tool.sh"] = (True, b"#!/bin/sh\n")
    for number in range(MODULES):
        files[f"package/m{number}.py"] = (
            False,
            f"value = {1000 + number}\nother = '{chance.randbytes(500).hex()}'\n".encode(),
        )
    return files


def archive_of(files: Mapping[str, tuple[bool, bytes]]) -> CodeArchive:
    """As it is packed."""
    return CodeArchive(wire.join_files((path, *files[path]) for path in sorted(files)), ("package",))


class Program:
    """A program on this machine, with a stream to the worker."""

    def __init__(self, worker: WarmWorker, cache: Path) -> None:
        self.worker = worker
        self.known = KnownCode(TableFiles(cache))
        self.connect()

    def connect(self) -> None:
        """Open a stream; what the worker keeps is known again."""
        self.client = PipeClient(self.worker)
        self.client.hello(client=f"program-{id(self)}")
        assert self.client.welcome() is None
        self.kept = Kept(self.client.kept)

    def end(self) -> None:
        """Let the worker go."""
        self.client.send(GOODBYE)
        assert self.client.is_over()
        self.client.stop()

    def batch(self, files: Mapping[str, tuple[bool, bytes]], function: Callable[[], Any], **options: Any) -> Batch:
        """A call whose function travels by value, and which has this project code."""
        payload = dataclasses.replace(Packer.for_local().pack(function), code=archive_of(files))
        sent = Submission(call="call-x", function="f", options=Options(), payload=payload, key=KEY)
        parcel = Parcel(sent, fresh=True, **options)
        return Batch(parcel, [Run(parcel, 0, cast(Sink, None), threading.Condition())])

    def frames(self, batch: Batch) -> bytes:
        """What is sent of it."""
        return b"".join(batch.frames(self.kept, request_key(TOKEN, self.client.nonces), self.known))

    def call(
        self, files: Mapping[str, tuple[bool, bytes]], function: Callable[[], Any], **options: Any
    ) -> tuple[Any, int]:
        """What the call returns, and how many bytes were sent."""
        batch = self.batch(files, function, **options)
        sent = self.frames(batch)
        self.client.write(sent)
        return pickle.loads(self.client.outcome(batch.id).body), len(sent)


@pytest.fixture
def start(worker: WarmWorker, tmp_path: Path) -> Callable[[], Program]:
    """Starts a program; each has the cache of the one before."""
    return lambda: Program(worker, tmp_path / "cache")


def look() -> Callable[[], tuple[Files, int]]:
    """A function that says which files its project code has, and what a module that is edited says."""

    def function() -> tuple[Files, int]:
        import importlib

        package = importlib.import_module("package")
        root = os.path.dirname(os.path.dirname(str(package.__file__)))
        found = {}
        for folder, _, names in os.walk(root):
            for name in names:
                path = os.path.join(folder, name)
                if not name.endswith(".pyc"):
                    with open(path, "rb") as file:
                        found[os.path.relpath(path, root)] = (os.access(path, os.X_OK), file.read())
        return found, importlib.import_module("package.m7").value

    return function


def changed(files: Files) -> Files:
    """The same size, within the same second."""
    return {**files, "package/m7.py": (False, files["package/m7.py"][1].replace(b"1007", b"1707"))}


def added(files: Files) -> Files:
    """A package with data."""
    return {**files, "package/new/__init__.py": (False, b""), "package/new/data.bin": (False, bytes(50))}


def removed(files: Files) -> Files:
    """A module and a data file."""
    return {path: file for path, file in files.items() if path not in ("package/m9.py", "package/data/table.csv")}


def renamed(files: Files) -> Files:
    """Half of the modules, into another package."""
    return {path.replace("package/m1", "package/moved/m1"): file for path, file in files.items()}


def made_executable(files: Files) -> Files:
    """And another file no longer."""
    return {**files, "package/data/table.csv": (True, b"1,2\n"), "package/tool.sh": (False, b"#!/bin/sh\n")}


def module_made_a_package(files: Files) -> Files:
    """Under its old name."""
    rest = {path: file for path, file in files.items() if path != "package/m7.py"}
    return {
        **rest,
        "package/m7/__init__.py": (False, b"from package.m7.inner import value\n"),
        "package/m7/inner.py": (False, b"value = 1007\n"),
    }


EDITS = [changed, added, removed, renamed, made_executable, module_made_a_package]


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
@pytest.mark.parametrize("programs", ["one", "two"])
def test_an_edit_sends_only_what_it_changed(
    start: Callable[[], Program], edit: Callable[[Files], Files], programs: str
) -> None:
    """The worker has exactly the files of here, also if an earlier program has sent the others."""
    first = start()
    before = project()
    (found, value), all_of_it = first.call(before, look())
    assert (found, value) == (before, 1007)
    second = first
    if programs == "two":
        first.end()
        second = start()
    after = edit(before)
    (found, value), sent = second.call(after, look())
    assert found == after
    assert value == (1707 if edit is changed else 1007)
    assert sent * MUCH < all_of_it
    (found, _), again = second.call(before, look())
    assert found == before
    assert again < 5_000  # it is still kept: the call alone


def test_a_program_without_a_cache_sends_all_of_its_code(worker: WarmWorker, tmp_path: Path) -> None:
    """It cannot know what the code that another program has left consists of."""
    first = Program(worker, tmp_path / "one")
    _, all_of_it = first.call(project(), look())
    first.end()
    (found, value), sent = Program(worker, tmp_path / "two").call(changed(project()), look())
    assert (found, value) == (changed(project()), 1707)
    assert sent > all_of_it * 0.9


def spoil(how: str) -> Callable[[], int]:
    """A function that changes its own project code there, and runs what it has changed."""

    def function() -> int:
        import glob
        import importlib

        package = importlib.import_module("package")
        root = os.path.dirname(os.path.dirname(str(package.__file__)))
        if how == "archive":
            for path in glob.glob(f"{root}*.files"):
                with open(path, "r+b") as file:
                    file.write(b"spoilt")
            return 0
        with open(f"{root}/package/m7.py", "r+b") as file:  # in place, and of the same size
            file.write(b"value = 1666")
        return int(importlib.import_module("package.m7").value)

    return function


def test_what_calls_change_in_their_code_stays_out_of_the_next_one(start: Callable[[], Program]) -> None:
    """Neither a module that a call has written over, nor what Python has compiled of it, gets into the next one."""
    program, before = start(), project()
    assert program.call(before, spoil("module"))[0] == 1666
    after = {**before, "package/m8.py": (False, b"value = 8\n")}
    (found, value), sent = program.call(after, look())
    assert (found, value) == (after, 1007)
    assert sent < 10_000


def test_code_that_calls_have_spoilt_is_sent_again(start: Callable[[], Program]) -> None:
    """The worker cannot make the next code of it, says so by ending the stream, and gets all of it on the next one."""
    program, before = start(), project()
    _, all_of_it = program.call(before, spoil("archive"))
    sent = program.frames(program.batch(changed(before), look()))
    assert len(sent) * MUCH < all_of_it
    program.client.write(sent)
    assert program.client.is_over()
    program.connect()
    assert not program.kept.entries()
    (found, value), sent_again = program.call(changed(before), look())
    assert (found, value) == (changed(before), 1707)
    assert sent_again > all_of_it * 0.9


def test_only_edited_modules_are_compiled_again(start: Callable[[], Program]) -> None:
    """What Python has compiled of the others is there before they are imported; of an edited one it is not."""

    def imported() -> None:
        import importlib

        for number in (7, 8):
            importlib.import_module(f"package.m{number}")

    def compiled() -> list[str]:
        import importlib

        package = importlib.import_module("package")
        there = os.listdir(os.path.join(os.path.dirname(str(package.__file__)), "__pycache__"))
        return sorted(name.partition(".")[0] for name in there)

    program, before = start(), project()
    program.call(before, imported)
    assert program.call(changed(before), compiled)[0] == ["__init__", "m8"]


def test_what_a_call_has_written_over_is_compiled_again(start: Callable[[], Program]) -> None:
    """Also where it has kept the size and given the file its old time, as ``cp -p`` does."""

    def overwrite() -> int:
        import importlib
        import os

        package = importlib.import_module("package")
        path = os.path.join(os.path.dirname(str(package.__file__)), "m7.py")
        before = os.stat(path)
        with open(path, "rb+") as file:
            content = file.read().replace(b"1007", b"6666")
            file.seek(0)
            file.write(content)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        return int(importlib.import_module("package.m7").value)  # Python keeps it compiled

    program, before = start(), project()
    assert program.call(before, overwrite)[0] == 6666
    assert program.call(added(before), look())[0] == (added(before), 1007)


def test_the_code_of_an_edit_outlives_the_code_that_it_was_made_of(start: Callable[[], Program]) -> None:
    """A worker keeps so many of them; the one that goes for the next may be the one that this is made of."""
    program, before = start(), project()
    (found, _), _ = program.call(before, look())
    small = {"package/__init__.py": (False, b""), "package/m7.py": (False, b"value = 1\n")}
    for number in range(MOST - 1):
        program.call({**small, "package/other.py": (False, b"x" * number)}, lambda: None)
    (found, value), sent = program.call(changed(before), look())
    assert (found, value) == (changed(before), 1707)
    assert sent < 10_000
    program.connect()
    assert name_of_code(table_of(before)) not in program.kept
    assert len(program.kept.entries()) == MOST
    folders = [path.name for path in program.worker.place.glob("warm/code.*") if path.is_dir()]
    assert sorted(folders) == sorted(name for name, _ in program.kept.entries())


def test_a_request_keeps_all_that_it_needs(start: Callable[[], Program]) -> None:
    """Where the worker is full, code that it needs does not go for more code that it needs, though it is the oldest."""
    program, before = start(), project()
    program.call(before, look())
    for number in range(MOST - 1):
        program.call({"other.py": (False, b"x" * number)}, lambda: None)
    further = archive_of({"further.py": (False, b"value = 5\n")})

    def both() -> tuple[int, int]:
        import importlib

        return importlib.import_module("package.m7").value, importlib.import_module("further").value

    values, sent = program.call(before, both, code=further)
    assert values == (1007, 5)
    assert sent < 10_000


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_a_patch_that_was_changed_is_not_used(start: Callable[[], Program], place: float) -> None:
    """One byte of it: the stream ends, nothing has run, nothing half made is left. The next stream brings it again."""
    program, before = start(), project()
    program.call(before, look())
    batch = program.batch(changed(before), look())
    sent = bytearray(program.frames(batch))
    (size,) = wire.LENGTH.unpack_from(sent, 1)
    assert sent[:1] == DATA
    sent[wire.FRAME_HEAD + round(place * size)] ^= 1
    program.client.write(bytes(sent))
    assert program.client.is_over()
    program.connect()
    assert [name for name, _ in program.kept.entries()] == [name_of_code(table_of(before))]
    assert not list(program.worker.place.glob("warm/*.new"))
    (found, value), again = program.call(changed(before), look())
    assert (found, value) == (changed(before), 1707)
    assert again < 10_000


def test_a_patch_of_nothing_and_noise_cost_their_stream_and_no_more(start: Callable[[], Program]) -> None:
    """Of code that is not kept, without a name, or no patch at all."""
    program, before = start(), project()
    program.call(before, look())
    base, name = name_of_code(table_of(before)), name_of_code(table_of(changed(before)))
    patch = join_patch(table_of(before), table_of(changed(before)), changed(before))
    outside = {"../outside.py": (False, b"")}
    chance = random.Random(5)
    noise = [(chance.randbytes(chance.randrange(1, 200)), f"{name} {base}") for _ in range(10)]
    wrong = [
        (patch, f"{name} code.{'0' * 64}"),
        (patch, f"{name} ../code.{'0' * 64}"),
        (patch, f" {base}"),
        (patch, name),
        (b"", name),
        (archive_of(before).data, f"{name} {base}"),
        (wire.join_files([("", False, b"[]")]), f"{name} {base}"),
        (
            wire.join_files([("", False, b'{"removed": [], "copied": [["a", false, "no such file"]]}')]),
            f"{name} {base}",
        ),
        (archive_of(outside).data, name_of_code(table_of(outside))),
    ]
    for data, claimed in [*noise, *wrong]:
        program.client.write((wire.frame(DATA, data) if data else b"") + wire.frame(KEEP, claimed.encode()))
        assert program.client.is_over(), claimed
        program.connect()
        assert [each for each, _ in program.kept.entries()] == [base]
    assert not (program.worker.place / "outside.py").exists()
    assert program.call(changed(before), look())[0] == (changed(before), 1707)


def test_an_edit_arrives_wherever_its_stream_breaks(start: Callable[[], Program]) -> None:
    """What was half sent is sent again, and what is kept already is not."""
    program, files = start(), project()
    program.call(files, look())
    chance = random.Random(11)
    for number in range(10):
        files = {**files, "package/m8.py": (False, f"value = {number}\n".encode())}
        sent = program.frames(program.batch(files, look()))
        request = sent.rindex(wire.frame(CALL)[:1] + wire.LENGTH.pack(32))
        program.client.write(sent[: round(chance.random() * request)])
        program.client.cut()
        program.connect()
        (found, value), again = program.call(files, look())
        assert (found, value) == (files, 1007)
        assert again < 10_000
