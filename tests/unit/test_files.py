"""``File`` before it is sent and after it has come: what is checked, and how pickles refer to files."""

from __future__ import annotations

import copy
import hashlib
import io
import os
import pickle
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubefunc import File
from kubefunc.backends.kubernetes.api.exec_errors import StreamGarbled
from kubefunc.backends.kubernetes.api.file_transfer import FileBuffer, FileDamaged
from kubefunc.backends.kubernetes.attempts.file_receipt import FileReceipts
from kubefunc.errors import FileError, ResultCorruptedError, SerializationError
from kubefunc.landing import Landing, safe_name
from kubefunc.packing.payload import Packer
from kubefunc.runner.protocol import file as protocol
from kubefunc.runner.protocol.wire import split_payload

PACKERS = [Packer.for_cluster, Packer.for_local]


def work(*args: object, **kwargs: object) -> None:
    """A function to pack."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A file of the caller's."""
    path = tmp_path / "data.csv"
    path.write_text("x\n")
    return path


# --- the object


def test_a_file_is_a_path(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It works wherever Python takes a path; a relative one means the working directory of its making."""
    monkeypatch.chdir(data.parent)
    file = File("data.csv")
    monkeypatch.chdir("/")
    assert os.fspath(file) == str(data)
    assert file.path == data
    assert (file.name, file.size) == ("data.csv", 2)
    with open(file) as opened:
        assert opened.read() == "x\n"
    assert repr(file) == f"File({str(data)!r})"


def test_what_is_no_path_is_refused() -> None:
    """An open file, or bytes."""
    with pytest.raises(TypeError, match="PathLike"):
        File(io.BytesIO())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="as text"):
        File(b"data.csv")  # type: ignore[arg-type]


def test_a_file_need_not_exist_before_it_is_sent(tmp_path: Path) -> None:
    """A function names the file that it will write, and writes it."""
    file = File(tmp_path / "new.txt")
    with file.open("w") as opened:
        opened.write("text")
    assert file.size == 4


def test_copies_on_this_machine(data: Path) -> None:
    """copy and deepcopy give the same object, a pickle of your own refers to the same path."""
    file = File(data)
    assert copy.copy(file) is file
    assert copy.deepcopy([file])[0] is file
    assert pickle.loads(pickle.dumps(file)).path == data


# --- before it is sent


@pytest.mark.parametrize("packer", PACKERS)
def test_what_cannot_be_sent_is_told_before(packer: object, tmp_path: Path) -> None:
    """A missing file, a folder, a socket: the message says which argument it is in, which file, and why."""
    pack = packer().pack  # type: ignore[operator]
    with pytest.raises(FileError, match=r"kwargs\['model'\]\[0\] is File\('.*/gone'\), which does not exist") as caught:
        pack(work, (1,), {"model": [File(tmp_path / "gone")]})
    assert isinstance(caught.value, SerializationError)
    assert os.getcwd() in str(caught.value)
    with pytest.raises(FileError, match=r"args\[0\] is File\(.*\), which is a folder.*make_archive"):
        pack(work, (File(tmp_path),))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        with pytest.raises(FileError, match="which is no ordinary file"):
            pack(work, (File(tmp_path / "socket"),))


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_told_before(data: Path) -> None:
    """With the system's reason."""
    data.chmod(0)
    with pytest.raises(FileError, match="cannot be read: Permission denied"):
        Packer.for_cluster().pack(work, (File(data),))


def test_an_item_with_a_missing_file_is_named(data: Path) -> None:
    """As any other item that does not pickle."""
    with pytest.raises(FileError, match=r"items\[1\] is File\("):
        Packer.for_cluster().pack_map(work, [(File(data),), (File("/nowhere/x"),)])


def test_a_file_travels_once_however_often_it_is_named(data: Path) -> None:
    """For a cluster it has a number; what all items share names its own files, and each item its own."""
    other = data.with_name("other.csv")
    other.write_text("y\n")
    payload, items = Packer.for_cluster().pack_map(
        work, [(File(data),), (File(other), File(data)), (1,)], {"shared": File(data)}
    )
    assert [sent.path for sent in payload.files] == [str(data), str(other)]
    assert payload.used_files == [0]
    assert [protocol.numbers_in(item) for item in items] == [[0], [1, 0], []]
    assert protocol.numbers_in(split_payload(payload.data)[1]) == [0]


def test_what_is_in_a_pickle_for_a_file(data: Path) -> None:
    """Its number and name, nothing of its content: the program that loads it says where the file is."""
    (item,) = Packer.for_cluster().pack_map(work, [(File(data),)])[1]
    assert len(item) < 200
    places = []

    def locate(number: int, name: str) -> File:
        places.append((number, name))
        return File("/there")

    assert protocol.Unpickler(item, locate).load()[0].path == Path("/there")
    assert places == [(0, "data.csv")]
    with pytest.raises(pickle.UnpicklingError, match=r"'data\.csv'"):
        pickle.loads(item)


@given(st.lists(st.integers(0, 2**32 - 1), max_size=20), st.binary(max_size=50))
def test_the_numbers_behind_a_pickle(numbers: list[int], value: bytes) -> None:
    """They are read without the pickle, which loads as if they were not there."""
    packed = protocol.with_numbers(pickle.dumps(value), numbers)
    assert protocol.numbers_in(packed) == numbers
    assert pickle.loads(packed) == value
    assert (packed[-1:] == pickle.STOP) is not bool(numbers)


def test_a_file_that_changes_after_the_call_was_made(data: Path) -> None:
    """Another content, another size or another file under its name: it is not sent then."""
    (sent,) = Packer.for_cluster().pack(work, (File(data),)).files
    sent.check(data.stat())
    os.utime(data, ns=(1, 1))
    with pytest.raises(FileError, match="has changed since the call was made"):
        sent.check(data.stat())


# --- after it has come


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("model.bin", "model.bin"),
        ("../../etc/passwd", "passwd"),
        ("..", "file"),
        ("", "file"),
        ("a/b\\c", "c"),
        ("nul\0l", "null"),
        ("é" * 200, "é" * 127),
    ],
)
def test_a_name_cannot_lead_out_of_its_folder(said: str, name: str) -> None:
    """A function may have written anything into its result."""
    assert len(os.fsencode(safe_name(said))) <= 255
    assert safe_name(said).endswith(name)
    assert "/" not in safe_name(said)


def test_a_file_that_is_not_among_those_that_came() -> None:
    """A result that names more files than came with it is an error, and nothing else happens."""
    landing = Landing()
    with pytest.raises(FileNotFoundError):
        landing.locate(7, "x")


def buffer_of(path: Path, content: bytes, *, sha256: str | None = None) -> FileBuffer:
    """For a file with this content."""
    return FileBuffer(str(path), len(content), sha256 or hashlib.sha256(content).hexdigest())


def test_a_file_comes_in_pieces_and_is_checked(tmp_path: Path) -> None:
    """On disk as it comes; its digest is the one that was signed, or it does not count."""
    buffer = buffer_of(tmp_path / "file", b"abcdef")
    with buffer:
        buffer.announce(6, 0)
        buffer.add(memoryview(b"abc"))
    assert (tmp_path / "file").read_bytes() == b"abc"
    with buffer:
        buffer.announce(6, 3)
        buffer.add(memoryview(b"def"))
    assert buffer.complete
    buffer.check()
    with buffer_of(tmp_path / "file", b"abc", sha256="0" * 64) as wrong:
        wrong.add(memoryview(b"abc"))
    with pytest.raises(FileDamaged, match="sha256"):
        wrong.check()


def test_a_file_of_another_size_than_signed(tmp_path: Path) -> None:
    """Told before a byte of it is taken; more bytes than announced are told, too."""
    buffer = buffer_of(tmp_path / "file", b"abc")
    with pytest.raises(FileDamaged, match="expected"):
        buffer.announce(4, 0)
    with pytest.raises(StreamGarbled, match="more than the 3 bytes"):
        buffer.add(memoryview(b"abcd"))


@pytest.mark.parametrize("listed", [7, [7], [["x", "y"]], [[1, 2, 3]]])
def test_a_list_of_files_that_makes_no_sense(listed: object) -> None:
    """Signed all the same, by a function that has the key: a damaged result."""
    with pytest.raises(ResultCorruptedError):
        FileReceipts("f-abc").fetch({"files": listed}, "body", lambda name, offset: pytest.fail(name))


def test_files_without_a_stream() -> None:
    """What came by the Pod's status or log has none, whatever it says."""
    with pytest.raises(ResultCorruptedError, match="without the files"):
        FileReceipts("f-abc").fetch({"files": [[1, ""]]}, "body", None)
