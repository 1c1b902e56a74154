"""What a worker is sent of project code that it does not keep: the least, as far as this machine knows what it has."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from kubefunc.backends.kubernetes.warm import known_code
from kubefunc.backends.kubernetes.warm import tables as module
from kubefunc.backends.kubernetes.warm.known_code import KnownCode
from kubefunc.backends.kubernetes.warm.tables import TableFiles
from kubefunc.packing import code_archive
from kubefunc.packing.code_archive import CodeArchive
from kubefunc.runner.protocol import wire
from kubefunc.runner.warm.code import apply_patch, decode_table, encode_table, join_patch, read_archive, table_of
from kubefunc.runner.warm.kept import LARGEST, MOST, Kept, name_of_code

Files = dict[str, tuple[bool, bytes]]  # whether each is executable, and its content


def project(**changed: bytes) -> Files:
    """Twenty modules that compress badly, and these."""
    chance = random.Random(1)
    files = {f"m{number}": chance.randbytes(1000) for number in range(20)}
    return {f"{name}.py": (False, content) for name, content in {**files, **changed}.items()}


def archive_of(files: Mapping[str, tuple[bool, bytes]]) -> CodeArchive:
    """As it is packed."""
    return CodeArchive(wire.join_files((path, *files[path]) for path in sorted(files)), ())


def name_of(files: Mapping[str, tuple[bool, bytes]]) -> str:
    """Under which a worker keeps it."""
    return name_of_code(table_of(files))


def sent(known: KnownCode, files: Files, *kept: str) -> tuple[str, int]:
    """What a worker that keeps these is sent: the name of the code that is patched, and how many bytes."""
    said, data = known.parts(name_of(files), archive_of(files), Kept((name, 1) for name in kept))
    name, _, base = said.partition(" ")
    assert name == name_of(files)
    return base, len(data)


FILES = some.dictionaries(
    some.text("ab/\ud800é.", min_size=1), some.tuples(some.booleans(), some.binary(max_size=5)), max_size=6
)


@given(FILES, FILES)
def test_a_patch_makes_the_one_of_the_other(before: Files, after: Files) -> None:
    """Whatever was added, removed, renamed, changed or made executable."""
    assert apply_patch(before, join_patch(table_of(before), table_of(after), after)) == after


@given(FILES)
def test_the_name_of_code_does_not_depend_on_how_it_came(files: Files) -> None:
    """Nor on the order of its files; an archive, and a table that was written and read, have the same one."""
    turned = dict(reversed(files.items()))
    assert read_archive(archive_of(files).data) == files
    assert name_of_code(archive_of(files).table) == name_of(files) == name_of(turned)
    assert decode_table(encode_table(table_of(files))) == table_of(files)


@given(FILES, FILES)
def test_other_code_has_another_name(one: Files, other: Files) -> None:
    """Path, content and executable: all of it counts."""
    assert (name_of(one) == name_of(other)) == (one == other)


def test_the_least_is_sent() -> None:
    """Of all that the worker keeps, the base is that which differs least."""
    known, before = KnownCode(), project()
    near, far = project(m1=b"1"), project(m1=b"1", m2=b"2" * 500, m3=b"3" * 500)
    for each in (before, near, far):
        sent(known, each)
    after = project(**{f"m{number}": random.Random(number).randbytes(1000) for number in range(4, 8)})
    after |= {path: far[path] for path in ("m1.py", "m2.py", "m3.py")}
    for names in ([before, far, near], [far, near, before], [near, before, far]):
        assert sent(known, after, f"function.{'0' * 64}", *map(name_of, names))[0] == name_of(far)


def test_the_latest_is_good_enough() -> None:
    """Where it differs in little, nobody looks at the others: their tables may have to be read."""
    known, before = KnownCode(), project()
    sent(known, before)
    sent(known, project(m1=b"1"))
    names = [name_of(project(m1=b"1")), name_of(before)]
    assert sent(known, project(m1=b"1", m2=b"2"), *names)[0] == name_of(before)


def test_what_is_hardly_less_is_not_a_patch() -> None:
    """All of it is sent where half of it changed, or where it is small, and of code that this machine does not know."""
    known, before = KnownCode(), project()
    whole = sent(known, before)
    assert whole == ("", len(archive_of(before).data))
    changed = {f"m{number}": random.Random(number).randbytes(1000) for number in range(11)}
    assert sent(known, project(**changed), name_of(before))[0] == ""
    assert sent(known, {"a.py": (False, b"1")}, name_of({"a.py": (False, b"2")}))[0] == ""
    assert sent(KnownCode(), project(m1=b"1"), name_of(before))[0] == ""


def test_all_of_the_code_is_packed_only_to_be_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither for its name, nor for a patch: to pack 2,000 files takes a tenth of a second."""
    packed: list[int] = []
    monkeypatch.setattr(code_archive, "pack", lambda files: packed.append(len(files)) or code_archive.join_files(files))
    known, before, after = KnownCode(), project(), project(m1=b"1")
    sent(known, before)
    archive = CodeArchive([(path, *after[path]) for path in sorted(after)], ("m",))
    assert (
        known.parts(name_of(after), archive, Kept([(name_of(before), 1)]))[0] == f"{name_of(after)} {name_of(before)}"
    )
    assert packed == []
    assert known.parts(name_of(after), archive, Kept())[1] == archive_of(after).data
    assert packed == [20]


def test_a_call_from_a_signal_handler_does_not_wait_for_its_own_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may come while a patch is made, and needs one, too."""
    known, before, after = KnownCode(), project(), project(m1=b"1")
    sent(known, before)
    real, calls = known_code.join_patch, [project(m2=b"2")]

    def interrupted(*parts: Any) -> bytes:
        while calls:
            assert sent(known, calls.pop(), name_of(before))[0] == name_of(before)
        return real(*parts)

    monkeypatch.setattr(known_code, "join_patch", interrupted)
    done = threading.Event()
    thread = threading.Thread(target=lambda: sent(known, after, name_of(before)) and done.set(), daemon=True)
    thread.start()
    assert done.wait(30)


def test_a_renamed_package_is_not_sent_again() -> None:
    """The worker copies what it has."""
    known, before = KnownCode(), project()
    sent(known, before)
    moved = {f"package/{path}": file for path, file in before.items()}
    base, size = sent(known, moved, name_of(before))
    assert base == name_of(before)
    assert size < 500


def test_later_programs_know_what_was_sent(tmp_path: Path) -> None:
    """By a file that only this user can read. Its name says what must be in it."""
    before, after = project(), project(m1=b"1")
    sent(KnownCode(TableFiles(tmp_path)), before)
    (file,) = (tmp_path / "code").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    base, size = sent(KnownCode(TableFiles(tmp_path)), after, name_of(before))
    assert base == name_of(before)
    assert size < 1000


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "changed": lambda data: data.replace(b"m1.py", b"m2.py"),
    "another": lambda data: encode_table(table_of(project(m1=b"1"))),
    "no table": lambda data: b'{"a": [1]}',
    "noise": lambda data: bytes(range(256)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_table_is_as_if_it_were_not_there(tmp_path: Path, damage: str) -> None:
    """All of the code is sent, and the next program knows what was sent."""
    before, after = project(), project(m1=b"1")
    sent(KnownCode(TableFiles(tmp_path)), before)
    (file,) = (tmp_path / "code").iterdir()
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    assert sent(KnownCode(TableFiles(tmp_path)), after, name_of(before))[0] == ""
    assert sent(KnownCode(TableFiles(tmp_path)), before, name_of(after))[0] == name_of(after)


@pytest.mark.parametrize("what", ["file", "directory"])
def test_a_table_that_others_can_read_is_not_used(tmp_path: Path, what: str) -> None:
    """Nor one in a directory that others can read."""
    before, after = project(), project(m1=b"1")
    sent(KnownCode(TableFiles(tmp_path)), before)
    (file,) = (tmp_path / "code").iterdir()
    (file if what == "file" else file.parent).chmod(0o755)
    assert sent(KnownCode(TableFiles(tmp_path)), after, name_of(before))[0] == ""


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    """A file is in its place."""
    (tmp_path / "code").write_text("")
    before, after = project(), project(m1=b"1")
    known = KnownCode(TableFiles(tmp_path))
    sent(known, before)
    assert sent(known, after, name_of(before))[0] == name_of(before)


def test_the_tables_of_the_latest_code_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many files; those that were used last stay. What a program that was killed has left goes as well."""
    monkeypatch.setattr(module, "MOST", 3)
    files, codes = TableFiles(tmp_path), [project(m1=bytes([number])) for number in range(4)]
    for number, code in enumerate(codes[:3]):
        files.keep(name_of(code), table_of(code))
        os.utime(tmp_path / "code" / f"{name_of(code)}.json", (number, number))
    (tmp_path / "code" / "tmp-left").touch()
    os.utime(tmp_path / "code" / "tmp-left", (1, 1))
    assert files.read(name_of(codes[0])) is not None
    files.keep(name_of(codes[3]), table_of(codes[3]))
    assert {path.stem for path in (tmp_path / "code").iterdir()} == {name_of(codes[each]) for each in (0, 2, 3)}


def test_many_threads_ask_at_once(tmp_path: Path) -> None:
    """As many streams do; each gets what the worker can use."""
    known, before, after = KnownCode(TableFiles(tmp_path)), project(), project(m1=b"1")
    sent(known, before)
    bases: list[str] = []
    threads = [threading.Thread(target=lambda: bases.append(sent(known, after, name_of(before))[0])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bases == [name_of(before)] * 8


# --- what goes when a worker is full: client and worker follow the same rule


def test_what_a_request_needs_does_not_go_for_more_that_it_needs() -> None:
    """Though it is the oldest, and though both together are too large."""
    kept = Kept((f"code.{number}", 1) for number in range(MOST))
    assert kept.use("code.0")
    assert kept.add("code.new", LARGEST - 1) == [f"code.{number}" for number in range(1, MOST)]
    assert kept.add("code.larger", LARGEST) == []
    assert [name for name, _ in kept.entries()] == ["code.0", "code.new", "code.larger"]
    kept.release()
    assert kept.add("code.next", 1) == ["code.0", "code.new", "code.larger"]


def test_a_new_entry_takes_the_place_of_the_oldest() -> None:
    """Until there is room."""
    kept = Kept((f"code.{number}", LARGEST // MOST) for number in range(MOST))
    assert kept.add("code.new", LARGEST // MOST) == ["code.0"]
    kept.release()
    assert kept.add("code.large", LARGEST // 4) == [f"code.{number}" for number in range(1, 5)]
